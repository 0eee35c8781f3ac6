"""Files: digests, atomic writes, free space, and where the user's cache lives."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from headstart.errors import CacheError, HeadstartError


def digest_bytes(*parts: bytes | memoryview) -> str:
    """The sha256 of some bytes, one part after the other, in hexadecimal.

    >>> digest_bytes(b"")[:12]
    'e3b0c44298fc'
    """
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()


def digest_file(path: Path) -> str:
    """The sha256 of a file's bytes, read in pieces.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """The folder of Headstart's cache: ``HEADSTART_CACHE``, else the user's cache folder.

    The folder is created when it is missing.

    Raises:
        CacheError: It cannot be created, or is not a folder.
    """
    named = os.environ.get("HEADSTART_CACHE")
    if named:
        folder = Path(named).expanduser()
    else:
        import platformdirs

        folder = Path(platformdirs.user_cache_dir("headstart", appauthor=False))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CacheError(
            f"The cache folder {folder} cannot be created ({error.strerror}). "
            "Set the environment variable HEADSTART_CACHE to a folder that can be written."
        ) from error
    return folder


def free_bytes(folder: Path) -> int:
    """Free bytes on the file system that holds ``folder``."""
    return shutil.disk_usage(folder).free


def _sync_folder(folder: Path) -> None:
    # A rename is durable only once the folder itself is on disk. Windows cannot open folders;
    # there the rename is durable by NTFS's journal. Some network file systems refuse to sync a
    # folder, but the new file is complete and in place by then: that is no failure.
    if os.name == "nt":  # pragma: no cover
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary sibling of ``path`` for writing; on success it becomes ``path``.

    The bytes are on disk (fsync of file and folder) before the new name exists, so that a kill at
    any moment leaves either the old file or the new one. On any error the temporary file goes.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with atomic_write(folder / "a.txt") as file:
    ...     _ = file.write(b"whole")
    >>> (folder / "a.txt").read_bytes(), len(list(folder.iterdir()))
    (b'whole', 1)

    Raises:
        HeadstartError: The file cannot be written (full disk, permission), with the path.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise HeadstartError(_write_failure(path, error)) from error
        raise


# A file that nobody has written to for this long is not being written.
_STALE_SECONDS = 3600.0


def is_temporary(name: str, path: Path) -> bool:
    """Whether a file of this name is one that `atomic_write` makes for ``path``.

    >>> is_temporary(".a.csv.17.0123abcd.tmp", Path("a.csv"))
    True
    """
    return bool(re.fullmatch(rf"\.{re.escape(path.name)}\.\d+\.[0-9a-f]{{8}}\.tmp", name))


def sweep_temporary(path: Path) -> None:
    """Remove what killed writes of ``path`` have left beside it, an hour after they ended.

    Only names of `atomic_write` for this very path are touched; another process that is writing it
    right now keeps its file.
    """
    with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            if is_temporary(entry.name, path) and entry.is_file(follow_symlinks=False):
                with contextlib.suppress(OSError):
                    if time.time() - entry.stat().st_mtime > _STALE_SECONDS:
                        Path(entry.path).unlink()


def dump_table(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> bytes:
    r"""A CSV file; None is an empty cell, and names that are not UTF-8 keep their bytes.

    >>> dump_table(["path", "label"], [{"path": "a.jpg", "label": None}])
    b'path,label\na.jpg,\n'
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)  # which writes None as nothing
    return text.getvalue().encode(errors="surrogateescape")


def make_folder(path: Path) -> Path:
    """A folder to write into, with those around it; it may be there already.

    Raises:
        HeadstartError: It cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HeadstartError(
            f"{path} cannot be made a folder: {error.strerror or error}. Choose another with -o."
        ) from error
    return path


def write_bytes(path: Path, *parts: bytes | memoryview) -> None:
    """Write a whole file atomically, one part after the other; see `atomic_write`."""
    with atomic_write(path) as file:
        for part in parts:
            file.write(part)


def _write_failure(path: Path, error: OSError) -> str:
    with contextlib.suppress(OSError):
        return (
            f"{path} could not be written: {error.strerror or error}. "
            f"{free_bytes(path.parent) / 1e6:,.0f} MB are free there. "
            "Nothing was left half-written; free some space or choose another folder and run again."
        )
    return f"{path} could not be written: {error.strerror or error}. Choose another folder."
