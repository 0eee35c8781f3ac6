"""The activation cache: immutable shards and an index.

A shard is a ``.npy`` file of rows, written to a temporary file, synced and renamed, and never
touched again. The index is a SQLite database in WAL mode; a row of it says which line of which
shard holds the activation of which photo in which *space*. A space is everything else that an
activation depends on: weights, boundary, image size, decode version, dtype, runtime with version.
A photo is the digest of its bytes, so that renaming, relabelling and splitting again cost nothing.

A kill costs the rows that were not yet in a shard. Two processes may use one cache: both may
compute the same rows, the second insert is ignored.
"""

from __future__ import annotations

import contextlib
import io
import json
import secrets
import sqlite3
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.errors import CacheError
from headstart.files import cache_folder, digest_bytes, write_bytes

FORMAT = 1

# A shard is closed at this size, or this age: a kill costs at most so much work.
SHARD_BYTES, SHARD_SECONDS = 64 * 2**20, 15.0

# How long to wait for another process that writes to the index.
_WAIT_SECONDS = 60.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS spaces (id INTEGER PRIMARY KEY, digest TEXT UNIQUE, description TEXT);
CREATE TABLE IF NOT EXISTS shards (
    id INTEGER PRIMARY KEY, space INTEGER REFERENCES spaces, file TEXT UNIQUE, sha256 TEXT,
    rows INTEGER, bytes INTEGER, used REAL);
