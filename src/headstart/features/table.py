"""Features as files: a ``.npy`` array, and a CSV that says which photo each row is."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from headstart.bundle import check_output
from headstart.errors import OutputExistsError
from headstart.features.extract import CachedFeatures
from headstart.files import atomic_write, dump_table, write_bytes

# Rows that are in memory at once.
_ROWS = 1024


def check_features_output(path: Path, force: bool) -> None:
    """Refuse, before any work, outputs that cannot be written.

    Raises:
        OutputExistsError, BundleError: See `headstart.bundle.check_output`; or both would have
            the same name.
    """
    table = path.with_suffix(".csv")
    if table == path:
        raise OutputExistsError(
            f"{path} is the name of the table that goes beside the array. Give it the suffix .npy."
        )
    check_output(path, force)
    check_output(table, force)


def save_features(features: CachedFeatures, path: Path, *, force: bool = False) -> Path:
    """Write ``path`` (``(sample, feature)`` float16) and, beside it, a CSV ``row,path,label``.

    Returns:
        The path of the CSV.

    Raises:
        OutputExistsError: One of them exists and ``force`` is not set.
        HeadstartError: They cannot be written.
    """
    check_features_output(path, force)
    samples = features.samples
    header = {"shape": (len(samples), *features.shape), "fortran_order": False, "descr": "<f2"}
    with atomic_write(path) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, len(samples), _ROWS):
            rows = features.read(samples[start : start + _ROWS])
            file.write(np.ascontiguousarray(rows, "<f2").data)
    named = (
        {"row": row, "path": sample.path, "label": sample.label}
        for row, sample in enumerate(features.samples)
    )
    table = path.with_suffix(".csv")
    write_bytes(table, dump_table(("row", "path", "label"), named))
    return table
