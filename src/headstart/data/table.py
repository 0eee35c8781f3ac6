"""A table of labelled photos (CSV file, DataFrame) → a manifest."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from headstart.data.scan import SIDES, Manifest, Problem, Sample, read_sample, scan_folder
from headstart.errors import DatasetError, did_you_mean

_REQUIRED, _OPTIONAL = ("path", "label"), ("split",)


def scan_source(source: str | Path | Any) -> Manifest:
    """The manifest of a folder with one folder per class, of a CSV file, or of a DataFrame.

    Raises:
        DatasetError: It does not exist, or is none of them.
    """
    if hasattr(source, "columns") and hasattr(source, "to_dict"):
        return scan_table(source)
    if not isinstance(source, (str, Path)):
        raise DatasetError(
            f"{type(source).__name__} is no source of labelled photos; accepted are a folder, a "
            "CSV file, a DataFrame, or two lists: fit(photos, labels)."
        )
    path = Path(source)
    return scan_table(path) if path.suffix.lower() == ".csv" else scan_folder(path)


def scan_table(table: str | Path | Any, folder: Path | None = None) -> Manifest:
    r"""The manifest of a table with the columns ``path``, ``label`` and optionally ``split``.

    ``split`` is train, validation or test, or empty. A row that cannot be used is a problem with
    its reason; the others go on.

    Args:
        table: A CSV file (UTF-8, with a header), or an object with ``columns`` and ``to_dict`` such
            as a pandas DataFrame.
        folder: What relative paths are relative to; by default the CSV file's folder, or the
            working folder.

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
        return _scan_rows(*_read_csv(Path(table)), folder or Path(table).parent)
    columns = [str(column) for column in table.columns]
    return _scan_rows(columns, table.to_dict("records"), folder or Path())


def _read_csv(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    try:
        # Spreadsheets write a byte order mark; "utf-8-sig" takes it off.
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            return list(reader.fieldnames or []), rows
    except OSError as error:
        raise DatasetError(f"The table {path} cannot be read: {error.strerror}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(
            f"The table {path} is not a CSV file in UTF-8: {error}. Save it as CSV (UTF-8)."
        ) from error


def _scan_rows(columns: list[str], rows: Iterable[Mapping[str, Any]], folder: Path) -> Manifest:
    for needed in _REQUIRED:
        if needed not in columns:
            raise DatasetError(
                f"The table has no column {needed!r}.{did_you_mean(needed, columns)} It has: "
                f"{', '.join(columns) or 'no columns'}. Needed: path, label; optional: split."
            )
    samples: list[Sample] = []
    problems: list[Problem] = []
    for number, row in enumerate(rows, start=2):  # the header is line 1
        found = _scan_row(row, number, folder)
        if isinstance(found, Sample):
            samples.append(found)
        else:
            problems.append(found)
    return Manifest(tuple(samples), tuple(problems))


def _scan_row(row: Mapping[str, Any], number: int, folder: Path) -> Sample | Problem:
    name, label, side = (_text(row.get(column)) for column in (*_REQUIRED, *_OPTIONAL))
    if not name:
        return Problem(Path(f"row {number}"), "no path")
    path = folder / name
    if not label:
        return Problem(path, "no label")
    if side and side.lower() not in SIDES:
        return Problem(path, f"split is {side!r}; accepted are train, validation and test")
    return read_sample(path, label, SIDES[side.lower()] if side else None)


def _text(value: Any) -> str:
    # A missing cell of a DataFrame is NaN, which is not equal to itself.
    return "" if value is None or value != value else str(value).strip()  # noqa: PLR0124
