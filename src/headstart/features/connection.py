"""The index as a database: opened, changed in transactions, its errors as sentences."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from headstart.errors import CacheError
from headstart.features.index import SCHEMA
from headstart.files import cache_folder, free_bytes

FORMAT = 1

# How long to wait for another process that writes to the index.
_WAIT_SECONDS = 60.0


def shards_folder(folder: Path | None = None) -> Path:
    """Where shards and index are, within a cache folder; the user's by default."""
    return (folder or cache_folder()) / f"activations-v{FORMAT}"


def open_index(folder: Path) -> sqlite3.Connection:
    """The index of a folder of shards, made when there is none.

    Raises:
        CacheError: The folder cannot be written, or the index is damaged.
    """
    with translated(folder):
        folder.mkdir(parents=True, exist_ok=True)
        index = sqlite3.connect(folder / "index.sqlite", timeout=_WAIT_SECONDS)
        try:
            _prepare_index(index)
        except BaseException:
            index.close()
            raise
    return index


def _prepare_index(index: sqlite3.Connection) -> None:
    deadline = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            index.execute("PRAGMA journal_mode = WAL")
            index.executescript(SCHEMA)
            return
        except sqlite3.OperationalError as error:
            # Of two processes that make the same index at once, SQLite refuses one immediately:
            # its timeout does not cover the change of the journal mode.
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


@contextlib.contextmanager
def transaction(index: sqlite3.Connection, folder: Path) -> Iterator[None]:
    """All or nothing, and nobody else changes the index meanwhile."""
    with translated(folder), index:
        index.execute("BEGIN IMMEDIATE")
        yield


class DamagedIndexError(CacheError):
    """The index is not one; only a new one helps."""


@contextlib.contextmanager
def translated(folder: Path) -> Iterator[None]:
    """Errors of SQLite and of the operating system as sentences with the folder."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        if type(error) is sqlite3.DatabaseError:  # not a kind of it: "malformed", "not a database"
            raise DamagedIndexError(
                f"The cache in {folder} cannot be used: {error}. Start a new one with: headstart "
                "cache clear. Your photos are not touched; they are computed again."
            ) from error
        free = ""
        with contextlib.suppress(OSError):  # SQLite calls a full disk an "I/O error"
            free = f" ({free_bytes(folder) / 1e6:,.1f} MB are free)"
        raise CacheError(
            f"The cache in {folder} cannot be used: {error}{free}. Free some space there, allow "
            "writing, or set HEADSTART_CACHE to another folder. Your photos are not touched."
        ) from error
