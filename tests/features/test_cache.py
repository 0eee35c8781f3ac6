"""The cache: kills, damage, full disks and neighbours cost time, never numbers."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart.errors import CacheError, HeadstartError
from headstart.features import cache as cache_module
from headstart.features import connection
from headstart.features.cache import ActivationCache, Space
from headstart.features.connection import open_index
from headstart.features.maintenance import describe_cache

SPACE = Space("net", "00", "pooled", (3,), 224, 1, "onnxruntime 1.0")

OpenCache = Callable[..., ActivationCache]


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "default"))


@pytest.fixture
def open_cache(tmp_path: Path) -> Iterator[OpenCache]:
    """Opens caches in one folder, and closes them."""
    opened = []

    def open_one(space: Space = SPACE) -> ActivationCache:
        opened.append(ActivationCache(space, tmp_path))
        return opened[-1]

    yield open_one
    for cache in opened:
        cache.close()


def make_rows(photos: range, view: int = 0) -> np.ndarray:
    """Rows from which the photo and the view can be told."""
    return np.array([[photo, view, photo % 7] for photo in photos], np.float32).reshape(-1, 3)


def name(photos: range) -> list[str]:
    return [f"photo{photo}" for photo in photos]


def add(cache: ActivationCache, photos: range, view: int = 0) -> None:
    cache.append([(photo, view) for photo in name(photos)], make_rows(photos, view))
    cache.flush()


def check_rows(cache: ActivationCache, photos: range, view: int = 0) -> None:
    assert cache.missing(name(photos), view) == []
    assert np.array_equal(cache.read(name(photos), view), make_rows(photos, view))


def list_files(folder: Path) -> list[str]:
    files = (folder / "activations-v1").iterdir()
    return sorted(path.name for path in files if not path.name.startswith("index.sqlite"))


def get_shard(folder: Path) -> Path:
    [found] = (folder / "activations-v1").glob("*.npy")
    return found


def test_rows_come_back_as_they_were_written(open_cache):
    cache = open_cache()
    add(cache, range(20))
    check_rows(cache, range(20))
    found = cache.read(["photo3", "photo1", "photo3"])
    assert found.dtype == np.float16
    assert found[:, 0].tolist() == [3, 1, 3]
    assert cache.drop_damaged(name(range(20))) == 0
    check_rows(open_cache(), range(20))


def test_rows_may_have_any_shape(open_cache):
    cache = open_cache(replace(SPACE, shape=(2, 2, 5), dtype="float32"))
    rows = np.random.default_rng(0).normal(size=(4, 2, 2, 5)).astype(np.float32)
    cache.append([(photo, 0) for photo in "abcd"], rows)
    cache.flush()
    assert np.array_equal(cache.read(list("dcba")), rows[::-1])


def test_what_is_missing_is_named_once_and_in_order(open_cache):
    cache = open_cache()
    assert cache.missing([]) == []
    add(cache, range(3))
    assert cache.missing(["z", "photo1", "a", "z"]) == ["z", "a"]
    assert cache.missing(["photo1"], view=1) == ["photo1"]
    assert cache.read([]).shape == (0, 3)
    with pytest.raises(CacheError, match="no activation of the photo zebra"):
        cache.read(["photo1", "zebra"])


def test_views_are_kept_apart(open_cache):
    cache = open_cache()
    for view in (0, 1):
        add(cache, range(5), view)
    for view in (0, 1):
        check_rows(cache, range(5), view)


def test_rows_are_there_after_the_flush_and_not_before(open_cache, tmp_path):
    cache = open_cache()
    cache.append([("photo0", 0)], make_rows(range(1)))
    assert open_cache().missing(["photo0"]) == ["photo0"]
    assert list_files(tmp_path) == []
    cache.flush()
    check_rows(open_cache(), range(1))
    cache.flush()
    assert len(list_files(tmp_path)) == 1


@pytest.mark.parametrize(("setting", "value"), [("SHARD_BYTES", 60), ("SHARD_SECONDS", 0.0)])
def test_a_large_or_old_shard_is_written_without_being_asked(
    open_cache, tmp_path, monkeypatch, setting, value
):
    cache = open_cache()
    monkeypatch.setattr(cache_module, setting, value)
    for photo in range(20):
        cache.append([(f"photo{photo}", 0)], make_rows(range(photo, photo + 1)))
    assert len(list_files(tmp_path)) == (2 if setting == "SHARD_BYTES" else 20)
    cache.flush()
    check_rows(cache, range(20))


def test_many_photos_in_several_shards(open_cache):
    cache = open_cache()
    for start in range(0, 1500, 500):
        add(cache, range(start, start + 500))
    check_rows(cache, range(1500))
    assert cache.read(name(range(1499, -1, -1)))[0, 0] == 1499


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": "other"},
        {"weights_digest": "01"},
        {"boundary": "block4"},
        {"image_size": 225},
        {"decode_version": 2},
        {"runtime": "onnxruntime 1.1"},
        {"dtype": "float32"},
        {"shape": (1, 3)},
    ],
    ids=str,
)
def test_different_spaces_do_not_mix(open_cache, change):
    cache, other = open_cache(), open_cache(replace(SPACE, **change))
    add(cache, range(3))
    assert other.missing(name(range(3))) == name(range(3))
    other.append([("photo0", 0)], np.full((1, *other._shape), 9))
    other.flush()
    check_rows(cache, range(3))
    assert (other.read(["photo0"]) == 9).all()


def test_activations_that_cannot_be_kept_are_refused(open_cache):
    cache = open_cache()
    add(cache, range(2))
    one = [("photo9", 0)]
    for keys, rows in (
        (one, np.zeros((2, 3))),
        (one * 2, np.zeros((1, 3))),
        (one, np.zeros((1, 4))),
        (one, np.zeros(3)),
    ):
        with pytest.raises(CacheError, match=r"net gave activations .* photos; expected"):
            cache.append(keys, rows)
    for number in (7e4, -7e4, np.inf, np.nan):
        with pytest.raises(CacheError, match=r"net gave an activation of .* 65,504"):
            cache.append(one, np.array([[0, number, 0]], np.float32))
    cache.flush()
    assert cache.missing(["photo9"]) == ["photo9"]
    cache.append(one, np.array([[65_504, -65_504, 1e-9]], np.float32))
    cache.flush()
    assert cache.read(["photo9"]).tolist() == [[65_504, -65_504, 0]]


def test_two_caches_that_write_the_same_keys(open_cache):
    one, other = open_cache(), open_cache()
    for cache in (one, other):
        cache.append([(photo, 0) for photo in name(range(10))], make_rows(range(10)))
    one.flush()
    other.flush()
    add(other, range(10, 12))
    for cache in (one, other):
        check_rows(cache, range(12))
        assert cache.drop_damaged(name(range(12))) == 0


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0x10
    path.write_bytes(data)


DAMAGE = {
    "a flipped byte": lambda path: flip(path, -2),
    "a flipped byte of the header": lambda path: flip(path, 20),
    "half of it": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "gone": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_shard_is_dropped_and_made_again(open_cache, tmp_path, damage):
    cache = open_cache()
    add(cache, range(5))
    shard = get_shard(tmp_path)
    add(cache, range(5, 8))
    DAMAGE[damage](shard)
    assert cache.drop_damaged(["elsewhere", *name(range(5, 8))]) == 0
    assert cache.drop_damaged(name(range(8))) == 1
    assert cache.missing(name(range(8))) == name(range(5))
    assert cache.drop_damaged(name(range(8))) == 0
    add(cache, range(5))
    check_rows(open_cache(), range(8))


@pytest.mark.parametrize("damage", [kind for kind in DAMAGE if kind != "a flipped byte"])
def test_a_shard_that_cannot_be_opened_is_missing_from_then_on(open_cache, tmp_path, damage):
    cache = open_cache()
    add(cache, range(5))
    DAMAGE[damage](get_shard(tmp_path))
    with pytest.raises(CacheError, match="is damaged; run again"):
        cache.read(name(range(5)))
    assert cache.missing(name(range(5))) == name(range(5))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"\x93NUMPY", b"PK\x03\x04PY"),
        (b"\x93NUMPY", b"XXXXXX"),
        (b"}", b" "),
        (b"<f2", b"|O2"),
        (b"<f2", b"<f4"),
        (b"(5, 3)", b"(3, 5)"),
        (b"(5, 3)", b"(9, 9)"),
        (b"(5, 3)", b"(-5,3)"),
        (b"descr", b"\xff\xfe\xfd\xfc\xfb"),
    ],
)
def test_no_damage_of_a_header_is_another_error(open_cache, tmp_path, before, after):
    cache = open_cache()
    add(cache, range(5))
    data = get_shard(tmp_path).read_bytes()
    assert before in data
    get_shard(tmp_path).write_bytes(data.replace(before, after, 1))
    with pytest.raises(CacheError, match="is damaged; run again"):
        cache.read(name(range(5)))


@pytest.mark.parametrize("method", ["read", "drop_damaged"])
def test_a_shard_that_another_process_drops_meanwhile(open_cache, monkeypatch, method):
    cache, other = open_cache(), open_cache()
    add(cache, range(5))
    find = cache._find

    def find_then_lose(photos: list[str], view: int) -> Iterator[Any]:
        found = list(find(photos, view))
        for shard in {shard for _, shard, _ in found}:
            other._drop(shard)
        return iter(found)

    monkeypatch.setattr(cache, "_find", find_then_lose)
    if method == "read":
        with pytest.raises(CacheError, match="run again"):
            cache.read(name(range(5)))
    else:
        cache.drop_damaged(name(range(5)))
    assert cache.missing(name(range(5))) == name(range(5))


WRITER = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_cache import SPACE, add, make_rows, name
from headstart.features.cache import ActivationCache
cache = ActivationCache(SPACE, Path(sys.argv[1]))
"""


