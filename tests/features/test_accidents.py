"""Kills, full disks, lost files, flipped bytes, neighbours: the next run is as if nothing was.

HEADSTART_KILLS says how many random kills there are; benchmarks/kills.py makes a hundred.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from accidents import PHASES, Run, Stop, Trainer, choose_stop, link_weights, new_cache
from accidents import read_features as read_all
from conftest import encode, write_digits

from headstart.bundle import load_bundle
from headstart.data.scan import Sample, scan_folder
from headstart.errors import CacheError, HeadstartError
from headstart.features.extract import _Pass, extract_manifest
from headstart.features.maintenance import clear_cache, verify_cache
from headstart.models.loaders import load_prefix

KILLS = int(os.environ.get("HEADSTART_KILLS", "5"))

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")


@dataclass(frozen=True)
class Scene:
    """Photos, and what an undisturbed run makes of them."""

    trainer: Trainer
    photos: Path
    weights: Path
    first: Path
    whole: Run
    bundle: bytes
    features: np.ndarray

    def cache(self, folder: Path) -> Path:
        return new_cache(folder, self.weights)

    def full_cache(self, folder: Path) -> Path:
        return shutil.copytree(self.first, folder, symlinks=True)

    def check(self, cache: Path, bundle: Path) -> None:
        """The run after an accident gives what the undisturbed run gave, bit for bit."""
        done = self.trainer.run(cache, bundle)
        assert done.status == 0, done.stderr
        assert bundle.read_bytes() == self.bundle
        assert np.array_equal(read_all(cache, self.photos), self.features)
        assert verify_cache(cache).damaged == ()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Scene]:
    scratch = tmp_path_factory.mktemp("accidents")
    photos = write_digits(scratch / "photos", ("0", "1", "2"), 20)
    weights = link_weights(cache, scratch)
    first, bundle = new_cache(scratch / "first", weights), scratch / "whole.headstart"
    with Trainer(photos, scratch) as trainer:
        whole = trainer.run(first, bundle)
        assert whole.status == 0, whole.stderr
        assert {*PHASES, "end"} <= set(whole.moments)
        assert whole.counts["shard"] > 3
        features = read_all(first, photos)
        yield Scene(trainer, photos, weights, first, whole, bundle.read_bytes(), features)


# ---- kills and Ctrl-C


@needs_fork
@pytest.mark.parametrize("number", range(KILLS))
def test_a_kill_at_any_moment(scene: Scene, tmp_path: Path, number: int) -> None:
    cache, bundle = scene.cache(tmp_path / "cache"), tmp_path / "a.headstart"
    stop = choose_stop(scene.whole, random.Random(number))
    killed = scene.trainer.run(cache, bundle, stop)
    assert killed.status in (-signal.SIGKILL, 0), killed.stderr
    assert verify_cache(cache).damaged == ()
    assert not bundle.exists() or bundle.read_bytes() == scene.bundle
    scene.check(cache, bundle)


@needs_fork
def test_a_kill_in_each_phase_over_an_older_bundle(scene: Scene, tmp_path: Path) -> None:
    cache, bundle = scene.cache(tmp_path / "cache"), tmp_path / "a.headstart"
    assert scene.trainer.run(cache, bundle, seed=1).status == 0
    clear_cache(cache)
    older = bundle.read_bytes()
    for stop in (Stop("scan"), Stop("shard", count=3), Stop("shard", count=2), Stop("save", 0.002)):
        assert scene.trainer.run(cache, bundle, stop).status == -signal.SIGKILL
        assert verify_cache(cache).damaged == ()
        assert bundle.read_bytes() in (older, scene.bundle)
        load_bundle(bundle)
    scene.check(cache, bundle)


@needs_fork
def test_control_c_keeps_what_was_computed(scene: Scene, tmp_path: Path) -> None:
    cache, bundle = scene.cache(tmp_path / "cache"), tmp_path / "a.headstart"
    stopped = scene.trainer.run(cache, bundle, Stop("shard", 0.0, 3, signal.SIGINT))
    assert stopped.status == 130
    assert "Interrupted. What was computed is kept" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert not bundle.exists()
    found = verify_cache(cache)
    assert found.shards >= 3
    assert (found.damaged, found.litter) == ((), 0)
    again = scene.trainer.run(cache, bundle)
    assert again.counts["shard"] < scene.whole.counts["shard"]
    scene.check(cache, bundle)


# ---- damage, neighbours


@needs_fork
def test_a_flipped_byte_in_each_shard(scene: Scene, tmp_path: Path) -> None:
    cache, bundle = scene.full_cache(tmp_path / "cache"), tmp_path / "a.headstart"
    shards = sorted((cache / "activations-v1").glob("*.npy"))
    for number, path in enumerate(shards):
        data = bytearray(path.read_bytes())
        data[random.Random(number).randrange(len(data))] ^= 1 << (number % 8)
        path.write_bytes(data)
    copy = tmp_path / "copy"
    shutil.copytree(cache, copy, symlinks=True)
    assert len(verify_cache(copy).damaged) == len(shards)
    for folder in (copy, cache):  # dropped by verify, and found by the run itself
        scene.check(folder, bundle)


@needs_fork
def test_two_processes_on_one_cache(scene: Scene, tmp_path: Path) -> None:
    cache = scene.cache(tmp_path / "cache")
    environment = {**os.environ, "HEADSTART_CACHE": str(cache)}
    bundles = [tmp_path / "a.headstart", tmp_path / "b.headstart"]
    command = [sys.executable, "-m", "headstart"]
    running = [
        subprocess.Popen(
            [*command, "train", scene.photos, "--recipe", "probe", "-o", bundle],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for bundle in bundles
    ]
    for process in running:
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr
    assert [bundle.read_bytes() == scene.bundle for bundle in bundles] == [True, True]
    scene.check(cache, bundles[0])


# ---- full disks and lost permission


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of four megabytes."""
    folder = Path(tempfile.mkdtemp())
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        folder.rmdir()
        pytest.skip(f"a small file system cannot be mounted here: {error}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
    folder.rmdir()


def fill(disk: Path, left: int) -> Path:
    """A file that leaves so many bytes free."""
    filler = disk / "filler"
    filler.write_bytes(b"x" * (shutil.disk_usage(disk).free - left))
    return filler


@needs_fork
@pytest.mark.parametrize("left", [0, 60_000, 200_000])
def test_a_disk_that_gets_full_under_the_cache(
    scene: Scene, tmp_path: Path, small_disk: Path, left: int
) -> None:
    cache, bundle = scene.cache(small_disk / "cache"), tmp_path / "a.headstart"
    filler = fill(small_disk, left)
    full = scene.trainer.run(cache, bundle)
    assert full.status == 1, full.stderr
    text = " ".join(full.stderr.split())
    assert "Traceback" not in text
    assert any(word in text for word in ("No space left", "disk is full", "disk I/O error")), text
    assert "ree some space" in text
    filler.unlink()
    assert verify_cache(cache).damaged == ()
    scene.check(cache, bundle)


@needs_fork
def test_a_full_cache_can_be_cleared(scene: Scene, tmp_path: Path, small_disk: Path) -> None:
    cache, bundle = scene.full_cache(small_disk / "cache"), tmp_path / "a.headstart"
    fill(small_disk, 0)
    stuck = scene.trainer.run(cache, bundle)
    assert stuck.status == 1
    assert "(0.0 MB are free). Free some space" in " ".join(stuck.stderr.split())
    assert clear_cache(cache).left_bytes == 0
    assert shutil.disk_usage(small_disk).free > 100_000
    assert verify_cache(cache).shards == 0


@needs_fork
def test_a_disk_too_small_for_the_bundle(scene: Scene, tmp_path: Path, small_disk: Path) -> None:
    cache, bundle = scene.full_cache(tmp_path / "cache"), small_disk / "a.headstart"
    bundle.write_bytes(b"older")
    full = scene.trainer.run(cache, bundle)
    assert full.status == 1
    assert "No space left" in full.stderr
    assert "Nothing was left half-written" in " ".join(full.stderr.split())
    assert [path.name for path in small_disk.iterdir()] == ["a.headstart"]
    assert bundle.read_bytes() == b"older"
    scene.check(cache, tmp_path / "b.headstart")


def without_power() -> list[str]:
    """What makes permissions bind the superuser as well."""
    if os.getuid() != 0:
        return []
    if not shutil.which("setpriv"):
        pytest.skip("the superuser writes everywhere, and there is no setpriv")
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]


