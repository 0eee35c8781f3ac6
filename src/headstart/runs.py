"""The record of a training: a folder beside the bundle, for the report and for comparisons.

::

    run.json           recipe, history of every epoch, evaluation, trust, problems, warnings,
                       seconds, environment, and the digests of the other files
    predictions.csv    what was answered for each test photo
    split.csv          who was trained on and who was tested; ``headstart train`` reads it

A bundle can be given away: it names no files. A run folder names them, and stays.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from headstart.bundle import WEIGHTS, Bundle, load_bundle
from headstart.data.addresses import locate
from headstart.errors import OutputExistsError, RunError
from headstart.files import digest_bytes, dump_table, is_temporary, write_bytes

FORMAT = 1
RECORD, PREDICTIONS, SPLIT = "run.json", "predictions.csv", "split.csv"
SUFFIX = ".run"

_SPLIT_COLUMNS = ("path", "label", "split", "group", "digest")


@dataclass(frozen=True)
class Answered:
    """What was answered for one test photo.

    Attributes:
        path: Of the photo.
        digest: sha256 of its bytes.
        group: What it belongs to, such as its near duplicates.
        label: Its true class.
        answer: The most probable class.
        probability: Its probability.
        truth_probability: That of the true class.
        is_sure: Whether the answer is confident enough; None where that is not known.
        novelty: Distance from the training photos as a multiple of what is usual; None likewise.
    """

    path: Path
    digest: str
    group: str
    label: str
    answer: str
    probability: float
    truth_probability: float
    is_sure: bool | None = None
    novelty: float | None = None

    @property
    def is_right(self) -> bool:
        """Whether the answer is the true label."""
        return self.answer == self.label


@dataclass(frozen=True)
class Run:
    """A training as it is recorded.

    Attributes:
        record: What ``run.json`` holds, without format and digests.
        answers: One per test photo.
        split: Rows of ``split.csv``: path, label, split, group, digest.
        folder: Where it was read from, if it was.
    """

    record: dict[str, Any]
    answers: tuple[Answered, ...] = ()
    split: tuple[Mapping[str, str], ...] = field(default=(), repr=False)
    folder: Path | None = None

    @property
    def name(self) -> str:
        """Of the folder, without its suffix."""
        return self.folder.name.removesuffix(SUFFIX) if self.folder else "this run"


def name_run(bundle: Path) -> Path:
    """The run folder of a bundle.

    >>> name_run(Path("flowers.headstart")).name
    'flowers.run'
    """
    return bundle.with_name(bundle.name.removesuffix(".headstart") + SUFFIX)


def name_bundle(folder: Path) -> Path:
    """The bundle that a run folder lies beside, if it is where it was written.

    >>> name_bundle(Path("flowers.run")).name
    'flowers.headstart'
    """
    return folder.with_name(folder.name.removesuffix(SUFFIX) + ".headstart")


def save_run(run: Run, folder: Path, *, force: bool = False) -> Path:
    """Write a run folder; each file is replaced as a whole.

    Raises:
        OutputExistsError: It is there and ``force`` is not set, or it is something else.
        HeadstartError: It cannot be written.
    """
    check_run_output(folder, force)
    folder.mkdir(exist_ok=True)
    texts = {
        PREDICTIONS: dump_table([f.name for f in fields(Answered)], map(asdict, run.answers)),
        SPLIT: dump_table(_SPLIT_COLUMNS, run.split),
    }
    for name, data in texts.items():
        write_bytes(folder / name, data)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    digests = {name: digest_bytes(data) for name, data in texts.items()}
    record = {"format": FORMAT, "created": created, **run.record, "files": digests}
    write_bytes(folder / RECORD, json.dumps(record, indent=1, default=str).encode())
    return folder


def check_run_output(folder: Path, force: bool) -> None:
    """Refuse, before any work, a run folder that cannot be written.

    Raises:
        OutputExistsError: See `save_run`.
        RunError: The folder around it does not exist.
    """
    if not folder.parent.is_dir():
        raise RunError(f"The folder {folder.parent} does not exist. Create it, or choose another.")
    if not folder.exists() or _is_begun(folder):
        return
    if not (folder / RECORD).is_file():
        raise OutputExistsError(
            f"{folder} exists and is no record of a run. Move it, or choose another name."
        )
    if not force:
        raise OutputExistsError(
            f"{folder} exists already. Choose another name, or overwrite it with --force."
        )


def _is_begun(folder: Path) -> bool:
    """Whether it is empty, or what a process left that was killed before it wrote the record."""
    if not folder.is_dir() or (folder / RECORD).exists():
        return False
    ours = [folder / name for name in (PREDICTIONS, SPLIT, RECORD)]
    return all(
        any(found == path or is_temporary(found.name, path) for path in ours)
        for found in folder.iterdir()
    )


def load_run(path: Path) -> Run:
    """The record of a run, by its folder or by the bundle beside it.

    Raises:
        RunError: There is none, it is damaged, was written by a newer Headstart, or is of another
            training than the bundle.
        BundleError: The bundle is damaged.
    """
    folder = path if (path / RECORD).is_file() else name_run(path)
    try:
        record = json.loads((folder / RECORD).read_bytes())
        texts = {name: (folder / name).read_bytes() for name in (PREDICTIONS, SPLIT)}
    except FileNotFoundError as error:
        raise RunError(
            f"{path} has no record of its training: {folder / RECORD} or what belongs to it is not "
            "there. `headstart train` writes it beside the bundle; a bundle that was moved needs "
            "its folder, too."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{folder / RECORD} cannot be read: {error}.") from error
    _check_record(folder, record, texts)
    try:
        answers = tuple(_read_answer(row) for row in _parse_rows(texts[PREDICTIONS]))
        split = tuple(_parse_rows(texts[SPLIT]))
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise RunError(f"{folder / PREDICTIONS} is damaged: {error}.") from error
    run = Run(record, answers, split, folder)
    if path != folder and path.exists():
        check_bundle(load_bundle(path), run)
    return run


def check_bundle(bundle: Bundle, run: Run) -> None:
    """Refuse to describe a bundle by the record of another training.

    Raises:
        RunError: They do not belong together.
    """
    if bundle.manifest["members"][WEIGHTS]["sha256"] != run.record.get("weights"):
        raise RunError(
            f"{run.folder} is the record of another training than that of {bundle.path}. Train "
            "again, or put the folder that belongs to it beside it."
        )


def _check_record(folder: Path, record: Any, texts: Mapping[str, bytes]) -> None:
    number = record.get("format") if isinstance(record, dict) else None
    if type(number) is not int:
        raise RunError(f"{folder / RECORD} is not the record of a run: it has no format number.")
    if number > FORMAT:
        raise RunError(
            f"{folder} has the format {number}; this Headstart reads up to {FORMAT}. "
            "Install a newer one: pip install --upgrade headstart"
        )
    digests = record.get("files")
    for name, data in texts.items():
        if not isinstance(digests, dict) or digests.get(name) != digest_bytes(data):
            raise RunError(
                f"{folder / name} is not what was written beside {RECORD}: its digest differs. "
                "Train again to write both."
            )


def _parse_rows(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode(errors="surrogateescape"), newline="")))


def _read_answer(row: Mapping[str, str]) -> Answered:
    return Answered(
        locate(row["path"]),
        row["digest"],
        row["group"],
        row["label"],
        row["answer"],
        float(row["probability"]),
        float(row["truth_probability"]),
        row["is_sure"] == "True" if row["is_sure"] else None,
        float(row["novelty"]) if row["novelty"] else None,
    )
