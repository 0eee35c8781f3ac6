"""A table of labelled photos (CSV file, DataFrame) → a manifest."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from headstart.data.addresses import is_waiting, locate, map_waiting
from headstart.data.scan import Manifest, Problem, Sample, read_sample, scan_folder
from headstart.data.sides import SIDES
from headstart.data.targets import SEPARATOR, normalise_label
from headstart.errors import DatasetError, did_you_mean
from headstart.task import CLASSIFICATION, MULTILABEL, REGRESSION, Task

_REQUIRED, _SPLIT, _GROUP = ("path", "label"), "split", "group"


def scan_source(
    source: str | Path | Any, group_by: str | None = None, task: Task = CLASSIFICATION
) -> Manifest:
    """The manifest of a folder with one folder per class, of a CSV file, or of a DataFrame.

    Args:
        source: One of these.
        group_by: Which photos belong together: for a folder a regular expression, see
            `headstart.data.groups.find_groups`, for a table the name of a column.
        task: What the labels are. Folders only say classes.

    Raises:
        DatasetError: It does not exist, or is none of them; or ``group_by`` or the task does not
            fit it.
    """
    if hasattr(source, "columns") and hasattr(source, "to_dict"):
        return scan_table(source, group_by=group_by, task=task)
    if not isinstance(source, (str, Path)):
        raise DatasetError(
            f"{type(source).__name__} is no source of labelled photos; accepted are a folder, a "
            "CSV file, a DataFrame, or two lists: fit(photos, labels)."
        )
    path = locate(source)
    if path.suffix.lower() == ".csv":
        return scan_table(path, group_by=group_by, task=task)
    if task is not CLASSIFICATION:
        needed = "numbers" if task is REGRESSION else "labels, such as big;red"
        raise DatasetError(
            f"{path} is no CSV file: folders say one class of each photo, and the task {task.name} "
            f"needs a table with the columns path and label, the latter with {needed}."
        )
    return scan_folder(path, group_by=group_by)


def scan_table(
    table: str | Path | Any,
    folder: Path | None = None,
    group_by: str | None = None,
    task: Task = CLASSIFICATION,
) -> Manifest:
    r"""The manifest of a table with columns ``path``, ``label``, optionally ``split``, ``group``.

    ``split`` is train, validation or test, or empty. Photos with the same ``group`` stay on one
    side of the split; without one a photo is on its own. A row that cannot be used is a problem
    with its reason; the others go on.

    Args:
        table: A CSV file (UTF-8, with a header), or an object with ``columns`` and ``to_dict`` such
            as a pandas DataFrame.
        folder: What relative paths are relative to; by default the CSV file's folder, or the
            working folder.
        group_by: The column that has the groups; by default ``group``, where there is one.
        task: What the column ``label`` has: a class, several labels (``big;red``; empty: none of
            them), or a number.

    Raises:
        DatasetError: The file cannot be read, or a column is missing.

    >>> import tempfile
    >>> root = Path(tempfile.mkdtemp())
    >>> _ = (root / "a.jpg").write_bytes(b"any bytes")
    >>> _ = (root / "photos.csv").write_text("path,label\na.jpg,cat\nb.jpg,dog\n")
    >>> manifest = scan_table(root / "photos.csv")
    >>> manifest.class_names, manifest.problems[0].reason
    (('cat',), 'cannot be read: No such file or directory')
    """
    if isinstance(table, (str, Path)):
        table = locate(table)
        columns, rows = _read_csv(table)
        folder = folder or table.parent
    else:
        columns, rows = [str(column) for column in table.columns], table.to_dict("records")
    _check_columns(columns, group_by)
    samples: list[Sample] = []
    problems: list[Problem] = []
    by, numbered = group_by or _GROUP, enumerate(rows, start=2)  # the header is line 1
    read = (_parse_row(row, number, folder or Path(), by, task) for number, row in numbered)
    for found in map_waiting(_read_row, read):
        (samples if isinstance(found, Sample) else problems).append(found)  # type: ignore[arg-type]
    warnings = tuple(_describe_labels(samples)) if task is CLASSIFICATION else ()
    return Manifest(tuple(samples), tuple(problems), warnings, task)


def _describe_labels(samples: Iterable[Sample]) -> Iterator[str]:
    """A sentence where photos seem to have several labels."""
    found = [sample.label for sample in samples if SEPARATOR in sample.label]
    if found:
        yield (
            f"{len(found)} labels have a {SEPARATOR!r} and are taken for classes, such as "
            f"{found[0]!r}. Several labels of a photo are the task multilabel "
            '(--task multilabel, ImageClassifier(task="multilabel")).'
        )


def _read_csv(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    try:
        # Spreadsheets write a byte order mark; "utf-8-sig" takes it off.
        text = io.StringIO(path.read_bytes().decode("utf-8-sig"), newline="")
        reader = csv.DictReader(text)
        rows = list(reader)
        return list(reader.fieldnames or []), rows
    except OSError as error:
        why = error.strerror or error
        raise DatasetError(f"The table {path} cannot be read: {why}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(
            f"The table {path} is not a CSV file in UTF-8: {error}. Save it as CSV (UTF-8)."
        ) from error


def _check_columns(columns: list[str], group_by: str | None) -> None:
    has = f"It has: {', '.join(columns) or 'no columns'}."
    for needed in _REQUIRED:
        if needed not in columns:
            raise DatasetError(
                f"The table has no column {needed!r}.{did_you_mean(needed, columns)} {has} "
                "Needed: path, label; optional: split, group."
            )
    if group_by is not None and group_by not in columns:
        raise DatasetError(
            f"The table has no column {group_by!r} to group by.{did_you_mean(group_by, columns)} "
            f"{has} Give the name of one (regular expressions are for folders)."
        )


# A file, its label, side and group; or what is wrong with the row.
_Row = tuple[Path, str, str | None, str | None] | Problem


def _parse_row(row: Mapping[str, Any], number: int, folder: Path, by: str, task: Task) -> _Row:
    name, side, group = (_text(row.get(column)) for column in ("path", _SPLIT, by))
    if not name:
        return Problem(Path(f"row {number}"), "no path")
    path = locate(name) if is_waiting(name) else locate(folder / name)
    cell = row.get("label")
    try:
        label = normalise_label(cell if _has_several(cell, task) else _text(cell), task)
    except (ValueError, DatasetError) as error:
        return Problem(path, str(error))
    if side and side.lower() not in SIDES:
        return Problem(path, f"split is {side!r}; accepted are train, validation and test")
    return path, label, SIDES[side.lower()] if side else None, group or None


def _read_row(row: _Row) -> Sample | Problem:
    if isinstance(row, Problem):
        return row
    path, label, side, group = row
    found = read_sample(path, label, side)
    return replace(found, group=group) if isinstance(found, Sample) else found


def _has_several(cell: Any, task: Task) -> bool:
    """Whether the cell of a DataFrame is a list of labels; files of Parquet give arrays."""
    return task is MULTILABEL and isinstance(cell, (list, tuple, set, frozenset, np.ndarray))


def _text(value: Any) -> str:
    if isinstance(value, np.ndarray):  # as the text of a list
        value = value.tolist()
    # A missing cell of a DataFrame is NaN, which is not equal to itself; or pandas.NA, which is
    # neither equal nor unequal.
    try:
        is_missing = value is None or bool(value != value)  # noqa: PLR0124
    except TypeError:
        is_missing = True
    return "" if is_missing else str(value).strip()
