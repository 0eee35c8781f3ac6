"""The activation cache: immutable shards and an index.

A shard is a ``.npy`` file of rows, written to a temporary file, synced and renamed, and never
touched again. The index is a SQLite database in WAL mode; a row of it says which line of which
shard holds the activation of which photo in which *space*. A space is everything else that an
activation depends on: weights, boundary, image size, decode version, dtype, runtime with version,
and for augmented views what made them.
A photo is the digest of its bytes, so that renaming, relabelling and splitting again cost nothing.

A kill costs the rows that were not yet in a shard. Two processes may use one cache: both may
compute the same rows, the second insert is ignored. What a run needs it holds, see
`headstart.features.index`; upkeep is in `headstart.features.maintenance`.
"""

from __future__ import annotations

import contextlib
import io
import json
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.errors import CacheError
from headstart.features.connection import open_index, shards_folder, transaction, translated
from headstart.features.index import (
    Hold,
    find_damages,
    is_intact,
    note_damages,
    open_rows,
    remove_shards,
)
from headstart.files import digest_bytes, write_bytes

# A shard is closed at this size, or this age: a kill costs at most so much work.
SHARD_BYTES, SHARD_SECONDS = 4 * 2**20, 15.0


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
    augmentation: str = ""

    def describe(self) -> str:
        """Canonical JSON: two spaces are the same exactly when these are equal."""
        return json.dumps({k: v for k, v in self.__dict__.items() if v != ""}, sort_keys=True)


