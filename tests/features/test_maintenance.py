"""Upkeep: verify finds every damage, prune takes the oldest, and nobody takes what a run holds."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_cache import DAMAGE, SPACE, add, check_rows, damage_index, list_files, name

from headstart.errors import CacheError
from headstart.features import index as index_module
from headstart.features import maintenance
from headstart.features.cache import ActivationCache
from headstart.features.connection import open_index
from headstart.features.index import BEAT_SECONDS, LAPSE_SECONDS, is_alive, name_machine
from headstart.features.maintenance import (
    clear_cache,
    get_limit,
    parse_bytes,
    parse_seconds,
    prune_cache,
    verify_cache,
)

OpenCache = Callable[..., ActivationCache]


@pytest.fixture
def open_cache(tmp_path: Path) -> Iterator[OpenCache]:
    """Opens caches in one folder, and closes them."""
    opened = []

    def open_one(space=SPACE) -> ActivationCache:
        opened.append(ActivationCache(space, tmp_path))
        return opened[-1]

    yield open_one
    for cache in opened:
        cache.close()


def fill(folder: Path, shards: int = 3) -> list[Path]:
    """Shards of ten photos, the first used longest ago; their files."""
    files = []
    for number in range(shards):
        cache = ActivationCache(SPACE, folder)
        add(cache, range(number * 10, number * 10 + 10))
        cache.close()
        [new] = set(get_folder(folder).glob("*.npy")) - set(files)
        files.append(new)
        age(folder, new, (shards - number) * 86_400)
    return files


def get_folder(folder: Path) -> Path:
    return folder / "activations-v1"


def execute(folder: Path, statement: str, *values: object) -> list[tuple]:
    index = sqlite3.connect(get_folder(folder) / "index.sqlite")
    with index:
        found = index.execute(statement, values).fetchall()
    index.close()
    return found


def age(folder: Path, file: Path, seconds: float) -> None:
    then = time.time() - seconds
    execute(folder, "UPDATE shards SET used = ? WHERE file = ?", then, file.name)


def count_missing(folder: Path, photos: range) -> int:
    cache = ActivationCache(SPACE, folder)
    try:
        return len(cache.missing(name(photos)))
    finally:
        cache.close()


# ---- verify


def test_a_sound_cache_and_an_empty_one(tmp_path):
    assert verify_cache(tmp_path) == maintenance.Verified(0, 0, (), 0, 0)
    files = fill(tmp_path)
    size = sum(path.stat().st_size for path in files)
    assert verify_cache(tmp_path) == maintenance.Verified(3, size, (), 0, 0)


@pytest.mark.parametrize("damage", DAMAGE)
def test_verify_drops_what_is_damaged(tmp_path, open_cache, damage):
    files = fill(tmp_path)
    for path in files[:2]:
        DAMAGE[damage](path)
    found = verify_cache(tmp_path)
    assert (found.shards, found.damaged, found.photos) == (3, tuple(files[:2]), 20)
    assert not any(path.is_file() for path in files[:2])
    assert verify_cache(tmp_path).damaged == ()
    cache = open_cache()
    assert cache.missing(name(range(30))) == name(range(20))
    add(cache, range(20))
    check_rows(cache, range(30))
    assert verify_cache(tmp_path).damaged == ()


def test_verify_sees_rows_of_another_shape(tmp_path):
    [file] = fill(tmp_path, 1)
    execute(tmp_path, "UPDATE shards SET rows = 9")
    assert verify_cache(tmp_path).damaged == (file,)


def test_a_shard_pruned_meanwhile_is_not_damaged(tmp_path, monkeypatch):
    fill(tmp_path)
    whole = maintenance.is_intact

    def prune_first(*arguments):
        monkeypatch.setattr(maintenance, "is_intact", whole)
        prune_cache(tmp_path, max_bytes=0)
        return whole(*arguments)

    monkeypatch.setattr(maintenance, "is_intact", prune_first)
    assert verify_cache(tmp_path).damaged == ()
    assert list_files(tmp_path) == []


def test_litter_goes_at_once_when_nothing_runs_and_after_a_day_otherwise(tmp_path, open_cache):
    [kept] = fill(tmp_path, 1)
    litter = [get_folder(tmp_path) / n for n in ("000001-5-6.npy", ".000001-5-6.npy.7.8.tmp")]
    weights = tmp_path / "weights" / ".net.safetensors.7.8.tmp"
    weights.parent.mkdir()
    for path in (*litter, weights):
        path.write_bytes(b"half")
    running = open_cache()
    assert verify_cache(tmp_path).litter == 0
    os.utime(litter[0], (0, 0))
    assert verify_cache(tmp_path).litter == 1
    running.close()
    assert prune_cache(tmp_path).litter == 1
    assert weights.exists()
    os.utime(weights, (0, 0))
    assert verify_cache(tmp_path).litter == 1
    assert list_files(tmp_path) == [kept.name]
    assert list(weights.parent.iterdir()) == []


@pytest.mark.parametrize("upkeep", [verify_cache, prune_cache])
def test_a_damaged_index_says_what_to_do_and_clear_does_it(tmp_path, open_cache, upkeep):
    cache = ActivationCache(SPACE, tmp_path)
    add(cache, range(300))
    cache.close()
    damage_index(tmp_path)
    with pytest.raises(CacheError, match="headstart cache clear"):
        upkeep(tmp_path)
    assert clear_cache(tmp_path).shards == 1
    assert list(get_folder(tmp_path).iterdir()) == []
    cache = open_cache()
    add(cache, range(5))
    check_rows(cache, range(5))


def test_pages_of_the_index_that_disagree_are_found(tmp_path):
    fill(tmp_path)
    index = sqlite3.connect(get_folder(tmp_path) / "index.sqlite")
    index.execute("PRAGMA writable_schema = 1")
    with index:  # an index over activations that lacks its entries
        index.execute(
            "UPDATE sqlite_schema SET rootpage = "
            "(SELECT rootpage FROM sqlite_schema WHERE name = 'held') "
            "WHERE name = 'activations_by_shard'"
        )
    index.close()
    with pytest.raises(CacheError, match="cache clear"):
        verify_cache(tmp_path)
    clear_cache(tmp_path)
    assert verify_cache(tmp_path).shards == 0


# ---- prune and clear


def test_prune_takes_what_was_not_used_for_longest(tmp_path):
    files = fill(tmp_path)
    size = files[0].stat().st_size
    found = prune_cache(tmp_path, max_bytes=2 * size)
    assert found == maintenance.Pruned(1, size, 2 * size, 0, 0)
    assert list_files(tmp_path) == [path.name for path in files[1:]]
    assert count_missing(tmp_path, range(30)) == 10
    assert prune_cache(tmp_path, max_bytes=2 * size).shards == 0
    assert prune_cache(tmp_path, max_age_seconds=1.5 * 86_400).shards == 1
    assert list_files(tmp_path) == [files[2].name]
    assert prune_cache(tmp_path).shards == 0
    assert verify_cache(tmp_path).damaged == ()


def test_use_keeps_a_shard(tmp_path):
    files = fill(tmp_path)
    cache = ActivationCache(SPACE, tmp_path)
    cache.drop_damaged(name(range(1)))
    cache.close()
    prune_cache(tmp_path, max_bytes=files[0].stat().st_size)
    assert list_files(tmp_path) == [files[0].name]


def test_clear_takes_all_spaces_and_their_numbers_stay(tmp_path, open_cache):
    fill(tmp_path)
    other = ActivationCache(replace(SPACE, backbone="other"), tmp_path)
    add(other, range(3))
    other.close()
    found = clear_cache(tmp_path)
    assert (found.shards, found.left_bytes, found.held) == (4, 0, 0)
    assert list_files(tmp_path) == []
    assert execute(tmp_path, "SELECT COUNT(*) FROM activations") == [(0,)]
    cache = open_cache()
    add(cache, range(3))
    check_rows(cache, range(3))


def test_nobody_takes_what_a_run_has_found_or_written(tmp_path, open_cache):
    files = fill(tmp_path)
    running = open_cache()
    assert running.missing(name(range(12))) == []
    add(running, range(30, 35))
    size = (get_folder(tmp_path) / list_files(tmp_path)[-1]).stat().st_size
    found = prune_cache(tmp_path, max_bytes=0)
    assert (found.shards, found.held) == (1, 3)
    assert found.left_bytes == 2 * files[0].stat().st_size + size
    check_rows(running, range(12))
    check_rows(running, range(30, 35))
    assert clear_cache(tmp_path).held == 3
    running.close()
    assert prune_cache(tmp_path, max_bytes=0).shards == 3


def test_a_run_holds_the_rows_that_another_wrote_first(tmp_path, open_cache):
    running, other = open_cache(), open_cache()
    for cache in (running, other):
        assert len(cache.missing(name(range(5)))) == 5
    add(other, range(5))
    add(running, range(5))
    other.close()
    found = prune_cache(tmp_path, max_bytes=0)
    assert (found.shards, found.held) == (1, 1)  # the run's own shard, which nobody reads, went
    check_rows(running, range(5))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_what_a_killed_run_held_is_free_at_once(tmp_path):
    fill(tmp_path)
    code = (
        "import sys, time; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
        "from test_cache import SPACE, name\n"
        "from headstart.features.cache import ActivationCache\n"
        "ActivationCache(SPACE, Path(sys.argv[1])).missing(name(range(30)))\n"
        "print('held', flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        assert child.stdout.readline() == "held\n"
        assert prune_cache(tmp_path, max_bytes=0).held == 3
        child.kill()
        child.wait()
        found = prune_cache(tmp_path, max_bytes=0)
    assert (found.shards, found.held) == (3, 0)
    assert execute(tmp_path, "SELECT * FROM held") == execute(tmp_path, "SELECT * FROM holds") == []


def test_a_run_on_another_machine_is_dead_after_a_while(tmp_path, monkeypatch):
    now = time.time()
    assert is_alive("elsewhere", 1, now - LAPSE_SECONDS + 5)
    assert not is_alive("elsewhere", 1, now - LAPSE_SECONDS - 5)
    assert not is_alive("elsewhere", 1, now + LAPSE_SECONDS + 5)  # a clock that was wrong
    assert is_alive(name_machine(), os.getppid(), now)
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    assert not is_alive(name_machine(), child.pid, now)
    monkeypatch.setattr(os, "kill", lambda *_: (_ for _ in ()).throw(PermissionError()))
    assert is_alive(name_machine(), child.pid, now)


def test_a_long_run_says_that_it_is_alive(tmp_path, open_cache, monkeypatch):
    running = open_cache()
    add(running, range(5))
    execute(tmp_path, "UPDATE holds SET beat = 0")
    add(running, range(5, 10))  # not due yet: a beat a minute is enough
    assert execute(tmp_path, "SELECT beat FROM holds") == [(0,)]
    late = time.monotonic() + BEAT_SECONDS
    with monkeypatch.context() as patch:
        patch.setattr(index_module.time, "monotonic", lambda: late)
        add(running, range(10, 15))
    assert execute(tmp_path, "SELECT beat FROM holds")[0][0] > time.time() - 60
    assert prune_cache(tmp_path, max_bytes=0).held == 3


def test_a_file_that_cannot_be_removed_stays_with_its_rows(tmp_path, open_cache, monkeypatch):
    files = fill(tmp_path)
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path == files[0]:
            raise PermissionError(13, "in use by another process")
        unlink(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        found = prune_cache(tmp_path, max_bytes=0)
        assert (found.shards, found.held) == (2, 1)
        check_rows(open_cache(), range(10))
        DAMAGE["a flipped byte"](files[0])
        assert verify_cache(tmp_path).damaged == (files[0],)
        assert files[0].exists()
    assert open_cache().missing(name(range(10))) == name(range(10))


def test_an_index_from_before_holds_is_used(tmp_path, open_cache):
    fill(tmp_path)
    for table in ("held", "holds"):
        execute(tmp_path, f"DROP TABLE {table}")
    check_rows(open_cache(), range(30))


def test_a_file_name_in_the_index_leads_nowhere_else(tmp_path):
    fill(tmp_path, 1)
    other = tmp_path / "mine.txt"
    other.write_text("mine")
    execute(tmp_path, "UPDATE shards SET file = '../mine.txt'")
    assert clear_cache(tmp_path).shards == 1
    assert other.exists()


# ---- sizes and ages


def test_the_limit_comes_from_the_environment(monkeypatch):
    monkeypatch.delenv("HEADSTART_CACHE_BYTES", raising=False)
    assert get_limit() == 20_000_000_000
    monkeypatch.setenv("HEADSTART_CACHE_BYTES", "500MB")
    assert get_limit() == 500_000_000
    monkeypatch.setenv("HEADSTART_CACHE_BYTES", "much")
    with pytest.raises(CacheError, match=r'HEADSTART_CACHE_BYTES: "much" is not a size.* 5GB'):
        get_limit()


@pytest.mark.parametrize(
    "text", ["", "GB", "-1", "5 parsecs", "1e9", "٣GB", "5GBB", "nan", "1.2.3"]
)
def test_what_is_no_size_or_age_is_refused(text):
    with pytest.raises(ValueError, match="accepted are"):
        parse_bytes(text)
    with pytest.raises(ValueError, match="accepted are"):
        parse_seconds(text)


def test_an_open_index_is_not_disturbed(tmp_path):
    files = fill(tmp_path)
    index = open_index(get_folder(tmp_path))
    rows = index.execute("SELECT file FROM shards")
    assert rows.fetchone()
    prune_cache(tmp_path, max_bytes=0)
    assert len(rows.fetchall()) == len(files) - 1  # what this reader began to read
    index.close()
    assert json.dumps(list_files(tmp_path)) == "[]"
    assert np.all([not path.exists() for path in files])
