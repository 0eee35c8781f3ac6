"""The index's tables, and the rules of those who share it: who holds a shard, how shards go.

A run *holds* the shards it has found and written until it has read them; nobody prunes what a
living run holds. A run is alive while its last beat is recent and, where that can be asked, its
process exists. No file locks are needed, which differ by system and by network drive.

Everything here works on an open index, within the caller's transaction.
"""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import time
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart.files import digest_file

if TYPE_CHECKING:
    import sqlite3

SCHEMA = """
CREATE TABLE IF NOT EXISTS spaces (id INTEGER PRIMARY KEY, digest TEXT UNIQUE, description TEXT);
CREATE TABLE IF NOT EXISTS shards (
    id INTEGER PRIMARY KEY, space INTEGER REFERENCES spaces, file TEXT UNIQUE, sha256 TEXT,
    rows INTEGER, bytes INTEGER, used REAL);
CREATE TABLE IF NOT EXISTS activations (
    space INTEGER REFERENCES spaces, photo TEXT, view INTEGER, shard INTEGER REFERENCES shards,
    line INTEGER, PRIMARY KEY (space, photo, view)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS activations_by_shard ON activations (shard);
CREATE TABLE IF NOT EXISTS damages (
    space INTEGER REFERENCES spaces, photo TEXT, reason TEXT,
    PRIMARY KEY (space, photo)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS holds (id TEXT PRIMARY KEY, machine TEXT, process INTEGER, beat REAL);
CREATE TABLE IF NOT EXISTS held (
    hold TEXT REFERENCES holds, shard INTEGER REFERENCES shards,
    PRIMARY KEY (hold, shard)) WITHOUT ROWID;
"""

# A run says this often that it is alive; after so long without a word it counts as dead.
BEAT_SECONDS, LAPSE_SECONDS = 60.0, 600.0


class Hold:
    """The shards that one run needs."""

    def __init__(self, index: sqlite3.Connection) -> None:
        self._index, self._id = index, secrets.token_hex(8)
        self._beaten = -BEAT_SECONDS

    @property
    def is_due(self) -> bool:
        """Whether it is time for the next beat."""
        return time.monotonic() - self._beaten >= BEAT_SECONDS

    def beat(self) -> None:
        """Say that the run is alive."""
        self._index.execute(
            "INSERT OR REPLACE INTO holds VALUES (?, ?, ?, ?)",
            (self._id, name_machine(), os.getpid(), time.time()),
        )
        self._beaten = time.monotonic()

    def add(self, shards: Iterable[int]) -> None:
        """Hold these shards as well."""
        self._index.executemany(
            "INSERT OR IGNORE INTO held VALUES (?, ?)", ((self._id, shard) for shard in shards)
        )

    def release(self) -> None:
        """Hold nothing any more."""
        _release(self._index, self._id)


def find_held(index: sqlite3.Connection) -> set[int]:
    """The shards that living runs hold; the holds of dead runs are forgotten."""
    for hold, *owner in index.execute("SELECT id, machine, process, beat FROM holds").fetchall():
        if not is_alive(*owner):
            _release(index, hold)
    return {shard for (shard,) in index.execute("SELECT shard FROM held")}


def _release(index: sqlite3.Connection, hold: str) -> None:
    index.execute("DELETE FROM held WHERE hold = ?", (hold,))
    index.execute("DELETE FROM holds WHERE id = ?", (hold,))


@cache
def name_machine() -> str:
    """This machine since it was started, and what numbers its processes."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):  # Linux; elsewhere the name must do
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))  # containers number their own
    return " ".join(parts)


def is_alive(machine: str, process: int, beat: float) -> bool:
    """Whether a run may still be going on.

    >>> is_alive(name_machine(), os.getpid(), time.time())
    True
    >>> is_alive(name_machine(), os.getpid(), time.time() - LAPSE_SECONDS - 1)
    False
    """
    if abs(time.time() - beat) > LAPSE_SECONDS:
        return False
    # Only processes of this machine can be asked for; on Windows the question would be a signal.
    if machine != name_machine() or os.name == "nt":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to another user
        return True
    return True


def note_damages(index: sqlite3.Connection, space: int, reasons: Mapping[str, str]) -> None:
    """Remember why photos of a space may be corrupt."""
    index.executemany(
        "INSERT OR REPLACE INTO damages VALUES (?, ?, ?)",
        ((space, photo, reason) for photo, reason in reasons.items()),
    )


def find_damages(index: sqlite3.Connection, space: int) -> dict[str, str]:
    """Photos of a space that may be corrupt, with the reason."""
    found = index.execute("SELECT photo, reason FROM damages WHERE space = ?", (space,))
    return dict(found.fetchall())


def remove_shards(
    index: sqlite3.Connection, folder: Path, shards: Iterable[tuple[int, str]], *, must: bool
) -> set[int]:
    """Remove shards ``(id, file)``; returns those that were still there and are gone now.

    The file goes before its rows: a full disk has no room for changing the index until then. A
    kill in between leaves rows without a file, which counts as a damaged shard.

    Args:
        index: The index.
        folder: Where the files are.
        shards: What to remove.
        must: A file that cannot be removed (another process has it open on Windows) loses its
            rows nevertheless; else it stays as it is.
    """
    removed = set()
    for shard, name in shards:
        try:
            (folder / Path(name).name).unlink(missing_ok=True)
        except OSError:
            if not must:
                continue
        for table in ("activations", "held"):
            index.execute(f"DELETE FROM {table} WHERE shard = ?", (shard,))  # noqa: S608
        if index.execute("DELETE FROM shards WHERE id = ?", (shard,)).rowcount:
            removed.add(shard)
    return removed


def open_rows(path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any] | None:
    """The rows of a shard as a memory map; None when the file is not what it should be."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except Exception:  # NumPy raises almost anything on a damaged header
        return None
    return array if array.shape == shape and array.dtype == dtype else None


def is_intact(path: Path, sha256: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> bool:
    """Whether a shard's file has the bytes that were written, and rows of this shape."""
    try:
        return digest_file(path) == sha256 and open_rows(path, shape, dtype) is not None
    except OSError:
        return False