def start_writer(folder: Path, code: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER + code, str(folder), str(Path(__file__).parent)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_kill_costs_what_was_not_flushed(open_cache, tmp_path):
    code = (
        "add(cache, range(10))\n"
        "cache.append([(photo, 0) for photo in name(range(10, 15))], make_rows(range(10, 15)))\n"
        "os._exit(3)\n"
    )
    with start_writer(tmp_path, code) as writer:
        assert writer.wait(60) == 3
    cache = open_cache()
    check_rows(cache, range(10))
    assert cache.missing(name(range(15))) == name(range(10, 15))


def test_a_kill_between_the_shard_and_the_index(open_cache, tmp_path):
    code = (
        "import headstart.features.cache as module\n"
        "add(cache, range(5))\n"
        "real = module.write_bytes\n"
        "module.write_bytes = lambda path, *parts: (real(path, *parts), os._exit(3))\n"
        "add(cache, range(5, 9))\n"
    )
    with start_writer(tmp_path, code) as writer:
        assert writer.wait(60) == 3
    assert len(list_files(tmp_path)) == 2
    cache = open_cache()
    check_rows(cache, range(5))
    assert cache.missing(name(range(9))) == name(range(5, 9))
    add(cache, range(5, 9))
    check_rows(cache, range(9))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("moment", [0.0, 0.003, 0.02])
def test_a_kill_in_the_middle_of_writing(open_cache, tmp_path, moment):
    code = (
        "for start in range(0, 100_000, 10):\n"
        "    add(cache, range(start, start + 10))\n"
        "    print(start + 10, flush=True)\n"
    )
    with start_writer(tmp_path, code) as writer:
        assert writer.stdout is not None
        for _ in range(5):
            writer.stdout.readline()
        time.sleep(moment)
        writer.kill()
        promised = max(50, *(int(line) for line in writer.stdout if line.endswith("\n")), 50)
    cache = open_cache()
    check_rows(cache, range(promised))
    assert cache.drop_damaged(name(range(promised + 100))) == 0
    absent = set(cache.missing(name(range(promised + 100))))
    there = [photo for photo in range(promised + 100) if f"photo{photo}" not in absent]
    assert there == list(range(len(there)))
    check_rows(cache, range(len(there)))
    add(cache, range(len(there), len(there) + 5))
    check_rows(cache, range(len(there) + 5))


def test_processes_that_write_at_the_same_time(open_cache, tmp_path):
    code = (
        "for start in range(0, 100, 10):\n"
        "    if cache.missing(name(range(start, start + 10))):\n"
        "        add(cache, range(start, start + 10))\n"
    )
    writers = [start_writer(tmp_path, code) for _ in range(3)]
    for writer in writers:
        with writer:
            assert writer.wait(60) == 0
    cache = open_cache()
    check_rows(cache, range(100))
    assert cache.drop_damaged(name(range(100))) == 0


def test_an_index_that_is_locked_for_a_moment_is_waited_for(tmp_path):
    (tmp_path / "shared").mkdir()
    other = sqlite3.connect(tmp_path / "shared" / "index.sqlite", check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    timer = threading.Timer(0.3, other.rollback)
    timer.start()
    open_index(tmp_path / "shared").close()
    timer.join()
    other.close()


class RefusingIndex(sqlite3.Connection):
    """An index that is refused at once, as when two processes make it at the same moment."""

    refusals = 0
    open_indexes = 0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        RefusingIndex.open_indexes += 1

    def execute(self, statement: str, *rest: Any) -> sqlite3.Cursor:
        if "journal_mode" in statement and RefusingIndex.refusals:
            RefusingIndex.refusals -= 1
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = sqlite3.SQLITE_BUSY
            raise error
        return super().execute(statement, *rest)

    def close(self) -> None:
        super().close()
        RefusingIndex.open_indexes -= 1


@pytest.mark.parametrize("refusals", [0, 3, 1000])
def test_an_index_that_is_refused_at_once_is_tried_again(tmp_path, monkeypatch, refusals):
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=RefusingIndex))
    monkeypatch.setattr(connection, "_WAIT_SECONDS", 0.3)
    monkeypatch.setattr(RefusingIndex, "refusals", refusals)
    monkeypatch.setattr(RefusingIndex, "open_indexes", 0)
    if refusals < 10:
        open_index(tmp_path).close()
    else:
        with pytest.raises(CacheError, match="locked"):
            open_index(tmp_path)
    assert RefusingIndex.open_indexes == 0


