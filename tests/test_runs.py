"""The record of a run: what is written comes back, and what does not belong to it is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from headstart import runs
from headstart.errors import HeadstartError, OutputExistsError, RunError
from headstart.runs import FORMAT, PREDICTIONS, RECORD, SPLIT, Answered, Run, load_run, save_run

NOT_UTF8 = os.fsdecode(b"caf\xe9.jpg")

RUN = Run(
    {"seed": 7, "recipe": {"name": "probe"}},
    (
        Answered(Path(f"/photos/{NOT_UTF8}"), "d1", "g1", "wood", "wood", 0.75, 0.75, True, 0.5),
        Answered(Path('/photos/a,"b"\nc.jpg'), "d2", "g2", "wood", "iron", 1 / 3, 0.1),
    ),
    ({"path": "/photos/é.jpg", "label": "wood", "split": "train", "group": "g", "digest": "d"},),
)


def save(tmp_path: Path, run: Run = RUN) -> Path:
    return save_run(run, tmp_path / "a.run")


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    folder = save(tmp_path)
    found = load_run(folder)
    assert found.answers == RUN.answers
    assert found.split == RUN.split
    assert RUN.record.items() <= found.record.items()
    assert (found.name, found.folder) == ("a", folder)
    assert [answer.is_right for answer in found.answers] == [True, False]


def test_it_is_found_by_its_bundle(tmp_path: Path) -> None:
    folder = save(tmp_path)
    assert load_run(tmp_path / "a.headstart").folder == folder


@pytest.mark.parametrize("name", [PREDICTIONS, SPLIT])
def test_a_changed_file_is_refused(tmp_path: Path, name: str) -> None:
    folder = save(tmp_path)
    (folder / name).write_bytes((folder / name).read_bytes().replace(b"wood", b"iron"))
    with pytest.raises(RunError, match=f"{name} is not what was written"):
        load_run(folder)


def change(folder: Path, **values: Any) -> None:
    record = json.loads((folder / RECORD).read_text())
    (folder / RECORD).write_text(json.dumps({**record, **values}))


def test_a_newer_format_says_what_to_do(tmp_path: Path) -> None:
    folder = save(tmp_path)
    change(folder, format=FORMAT + 1)
    with pytest.raises(RunError, match="pip install --upgrade headstart"):
        load_run(folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": true}', "{" * 100_000])
def test_a_damaged_record_is_refused(tmp_path: Path, text: str) -> None:
    folder = save(tmp_path)
    (folder / RECORD).write_text(text)
    with pytest.raises(RunError):
        load_run(folder)


def test_a_bundle_without_record_says_where_it_should_be(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"flowers\.run.*is not there"):
        load_run(tmp_path / "flowers.headstart")


def test_writing_over_a_run_needs_force(tmp_path: Path) -> None:
    folder = save(tmp_path)
    with pytest.raises(OutputExistsError, match="--force"):
        save(tmp_path)
    save_run(Run({"seed": 8}), folder, force=True)
    assert load_run(folder).record["seed"] == 8


def test_what_a_killed_process_left_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, folder = runs.write_bytes, tmp_path / "a.run"

    def stop(path: Path, *parts: bytes) -> None:
        if path.name == "run.json":
            path.with_name(".run.json.4194303.0123abcd.tmp").write_bytes(b"{")
            raise KeyboardInterrupt
        write(path, *parts)

    monkeypatch.setattr(runs, "write_bytes", stop)
    with pytest.raises(KeyboardInterrupt):
        save_run(Run({"seed": 7}), folder)
    monkeypatch.undo()
    save_run(Run({"seed": 8}), folder)
    assert load_run(folder).record["seed"] == 8


@pytest.mark.parametrize("is_folder", [True, False])
def test_what_is_no_run_is_never_written_over(tmp_path: Path, is_folder: bool) -> None:
    foreign = tmp_path / "a.run"
    if is_folder:
        foreign.mkdir()
        (foreign / "precious.txt").write_text("mine")
    else:
        foreign.write_text("mine")
    with pytest.raises(OutputExistsError, match="is no record of a run"):
        save_run(RUN, foreign, force=True)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(HeadstartError, match="nowhere"):
        save_run(RUN, tmp_path / "nowhere" / "a.run")
