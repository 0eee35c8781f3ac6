"""Upkeep of the activation cache while others may be using it: describe, verify, prune, clear."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.errors import CacheError
from headstart.features.connection import (
    DamagedIndexError,
    open_index,
    shards_folder,
    transaction,
    translated,
)
from headstart.features.index import find_held, is_intact, remove_shards
from headstart.files import free_bytes

if TYPE_CHECKING:
    import sqlite3

# What the shards of all spaces together may take on disk; HEADSTART_CACHE_BYTES says otherwise.
DEFAULT_LIMIT = "20GB"

# A file that no row names may be one that a run is about to enter; not after so long.
_LITTER_SECONDS = 86_400.0

# What SQLite needs to open an index and to remove rows from it.
_ROOM_BYTES = 2**20

_PREFIXES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_PERIODS = {"h": 3600, "d": 86_400, "w": 7 * 86_400}


@dataclass(frozen=True)
class Verified:
    """What `verify_cache` found.

    Attributes:
        shards: How many were read, damaged ones included.
        bytes: Their size.
        damaged: Files that are gone or not what was written; they are out of the cache now.
        photos: Activations that were lost with them; they are computed again when needed.
        litter: Files of interrupted runs that were removed.
    """

    shards: int
    bytes: int
    damaged: tuple[Path, ...]
    photos: int
    litter: int


@dataclass(frozen=True)
class Pruned:
    """What `prune_cache` did.

    Attributes:
        shards: How many were removed.
        bytes: Their size.
        left_bytes: What the cache holds now.
        held: Shards that should have gone but are used by a run, or open in another process.
        litter: Files of interrupted runs that were removed.
    """

    shards: int
    bytes: int
    left_bytes: int
    held: int
    litter: int


def describe_cache(folder: Path | None = None) -> list[dict[str, Any]]:
    """What the cache holds: one record per space with its description, rows and bytes."""
    folder = shards_folder(folder)
    with contextlib.closing(open_index(folder)) as index, translated(folder):
        found = index.execute(
            "SELECT description, COUNT(shards.id), SUM(rows), SUM(bytes), MAX(used) FROM spaces "
            "JOIN shards ON shards.space = spaces.id GROUP BY spaces.id ORDER BY MAX(used) DESC"
        ).fetchall()
    return [
        {**json.loads(text), "shards": shards, "photos": rows, "bytes": size, "used": used}
        for text, shards, rows, size, used in found
    ]


def verify_cache(folder: Path | None = None) -> Verified:
    """Read every shard; drop what is damaged, so that its photos are computed again.

    Raises:
        CacheError: The index cannot be used.
    """
    folder = shards_folder(folder)
    with contextlib.closing(open_index(folder)) as index:
        _check_index(index, folder)
        with translated(folder):
            shards = index.execute(
                "SELECT shards.id, file, sha256, rows, bytes, description FROM shards "
                "JOIN spaces ON spaces.id = shards.space"
            ).fetchall()
        damaged, photos = [], 0
        for shard, name, sha256, rows, _, description in shards:
            space = json.loads(description)
            shape = (rows, *space["shape"])
            if is_intact(folder / name, sha256, shape, space["dtype"]):
                continue
            with transaction(index, folder):
                # Unless another process removed it meanwhile, and that is why it is not there.
                if remove_shards(index, folder, [(shard, name)], must=True):
                    damaged.append(folder / name)
                    photos += rows
        litter = _sweep(index, folder)
    size = sum(shard[4] for shard in shards)
    return Verified(len(shards), size, tuple(damaged), photos, litter)


def _check_index(index: sqlite3.Connection, folder: Path) -> None:
    with translated(folder):
        [verdict] = index.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise DamagedIndexError(
            f"The index of the cache in {folder} is damaged ({verdict.splitlines()[-1]}). Start a "
            "new one with: headstart cache clear. Your photos are computed again."
        )


def prune_cache(
    folder: Path | None = None,
    *,
    max_bytes: int | None = None,
    max_age_seconds: float | None = None,
) -> Pruned:
    """Remove the shards that were not used for longest; never what a running process holds.

    Args:
        folder: The cache; the user's by default.
        max_bytes: Remove until the shards take no more than this.
        max_age_seconds: Remove what was not used for longer than this.

    Raises:
        CacheError: The index cannot be used.
    """
    folder = shards_folder(folder)
    held = 0
    gone: list[int] = []
    with contextlib.closing(open_index(folder)) as index:
        with transaction(index, folder):
            in_use = find_held(index)
            shards = index.execute("SELECT id, file, bytes, used FROM shards ORDER BY used")
            rows = shards.fetchall()
            left = sum(size for _, _, size, _ in rows)
            for shard, name, size, used in rows:
                is_old = max_age_seconds is not None and time.time() - used > max_age_seconds
                if not is_old and (max_bytes is None or left <= max_bytes):
                    continue
                if shard not in in_use and remove_shards(
                    index, folder, [(shard, name)], must=False
                ):
                    gone.append(size)
                    left -= size
                else:
                    held += 1
        litter = _sweep(index, folder)
    return Pruned(len(gone), sum(gone), left, held, litter)


def clear_cache(folder: Path | None = None) -> Pruned:
    """Remove all activations that no running process holds; a damaged index goes as well.

    Raises:
        CacheError: The index cannot be used, or its files cannot be removed.
    """
    shards = shards_folder(folder)
    _make_room(shards)
    try:
        with contextlib.closing(open_index(shards)) as index:
            _check_index(index, shards)
        return prune_cache(folder, max_bytes=0)
    except DamagedIndexError:
        pass  # nothing in it can be relied on, not even who holds what
    with translated(shards):
        sizes = [path.stat().st_size for path in shards.glob("*.npy")]
        for pattern in ("index.sqlite*", "*.npy", ".*.tmp"):
            for path in shards.glob(pattern):
                path.unlink(missing_ok=True)
    return Pruned(len(sizes), sum(sizes), 0, 0, 0)


def _make_room(folder: Path) -> None:
    """On a full disk remove the first shards: the index cannot even be opened without room."""
    for path in sorted(folder.glob("*.npy")):
        if free_bytes(folder) >= _ROOM_BYTES:
            return
        _unlink(path)


def _sweep(index: sqlite3.Connection, folder: Path) -> int:
    """Remove files that no row names: kills leave them. Returns how many.

    While a run goes on, a young one may be a shard that is being written. The files are listed
    first: a run that starts later writes others, and one that ended has entered its own.
    """
    with translated(folder):
        found = [path for path in folder.iterdir() if path.suffix in (".npy", ".tmp")]
    with transaction(index, folder):
        find_held(index)  # forgets the dead
        is_quiet = index.execute("SELECT 1 FROM holds").fetchone() is None
        named = {name for (name,) in index.execute("SELECT file FROM shards")}
    litter = [path for path in found if path.name not in named]
    if not is_quiet:
        litter = [path for path in litter if _is_old(path)]
    beside = folder.parent.glob("*/.*.tmp")  # of the weights
    litter += [path for path in beside if path.parent != folder and _is_old(path)]
    return sum(map(_unlink, litter))


def _is_old(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > _LITTER_SECONDS
    except OSError:
        return False


def _unlink(path: Path) -> bool:
    try:
        path.unlink()
    except OSError:  # open in another process on Windows: next time
        return False
    return True


def get_limit() -> int:
    """Bytes that the cache may take: HEADSTART_CACHE_BYTES, else `DEFAULT_LIMIT`.

    Raises:
        CacheError: The variable's value is no size.
    """
    text = os.environ.get("HEADSTART_CACHE_BYTES") or DEFAULT_LIMIT
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise CacheError(f"The environment variable HEADSTART_CACHE_BYTES: {error}") from None


def parse_bytes(text: str) -> int:
    """Bytes from a size as people write it; K, M, G and T are powers of a thousand.

    >>> parse_bytes("5GB"), parse_bytes("1.5 mb"), parse_bytes("2G"), parse_bytes("100")
    (5000000000, 1500000, 2000000000, 100)

    Raises:
        ValueError: It is no size, with what is accepted.
    """
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([KMGT]?)B?", text.strip().upper())
    if not found:
        raise ValueError(f'"{text}" is not a size; accepted are 5GB, 500MB or a number of bytes.')
    return round(float(found[1]) * _PREFIXES[found[2]])


def parse_seconds(text: str) -> float:
    """Seconds from an age as people write it.

    >>> parse_seconds("30d"), parse_seconds("12 h")
    (2592000.0, 43200.0)

    Raises:
        ValueError: It is no age, with what is accepted.
    """
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([hdw])", text.strip().lower())
    if not found:
        raise ValueError(f'"{text}" is not an age; accepted are 12h, 30d, 8w.')
    return float(found[1]) * _PERIODS[found[2]]
