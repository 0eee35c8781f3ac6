"""Digests, where the cache lives, and writes that leave the old file or the new one."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from headstart.errors import CacheError, HeadstartError
from headstart.files import (
    atomic_write,
    cache_folder,
    digest_bytes,
    digest_file,
    free_bytes,
    sweep_temporary,
    write_bytes,
)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "model.bin"
    path.write_bytes(b"old")
    return path


def test_digests_are_sha256(tmp_path):
    data = bytes(range(256)) * 5000
    path = tmp_path / "data"
    path.write_bytes(data)
    expected = hashlib.sha256(data).hexdigest()
    assert digest_bytes(data) == digest_bytes(memoryview(data)) == digest_file(path) == expected


def test_the_digest_of_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        digest_file(tmp_path / "missing")


def test_the_named_cache_folder_is_made(monkeypatch, tmp_path):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "a" / "b"))
    assert cache_folder() == tmp_path / "a" / "b"
    assert cache_folder().is_dir()


def test_the_cache_folder_may_start_with_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("HEADSTART_CACHE", "~/cache")
    assert cache_folder() == tmp_path / "cache"


def test_without_a_name_the_cache_is_where_the_system_has_caches(monkeypatch, tmp_path):
    monkeypatch.delenv("HEADSTART_CACHE", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name, **_: str(tmp_path / name))
    assert cache_folder() == tmp_path / "headstart"


@pytest.mark.parametrize("inside", ["", "deeper"])
def test_a_file_in_place_of_the_cache_folder_is_a_cache_error(monkeypatch, tmp_path, inside):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "file" / inside))
    with pytest.raises(CacheError, match="HEADSTART_CACHE"):
        cache_folder()


def test_free_bytes(tmp_path):
    assert free_bytes(tmp_path) > 0


def test_a_new_file_is_written(tmp_path):
    write_bytes(tmp_path / "new", b"whole")
    assert read_folder(tmp_path) == {"new": b"whole"}


def test_the_old_file_is_there_until_the_new_one_is_whole(target):
    with atomic_write(target) as file:
        file.write(b"new")
        file.flush()
        assert target.read_bytes() == b"old"
    assert read_folder(target.parent) == {target.name: b"new"}


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt(), SystemExit(1)])
def test_an_error_of_the_writer_keeps_the_old_file_and_passes(target, error):
    with pytest.raises(type(error)):
        write_half(target, error)
    assert read_folder(target.parent) == {target.name: b"old"}


def test_a_full_disk_is_a_sentence_and_leaves_nothing(target, monkeypatch):
    def fail(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(HeadstartError) as caught:
        write_bytes(target, b"new")
    assert str(target) in str(caught.value)
    assert os.strerror(errno.ENOSPC) in str(caught.value)
    assert "MB are free" in str(caught.value)
    assert read_folder(target.parent) == {target.name: b"old"}


def test_a_disk_that_fills_while_writing(target):
    with pytest.raises(HeadstartError, match="could not be written"):
        write_half(target, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert read_folder(target.parent) == {target.name: b"old"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX limits")
def test_a_file_that_may_not_grow_leaves_nothing(target):
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from headstart.files import write_bytes\n"
        "from headstart.errors import HeadstartError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        "    write_bytes(Path(sys.argv[1]), bytes(100_000))\n"
        "except HeadstartError:\n"
        "    sys.exit(7)\n"
    )
    assert run_python(code, target) == 7
    assert read_folder(target.parent) == {target.name: b"old"}


def test_a_failed_rename_leaves_nothing(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(HeadstartError, match="folder could not be written"):
        write_bytes(tmp_path / "folder", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_missing_folder_is_a_sentence(tmp_path):
    with pytest.raises(HeadstartError, match="could not be written"):
        write_bytes(tmp_path / "missing" / "file", b"new")


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot open folders")
def test_a_folder_that_cannot_be_synced_is_no_failure(target, monkeypatch):
    def refuse(*_arguments):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "open", refuse)
    write_bytes(target, b"new")
    assert read_folder(target.parent) == {target.name: b"new"}


@pytest.mark.parametrize("moment", ["while writing", "before the rename"])
def test_a_kill_leaves_the_old_file(target, moment):
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from headstart.files import atomic_write\n"
        "if sys.argv[2] == 'before the rename':\n"
        "    os.fsync = lambda descriptor: os._exit(9)\n"
        "with atomic_write(Path(sys.argv[1])) as file:\n"
        "    file.write(b'new')\n"
        "    if sys.argv[2] == 'while writing':\n"
        "        os._exit(9)\n"
    )
    assert run_python(code, target, moment) == 9
    assert target.read_bytes() == b"old"


def test_writers_at_the_same_time_leave_one_whole_file(tmp_path):
    contents = [bytes([number]) * 50_000 for number in range(8)]
    threads = [
        threading.Thread(target=write_bytes, args=(tmp_path / "file", data)) for data in contents
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read_folder(tmp_path).keys() == {"file"}
    assert (tmp_path / "file").read_bytes() in contents


def write_half(path: Path, error: BaseException) -> None:
    with atomic_write(path) as file:
        file.write(b"half")
        raise error


def read_folder(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def run_python(code: str, *arguments: object) -> int:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, timeout=60, check=False).returncode


def test_only_our_own_old_temporary_files_of_this_path_are_swept(target: Path) -> None:
    folder = target.parent
    stale = ".model.bin.4711.0123abcd.tmp"
    kept = [
        ".model.bin.4711.0123abce.tmp",  # written a moment ago
        ".model2bin.4711.0123abcd.tmp",
        ".other.bin.4711.0123abcd.tmp",
        ".model.bin.4711.0123abcd",
        ".model.bin.x.0123abcd.tmp",
        "model.bin",
    ]
    for name in (stale, *kept):
        (folder / name).write_bytes(b"x")
        if name != kept[0]:
            os.utime(folder / name, (0, 0))
    (folder / ".model.bin.1.00000000.tmp").mkdir()
    os.utime(folder / ".model.bin.1.00000000.tmp", (0, 0))
    sweep_temporary(target)
    assert {path.name for path in folder.iterdir()} == {*kept, ".model.bin.1.00000000.tmp"}
    sweep_temporary(folder / "missing" / "a")


def test_the_name_of_a_temporary_file_is_one_that_is_swept(target: Path) -> None:
    with atomic_write(target) as file:
        (left,) = [path for path in target.parent.iterdir() if path != target]
        os.utime(left, (0, 0))
        sweep_temporary(target)
        assert not left.exists() or os.name == "nt"
        left.write_bytes(b"new")
        file.write(b"")
    assert target.read_bytes() == b"new"