def test_an_index_that_stays_locked_is_a_cache_error(tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "_WAIT_SECONDS", 0.1)
    (tmp_path / "shared").mkdir()
    other = sqlite3.connect(tmp_path / "shared" / "index.sqlite")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(CacheError, match="locked"):
        open_index(tmp_path / "shared")
    other.close()


def fail_with_full_disk(*_arguments: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_nothing_and_loses_nothing(open_cache, tmp_path, monkeypatch):
    cache = open_cache()
    add(cache, range(3))
    before = list_files(tmp_path)
    cache.append([(photo, 0) for photo in name(range(3, 6))], make_rows(range(3, 6)))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail_with_full_disk)
        with pytest.raises(HeadstartError, match="No space left"):
            cache.flush()
    assert list_files(tmp_path) == before
    assert open_cache().missing(name(range(6))) == name(range(3, 6))
    check_rows(cache, range(3))
    cache.flush()
    check_rows(open_cache(), range(6))


def test_a_full_disk_at_the_index_is_a_cache_error(open_cache, tmp_path):
    cache = open_cache()
    add(cache, range(3))
    cache._index.execute("PRAGMA max_page_count = 1")
    with pytest.raises(CacheError, match="full"):
        add(cache, range(3, 3000))
    assert len(list_files(tmp_path)) == 1
    check_rows(open_cache(), range(3))