CREATE TABLE IF NOT EXISTS activations (
    space INTEGER REFERENCES spaces, photo TEXT, view INTEGER, shard INTEGER REFERENCES shards,
    line INTEGER, PRIMARY KEY (space, photo, view)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS activations_by_shard ON activations (shard);
"""


@dataclass(frozen=True)
class Space:
    """What activations of one kind have in common; see the module's text."""

    backbone: str
    weights_digest: str
    boundary: str
    shape: tuple[int, ...]
    image_size: int
    decode_version: int
    runtime: str
    dtype: str = "float16"

    def describe(self) -> str:
        """Canonical JSON: two spaces are the same exactly when these are equal."""
        return json.dumps(self.__dict__, sort_keys=True)


class ActivationCache:
    """Read and append activations of one space.

    >>> import tempfile
    >>> space = Space("net", "00", "pooled", (2,), 224, 1, "onnxruntime 1.0")
    >>> cache = ActivationCache(space, Path(tempfile.mkdtemp()))
    >>> cache.append([("photo", 0)], np.array([[1.0, 2.0]]))
    >>> cache.flush()
    >>> cache.read(["photo"]).tolist(), cache.missing(["photo", "other"])
    ([[1.0, 2.0]], ['other'])
    """

    def __init__(self, space: Space, folder: Path | None = None) -> None:
        self._folder = (folder or cache_folder()) / f"activations-v{FORMAT}"
        self._dtype = np.dtype(space.dtype)
        self._shape = tuple(space.shape)
        self._keys: list[tuple[str, int]] = []
        self._rows: list[npt.NDArray[Any]] = []
        self._opened = time.monotonic()
        self._index = open_index(self._folder)
        description = space.describe()
        with _translated(self._folder), self._index:
            self._index.execute(
                "INSERT OR IGNORE INTO spaces (digest, description) VALUES (?, ?)",
                (digest_bytes(description.encode()), description),
            )
            found = self._index.execute(
                "SELECT id FROM spaces WHERE description = ?", (description,)
            )
            self._space: int = found.fetchone()[0]

    def missing(self, photos: Iterable[str], view: int = 0) -> list[str]:
        """The photos, each once and in order, whose activations are not here."""
        wanted = list(dict.fromkeys(photos))
        found = {photo for photo, _, _ in self._find(wanted, view)}
        return [photo for photo in wanted if photo not in found]

    def read(self, photos: Sequence[str], view: int = 0) -> npt.NDArray[Any]:
        """``(photo, *shape)`` activations in the order asked for.

        Raises:
            CacheError: A photo is not in the cache, or its shard turned out damaged. Damaged
                shards are dropped, so that `missing` names their photos from then on.
        """
        place: dict[str, tuple[int, int]] = {
            photo: (shard, line) for photo, shard, line in self._find(list(set(photos)), view)
        }
        absent = next((photo for photo in photos if photo not in place), None)
        if absent is not None:
            raise CacheError(
                f"The cache holds no activation of the photo {absent[:12]}…; run again."
            )
        by_shard: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for row, photo in enumerate(photos):
            shard, line = place[photo]
            by_shard[shard].append((row, line))
        result = np.empty((len(photos), *self._shape), self._dtype)
        for shard, places in by_shard.items():
            rows, lines = np.array(places).T
            result[rows] = self._open_shard(shard)[lines]
        return result

    def append(self, keys: Iterable[tuple[str, int]], rows: npt.NDArray[Any]) -> None:
        """Add rows for ``(photo, view)`` keys; they are on disk after `flush`, or a full shard."""
        self._keys.extend(keys)
        self._rows.append(np.asarray(rows, self._dtype))
        pending = len(self._keys) * self._dtype.itemsize * int(np.prod(self._shape))
        if pending >= SHARD_BYTES or time.monotonic() - self._opened >= SHARD_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the pending rows as a shard.

        Raises:
            HeadstartError: The disk is full, or the folder cannot be written.
        """
        self._opened = time.monotonic()
        if not self._keys:
            return
        stream = io.BytesIO()
        np.save(stream, np.concatenate(self._rows), allow_pickle=False)
        data = stream.getvalue()
        name = f"{self._space:06d}-{time.time_ns():x}-{secrets.token_hex(4)}.npy"
        write_bytes(self._folder / name, data)
        with _translated(self._folder), self._index:
            shard = self._index.execute(
                "INSERT INTO shards (space, file, sha256, rows, bytes, used) VALUES (?,?,?,?,?,?)",
                (self._space, name, digest_bytes(data), len(self._keys), len(data), time.time()),
            ).lastrowid
            self._index.executemany(
                "INSERT OR IGNORE INTO activations VALUES (?, ?, ?, ?, ?)",
                (
                    (self._space, photo, view, shard, line)
                    for line, (photo, view) in enumerate(self._keys)
                ),
            )
        self._keys, self._rows = [], []

    def drop_damaged(self, photos: Iterable[str], view: int = 0) -> int:
        """Verify the shards that hold these photos; drop the damaged; return how many were."""
        shards = {shard for _, shard, _ in self._find(list(set(photos)), view)}
        damaged = 0
        for shard in shards:
            name, sha256, _ = self._get_shard(shard)
            if not _is_intact(self._folder / name, sha256):
                self._drop(shard)
                damaged += 1
        with _translated(self._folder), self._index:
            self._index.executemany(
                "UPDATE shards SET used = ? WHERE id = ?", ((time.time(), s) for s in shards)
            )
        return damaged

    def close(self) -> None:
        """Close the index; pending rows are not written."""
        self._index.close()

    def _find(self, photos: list[str], view: int) -> Iterator[tuple[str, int, int]]:
        for start in range(0, len(photos), 500):  # SQLite limits the variables of a statement
            part = photos[start : start + 500]
            marks = ",".join("?" * len(part))
            with _translated(self._folder):
                yield from self._index.execute(
                    "SELECT photo, shard, line FROM activations "  # noqa: S608 - only marks
                    f"WHERE space = ? AND view = ? AND photo IN ({marks})",
                    (self._space, view, *part),
                )

    def _open_shard(self, shard: int) -> npt.NDArray[Any]:
        name, _, rows = self._get_shard(shard)
        array: npt.NDArray[Any] | None
        try:
            array = np.lib.format.open_memmap(self._folder / name, mode="r")
        except Exception:  # NumPy raises almost anything on a damaged header
            array = None
        if array is None or array.shape != (rows, *self._shape) or array.dtype != self._dtype:
            self._drop(shard)
            raise CacheError(f"The cache file {self._folder / name} is damaged; run again.")
        return array

    def _get_shard(self, shard: int) -> tuple[str, str, int]:
        """File, sha256 and rows of a shard; no file when another process dropped it."""
        with _translated(self._folder):
            found = self._index.execute(
                "SELECT file, sha256, rows FROM shards WHERE id = ?", (shard,)
            ).fetchone()
        return found or ("", "", 0)

    def _drop(self, shard: int) -> None:
        with _translated(self._folder), self._index:
            self._index.execute("DELETE FROM activations WHERE shard = ?", (shard,))
            self._index.execute("DELETE FROM shards WHERE id = ?", (shard,))


def open_index(folder: Path) -> sqlite3.Connection:
    """The index of a cache folder, made when there is none.

    Raises:
        CacheError: The folder cannot be written, or the index is damaged.
    """
    with _translated(folder):
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
            index.executescript(_SCHEMA)
            return
        except sqlite3.OperationalError as error:
            # Of two processes that make the same index at once, SQLite refuses one immediately:
            # its timeout does not cover the change of the journal mode.
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def describe_cache(folder: Path | None = None) -> list[dict[str, Any]]:
    """What the cache holds: one record per space with its description, rows and bytes."""
    folder = (folder or cache_folder()) / f"activations-v{FORMAT}"
    with contextlib.closing(open_index(folder)) as index, _translated(folder):
        found = index.execute(
            "SELECT description, COUNT(shards.id), SUM(rows), SUM(bytes), MAX(used) FROM spaces "
            "JOIN shards ON shards.space = spaces.id GROUP BY spaces.id ORDER BY MAX(used) DESC"
        ).fetchall()
    return [
        {**json.loads(text), "shards": shards, "photos": rows, "bytes": size, "used": used}
        for text, shards, rows, size, used in found
    ]


def _is_intact(path: Path, sha256: str) -> bool:
    try:
        return digest_bytes(path.read_bytes()) == sha256
    except OSError:
        return False


@contextlib.contextmanager
def _translated(folder: Path) -> Iterator[None]:
    """Errors of SQLite and of the operating system as sentences with the folder."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise CacheError(
            f"The cache in {folder} cannot be used: {error}. Free some space there, allow writing, "
            "or set HEADSTART_CACHE to another folder. Your photos are not touched."
        ) from error
