"""Converted graphs, kept in the user's cache: converting takes seconds and needs TensorFlow.

A file's name is what it was made from and the sha256 of its bytes, so that a damaged one is noticed
and made again. Only the newest `KEPT` stay.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from headstart.errors import HeadstartError
from headstart.files import cache_folder, digest_bytes, write_bytes
from headstart.runtimes import get_version

if TYPE_CHECKING:
    from headstart.runtimes import Computable

KEPT = 8


def graphs_folder() -> Path:
    """Where converted graphs are."""
    return cache_folder() / "graphs"


def get_converted(
    prefix: Computable, suffix: str, packages: tuple[str, ...], convert: Callable[[], bytes]
) -> bytes:
    """The graph of a prefix: from the cache, or converted now and written to it.

    Args:
        prefix: What is converted.
        suffix: Of the file, such as ``".tflite"``.
        packages: The converter; other versions of these convert again.
        convert: Gives the graph.
    """
    versions = {package: get_version(package) for package in packages}
    source = [prefix.weights_digest, prefix.boundary, prefix.image_size, suffix, versions]
    key = digest_bytes(json.dumps(source).encode())[:32]
    folder = graphs_folder()
    for path in folder.glob(f"{key}-*{suffix}"):
        with contextlib.suppress(OSError):
            data = path.read_bytes()
            if path.stem == f"{key}-{digest_bytes(data)}":
                path.touch()
                return data
            path.unlink()
    data = convert()
    with contextlib.suppress(HeadstartError, OSError):  # a full disk: convert again next time
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / f"{key}-{digest_bytes(data)}{suffix}", data)
        _forget_oldest(folder)
    return data


def _forget_oldest(folder: Path) -> None:
    files = [path for path in folder.iterdir() if not path.name.startswith(".")]
    for path in sorted(files, key=lambda path: path.stat().st_mtime)[:-KEPT]:
        path.unlink()
