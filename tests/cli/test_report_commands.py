"""``headstart report`` and ``headstart compare``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from headstart import ImageClassifier
from headstart.cli.commands import app
from headstart.training.network import Network


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [*map(str, arguments)])


@pytest.fixture(scope="module")
def folder(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs on the same split by the command; a third with other test photos."""
    folder = tmp_path_factory.mktemp("runs")
    first = ["train", digits_folder, "-o", folder / "first.headstart"]
    assert run(*first).exit_code == 0
    tuned = ["--recipe", "tune", "--unfreeze", "last_block", "--epochs", "2", "--learning-rate"]
    assert run(*first[:-1], folder / "tuned.headstart", *tuned, "1e-4").exit_code == 0
    paths = sorted(digits_folder.glob("*/*.png"))
    untested = ImageClassifier().fit(paths, [path.parent.name for path in paths])
    untested.save_run(folder / "untested.run")
    return folder


def test_report_writes_a_page_and_opens_nothing_unasked(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    done = run("report", folder / "first.headstart", "--no-measure")
    assert done.exit_code == 0, done.output
    assert f"wrote {folder / 'first.run' / 'report.html'}" in done.output
    assert opened == []
    page = folder / "page.html"
    assert run("report", folder / "first.run", "-o", page, "--open").exit_code == 0
    assert page.is_file()
    assert opened == [page.as_uri()]


def test_report_of_a_bundle_without_record_is_one_sentence(tmp_path: Path) -> None:
    done = run("report", tmp_path / "a.headstart")
    assert done.exit_code == 1
    assert "has no record of its training" in str(done.exception or done.output)


def test_compare_prints_a_row_per_run(folder: Path) -> None:
    names = ("first.headstart", "tuned.run", "untested.run")
    done = run("compare", *(folder / name for name in names))
    assert done.exit_code == 0, done.output
    text = " ".join(done.output.split())
    assert "first" in text
    assert "tune (last_block" in text
    assert "untested" in text


def test_a_run_that_was_stopped_is_not_called_tuned(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Network, "train_step", interrupt)
    stopped = run("train", digits_folder, "-o", tmp_path / "stopped.headstart", "--recipe", "tune")
    assert stopped.exit_code == 0, stopped.output
    text = " ".join(stopped.output.split())
    assert "Fine-tuning was stopped; run again to go on where it was" in text
    assert "The result is the head on the frozen network." in text
    compared = run("compare", tmp_path / "stopped.headstart", tmp_path / "stopped.run")
    assert "tune (not finished: the probe)" in " ".join(compared.output.split())


def test_compare_measures_the_gain_on_shared_photos(folder: Path) -> None:
    done = run("compare", folder / "first.run", folder / "tuned.run", folder / "untested.run")
    told = run(
        "compare", folder / "first.run", folder / "tuned.run", folder / "untested.run", "--json"
    )
    first, tuned, untested = json.loads(told.stdout)["runs"]
    assert first["against_first"] is None
    assert untested["against_first"] is None
    gain = tuned["evaluation"]["accuracy"]["value"] - first["evaluation"]["accuracy"]["value"]
    against = tuned["against_first"]
    assert against["photos"] == first["evaluation"]["photos"]
    assert against["difference"]["value"] == pytest.approx(gain)
    assert against["difference"]["low"] <= gain <= against["difference"]["high"]
    assert f"{100 * gain:+.1f}" in done.output


def test_a_worse_run_has_a_negative_gain(folder: Path) -> None:
    one, other = folder / "first.run", folder / "tuned.run"
    ways = [
        json.loads(run("compare", *pair, "--json").stdout)["runs"][1]["against_first"]
        for pair in ((one, other), (other, one))
    ]
    assert ways[0]["difference"]["value"] == pytest.approx(-ways[1]["difference"]["value"])


def test_a_record_of_another_training_is_not_compared(folder: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copy(folder / "first.headstart", tmp_path / "first.headstart")
    shutil.copytree(folder / "untested.run", tmp_path / "first.run")
    done = run("compare", tmp_path / "first.headstart", folder / "first.run")
    assert done.exit_code == 1
    assert "is the record of another training" in str(done.exception)