@needs_fork
@pytest.mark.parametrize("lost", ["cache", "shards", "shard", "output", "photo"])
def test_lost_permission(scene: Scene, tmp_path: Path, lost: str) -> None:
    make = scene.cache if lost == "cache" else scene.full_cache
    cache, out = make(tmp_path / "cache"), tmp_path / "out"
    photos, bundle = shutil.copytree(scene.photos, tmp_path / "photos"), out / "a.headstart"
    out.mkdir()
    shards = cache / "activations-v1"
    closed = {
        "cache": cache,
        "shards": shards,
        "shard": next(iter(shards.glob("*.npy")), cache),
        "output": out,
        "photo": photos / "0" / "000.png",
    }[lost]
    mode = closed.stat().st_mode
    closed.chmod(0o555 if closed.is_dir() else 0)
    command = [*without_power(), sys.executable, "-m", "headstart", "train", photos, "-o", bundle]
    command += ["--recipe", "probe"]
    environment = {**os.environ, "HEADSTART_CACHE": str(cache)}
    done = subprocess.run(
        [*command, "--force"], env=environment, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == (lost in ("cache", "shards", "output")), done.stderr
    if lost != "shard":  # which is made again without a word
        assert str(closed) in done.stderr
    if lost == "photo":
        assert "Permission denied" in done.stderr
    if closed.exists():
        closed.chmod(mode)
    bundle.unlink(missing_ok=True)  # else the split without the photo is gone on with
    scene.check(cache, bundle)


# ---- photos that change


@pytest.fixture
def changing(tmp_path: Path, empty_cache: Path) -> Path:
    return write_digits(tmp_path / "photos", ("0", "1"), 4)


def test_a_photo_changed_deleted_or_hidden_while_running(changing: Path, scene: Scene) -> None:
    prefix, manifest = load_prefix("efficientnet-lite0"), scan_folder(changing)
    changed, deleted = changing / "0" / "000.png", changing / "1" / "001.png"
    before = changed.read_bytes()
    changed.write_bytes(encode(np.full((60, 60, 3), 7)))
    deleted.unlink()
    found = extract_manifest(prefix, manifest)
    assert {problem.path: problem.reason for problem in found.problems} == {
        changed: "changed while running; run again",
        deleted: "cannot be read: No such file or directory",
    }
    assert len(found.samples) == found.forwarded == 6
    new = extract_manifest(prefix, scan_folder(changing))
    assert (len(new.samples), new.forwarded) == (7, 1)
    changed.write_bytes(before)
    old = extract_manifest(prefix, scan_folder(changing))
    assert (len(old.samples), old.forwarded) == (7, 1)  # nothing was kept under its digest
    assert not np.array_equal(old.array[0], new.array[0])
    assert np.array_equal(old.array[1:], new.array[1:])


def test_a_copy_stands_in_for_a_photo_that_is_gone(changing: Path) -> None:
    prefix = load_prefix("efficientnet-lite0")
    for name in ("x.png", "y.png"):
        shutil.copy(changing / "0" / "000.png", changing / "0" / name)
    manifest, reports = scan_folder(changing), []
    (changing / "0" / "000.png").unlink()
    (changing / "0" / "x.png").write_bytes(b"something else")
    found = extract_manifest(prefix, manifest, progress=lambda *done: reports.append(done))
    assert found.problems == ()
    assert (len(found.samples), found.forwarded) == (10, 8)
    assert np.array_equal(found.array[0], found.array[4])
    assert reports[-1] == (10, 10)
    assert all(name > 0 for name in found.seconds.values())


def test_broken_copies_are_tried_once(changing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        (changing / "0" / f"broken{number}.png").write_bytes(b"no photo")
    passes: list[int] = []
    forward = _Pass.forward

    def count(self: _Pass, samples: list[Sample]) -> None:
        passes.append(len(samples))
        forward(self, samples)

    monkeypatch.setattr(_Pass, "forward", count)
    found = extract_manifest(load_prefix("efficientnet-lite0"), scan_folder(changing))
    assert passes == [9]
    assert [problem.reason for problem in found.problems] == ["not an image of a known format"] * 5


# ---- the limit, and what goes meanwhile


def test_the_limit_is_kept_after_a_run(changing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix, manifest = load_prefix("efficientnet-lite0"), scan_folder(changing)
    monkeypatch.setenv("HEADSTART_CACHE_BYTES", "1kB")
    found = extract_manifest(prefix, manifest)
    assert (len(found.samples), found.forwarded) == (8, 8)
    assert verify_cache().shards == 0
    monkeypatch.setenv("HEADSTART_CACHE_BYTES", "1MB")
    assert extract_manifest(prefix, manifest).forwarded == 8
    again = extract_manifest(prefix, manifest)
    assert again.forwarded == 0
    assert np.array_equal(again.array, found.array)
    monkeypatch.setenv("HEADSTART_CACHE_BYTES", "some")
    with pytest.raises(CacheError, match="not a size"):
        extract_manifest(prefix, manifest)


def test_a_prune_that_fails_does_not_fail_the_run(
    changing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: object) -> None:
        raise CacheError("busy")

    monkeypatch.setattr("headstart.features.extract.prune_cache", fail)
    found = extract_manifest(load_prefix("efficientnet-lite0"), scan_folder(changing))
    assert len(found.samples) == 8


def test_a_cache_that_is_removed_while_running(
    changing: Path, monkeypatch: pytest.MonkeyPatch, empty_cache: Path
) -> None:
    prefix, manifest = load_prefix("efficientnet-lite0"), scan_folder(changing)

    def remove(done: int, total: int) -> None:
        if done == total:
            shutil.rmtree(empty_cache / "activations-v1")

    with pytest.raises(HeadstartError, match=str(empty_cache)):
        extract_manifest(prefix, manifest, progress=remove)
    assert extract_manifest(prefix, manifest).forwarded == 8