@dataclass(frozen=True)
class Rows:
    """Activations in the order that was asked for, in memory maps of their shards."""

    shards: list[npt.NDArray[Any]]
    shard_of: npt.NDArray[np.intp]
    line_of: npt.NDArray[np.int64]
    shape: tuple[int, ...]
    dtype: npt.DTypeLike

    def read(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
        """``(row, *shape)`` of some of them."""
        result = np.empty((len(rows), *self.shape), self.dtype)
        shards, lines = self.shard_of[rows], self.line_of[rows]
        for shard in np.flatnonzero(np.bincount(shards)):
            chosen = shards == shard
            result[chosen] = self.shards[shard][lines[chosen]]
        return result


class ActivationCache:
    """Read and append activations of one space.

    >>> import tempfile
    >>> space = Space("net", "00", "pooled", (2,), 224, 1, "onnxruntime 1.0")
    >>> cache = ActivationCache(space, Path(tempfile.mkdtemp()))
    >>> cache.append([("photo", 0)], np.array([[1.0, 2.0]]))
    >>> cache.flush()
    >>> cache.read(["photo"]).tolist(), cache.missing(["photo", "other"])
    ([[1.0, 2.0]], ['other'])
    >>> cache.close()
    """

    def __init__(self, space: Space, folder: Path | None = None) -> None:
        self._folder = shards_folder(folder)
        self._backbone = space.backbone
        self._dtype = np.dtype(space.dtype)
        self._shape = tuple(space.shape)
        self._pending: list[tuple[list[tuple[str, int]], npt.NDArray[Any]]] = []
        self._pending_bytes = 0
        self._opened = time.monotonic()
        self._index = open_index(self._folder)
        self._hold = Hold(self._index)
        try:
            self._space = self._register(space.describe())
        except BaseException:
            self._index.close()
            raise

    def _register(self, description: str) -> int:
        with self._transaction():
            self._hold.beat()
            self._index.execute(
                "INSERT OR IGNORE INTO spaces (digest, description) VALUES (?, ?)",
                (digest_bytes(description.encode()), description),
            )
            found = self._index.execute(
                "SELECT id FROM spaces WHERE description = ?", (description,)
            )
            number: int = found.fetchone()[0]
        return number

    def missing(self, photos: Iterable[str], view: int = 0) -> list[str]:
        """The photos, each once and in order, whose activations are not here.

        Those that are here stay until `close`, whatever is pruned meanwhile.
        """
        wanted = list(dict.fromkeys(photos))
        with self._transaction():
            found = {photo: shard for photo, shard, _ in self._find(wanted, view)}
            self._hold.add(set(found.values()))
        return [photo for photo in wanted if photo not in found]

    def find(self, photos: Iterable[str], view: int = 0) -> set[str]:
        """Those of the photos whose activations are on disk just now; nothing is held."""
        return {photo for photo, _, _ in self._find(list(photos), view)}

    def read(self, photos: Sequence[str], view: int = 0) -> npt.NDArray[Any]:
        """``(photo, *shape)`` activations in the order asked for.

        Raises:
            CacheError: A photo is not in the cache, or its shard turned out damaged. Damaged
                shards are dropped, so that `missing` names their photos from then on.
        """
        return self.open(photos, view).read(np.arange(len(photos)))

    def open(self, photos: Sequence[str], view: int = 0) -> Rows:
        """The activations of photos, to be read in parts; 16 bytes per photo are in memory.

        What is open stays readable after `close`, also when its files are pruned.

        Raises:
            CacheError: As `read`.
        """
        place: dict[str, tuple[int, int]] = {
            photo: (shard, line) for photo, shard, line in self._find(list(set(photos)), view)
        }
        absent = next((photo for photo in photos if photo not in place), None)
        if absent is not None:
            raise CacheError(
                f"The cache holds no activation of the photo {absent[:12]}…; run again."
            )
        places = np.array([place[photo] for photo in photos], np.int64).reshape(-1, 2)
        shards, numbers = np.unique(places[:, 0], return_inverse=True)
        opened = [self._open_shard(int(shard)) for shard in shards]
        return Rows(opened, numbers, places[:, 1], self._shape, self._dtype)

    def append(self, keys: Iterable[tuple[str, int]], rows: npt.NDArray[Any]) -> None:
        """Add rows for ``(photo, view)`` keys; they are on disk after `flush`, or a full shard.

        Raises:
            CacheError: Not one row of the space's shape per key, or numbers that its dtype cannot
                hold; nothing is added.
        """
        added, rows = list(keys), np.asarray(rows)
        if rows.shape != (len(added), *self._shape):
            raise CacheError(
                f"{self._backbone} gave activations {rows.shape} for {len(added)} photos; "
                f"expected {(len(added), *self._shape)}."
            )
        with np.errstate(over="ignore"):
            kept = rows.astype(self._dtype)
        if not np.isfinite(kept).all():
            raise CacheError(
                f"{self._backbone} gave an activation of {rows[~np.isfinite(kept)][0]:.4g}; the "
                f"cache keeps finite {self._dtype} numbers up to {np.finfo(self._dtype).max:,.0f}. "
                "This backbone cannot be used with it; choose another."
            )
        self._pending.append((added, kept))
        self._pending_bytes += kept.nbytes
        if self._pending_bytes >= SHARD_BYTES or time.monotonic() - self._opened >= SHARD_SECONDS:
            self.flush()

    def note_damages(self, reasons: Mapping[str, str]) -> None:
        """Remember why photos may be corrupt: who finds their rows here will not decode them."""
        with self._transaction():
            note_damages(self._index, self._space, reasons)

    def find_damages(self) -> dict[str, str]:
        """Photos of this space that may be corrupt, with the reason."""
        with translated(self._folder):
            return find_damages(self._index, self._space)

    def flush(self) -> None:
        """Write the pending rows as a shard.

        Raises:
            HeadstartError: The disk is full, or the folder cannot be written.
        """
        self._opened = time.monotonic()
        if not self._pending:
            return
        if self._hold.is_due:  # before the file is there: it is nobody's until the index names it
            with self._transaction():
                self._hold.beat()
        name = f"{self._space:06d}-{time.time_ns():x}-{secrets.token_hex(4)}.npy"
        keys = [key for keys, _ in self._pending for key in keys]
        described = np.lib.format.header_data_from_array_1_0(self._pending[0][1])
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            head, {**described, "shape": (len(keys), *self._shape)}
        )
        # One after the other: put together they would be in memory twice.
        parts: list[Any] = [head.getvalue()]
        parts += [np.ascontiguousarray(rows).data for _, rows in self._pending]
        write_bytes(self._folder / name, *parts)
        try:
            size = len(parts[0]) + self._pending_bytes
            self._enter(name, digest_bytes(*parts), size, keys)
        except CacheError:
            with contextlib.suppress(OSError):
                (self._folder / name).unlink()
            raise
        self._pending, self._pending_bytes = [], 0

    def _enter(self, name: str, sha256: str, size: int, keys: list[tuple[str, int]]) -> None:
        """The rows of a written shard into the index; other runs' rows of the keys are held too."""
        with self._transaction():
            shard = self._index.execute(
                "INSERT INTO shards (space, file, sha256, rows, bytes, used) VALUES (?,?,?,?,?,?)",
                (self._space, name, sha256, len(keys), size, time.time()),
            ).lastrowid
            self._index.executemany(
                "INSERT OR IGNORE INTO activations VALUES (?, ?, ?, ?, ?)",
                (
                    (self._space, photo, view, shard, line)
                    for line, (photo, view) in enumerate(keys)
                ),
            )
            for view in {view for _, view in keys}:
                found = self._find([photo for photo, other in keys if other == view], view)
                self._hold.add({shard for _, shard, _ in found})

    def drop_damaged(self, photos: Iterable[str], view: int = 0) -> int:
        """Verify the shards that hold these photos; drop the damaged; return how many were."""
        shards = {shard for _, shard, _ in self._find(list(set(photos)), view)}
        damaged = 0
        for shard in shards:
            name, sha256, rows = self._get_shard(shard)
            if not is_intact(self._folder / name, sha256, (rows, *self._shape), self._dtype):
                self._drop(shard)
                damaged += 1
        with self._transaction():
            self._index.executemany(
                "UPDATE shards SET used = ? WHERE id = ?", ((time.time(), s) for s in shards)
            )
        return damaged

    def close(self) -> None:
        """Hold nothing any more and close the index; pending rows are not written."""
        with contextlib.suppress(CacheError), self._transaction():  # else the hold lapses
            self._hold.release()
        self._index.close()

    def _transaction(self) -> contextlib.AbstractContextManager[None]:
        return transaction(self._index, self._folder)

    def _find(self, photos: list[str], view: int) -> Iterator[tuple[str, int, int]]:
        for start in range(0, len(photos), 500):  # SQLite limits the variables of a statement
            part = photos[start : start + 500]
            marks = ",".join("?" * len(part))
            with translated(self._folder):
                yield from self._index.execute(
                    "SELECT photo, shard, line FROM activations "  # noqa: S608 - only marks
                    f"WHERE space = ? AND view = ? AND photo IN ({marks})",
                    (self._space, view, *part),
                )

    def _open_shard(self, shard: int) -> npt.NDArray[Any]:
        name, _, rows = self._get_shard(shard)
        array = open_rows(self._folder / name, (rows, *self._shape), self._dtype)
        if array is None:
            self._drop(shard)
            raise CacheError(f"The cache file {self._folder / name} is damaged; run again.")
        return array

    def _get_shard(self, shard: int) -> tuple[str, str, int]:
        """File, sha256 and rows of a shard; no file when another process dropped it."""
        with translated(self._folder):
            found = self._index.execute(
                "SELECT file, sha256, rows FROM shards WHERE id = ?", (shard,)
            ).fetchone()
        return found or ("", "", 0)

    def _drop(self, shard: int) -> None:
        name, *_ = self._get_shard(shard)
        if name:
            with self._transaction():
                remove_shards(self._index, self._folder, [(shard, name)], must=True)