def test_a_file_in_place_of_the_folder(tmp_path, monkeypatch):
    (tmp_path / "activations-v1").write_bytes(b"")
    with pytest.raises(CacheError, match="HEADSTART_CACHE"):
        ActivationCache(SPACE, tmp_path)
    with pytest.raises(CacheError, match="HEADSTART_CACHE"):
        describe_cache(tmp_path)
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "activations-v1"))
    with pytest.raises(CacheError, match="HEADSTART_CACHE"):
        ActivationCache(SPACE)


def test_an_index_that_is_no_database(tmp_path):
    (tmp_path / "activations-v1").mkdir()
    (tmp_path / "activations-v1" / "index.sqlite").write_bytes(b"not a database" * 400)
    with pytest.raises(CacheError, match="cannot be used: file is not a database"):
        ActivationCache(SPACE, tmp_path)


def test_an_index_that_is_a_folder(tmp_path):
    (tmp_path / "activations-v1" / "index.sqlite").mkdir(parents=True)
    with pytest.raises(CacheError, match="cannot be used"):
        ActivationCache(SPACE, tmp_path)


def damage_index(folder: Path) -> None:
    path = folder / "activations-v1" / "index.sqlite"
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xa5" * (len(data) - 4096)
    path.write_bytes(data)


def test_a_damaged_index_is_a_cache_error(tmp_path):
    cache = ActivationCache(SPACE, tmp_path)
    add(cache, range(300))
    cache.close()
    damage_index(tmp_path)
    with pytest.raises(CacheError, match="cannot be used"):
        ActivationCache(SPACE, tmp_path)
    with pytest.raises(CacheError, match="cannot be used"):
        describe_cache(tmp_path)


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root writes everywhere")
def test_a_folder_that_may_not_be_written(tmp_path):
    (tmp_path / "activations-v1").mkdir(mode=0o500)
    with pytest.raises(CacheError, match="allow writing"):
        ActivationCache(SPACE, tmp_path)


def test_a_database_that_may_not_be_written(open_cache, tmp_path):
    cache = open_cache()
    add(cache, range(3))
    cache._index.execute("PRAGMA query_only = 1")
    with pytest.raises(CacheError, match="readonly"):
        add(cache, range(3, 5))
    assert len(list_files(tmp_path)) == 1
    check_rows(open_cache(), range(3))


def test_the_default_folder_is_the_named_one(tmp_path):
    assert describe_cache() == []
    cache = ActivationCache(SPACE)
    add(cache, range(4))
    cache.close()
    assert list_files(tmp_path / "default")
    [record] = describe_cache()
    assert (record["backbone"], record["shape"], record["photos"]) == ("net", [3], 4)
    assert record["bytes"] == get_shard(tmp_path / "default").stat().st_size


def test_the_description_of_several_spaces(open_cache, tmp_path):
    first, second = open_cache(), open_cache(replace(SPACE, backbone="second"))
    open_cache(replace(SPACE, backbone="empty"))
    add(first, range(3))
    add(second, range(2))
    add(second, range(2, 5))
    second.drop_damaged(name(range(5)))
    found = describe_cache(tmp_path)
    assert [(r["backbone"], r["shards"], r["photos"]) for r in found] == [
        ("second", 2, 5),
        ("net", 1, 3),
    ]
