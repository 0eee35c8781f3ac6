"""Work on a Ray cluster of one node: the same results as on this machine, whatever dies."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Timer
from typing import Any

import fsspec
import numpy as np
import pytest
from conftest import write_digits
from test_nodes import CLOSE, make_network, take_steps

from headstart import ImageClassifier
from headstart.cli.commands import app
from headstart.data.scan import scan_folder
from headstart.data.split import list_folds
from headstart.engines import use_engine
from headstart.errors import HeadstartError
from headstart.features.activations import open_activations
from headstart.features.extract import extract_manifest
from headstart.features.maintenance import describe_cache
from headstart.models.boundary import Boundary, Prefix, cut_prefix
from headstart.models.loaders import load_prefix
from headstart.task import MULTILABEL
from headstart.testing import check_engine
from headstart.training.linear import fit_head
from headstart.training.nodes import spread
from headstart.training.probe import fit_probe, hold_out

if importlib.util.find_spec("ray") is None:
    pytest.skip('Ray is not installed: pip install "headstart[ray]"', allow_module_level=True)

from headstart.engines.ray_engine import RayEngine

BROKEN = "broken.png"
ALONE: dict[str, Any] = {"standalone_mode": False}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayEngine]:
    """A cluster of its own, in a home of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("RAY_OVERRIDE_RESOURCES", '{"GPU": 1}')  # a claim; nothing computes on it
        engine = RayEngine()
        yield engine
        engine.close()
        assert not {"RAY_AUTH_TOKEN", "RAY_AUTH_MODE"} & set(os.environ)  # put back


@pytest.fixture(scope="module")
def prefix() -> Prefix:
    return load_prefix("efficientnet-lite0")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Sixty digits, two copies of one of them, and two files that are no photos."""
    folder = write_digits(tmp_path / "photos", ("0", "1", "2"), 20)
    (folder / "0" / "copy.png").write_bytes((folder / "0" / "000.png").read_bytes())
    (folder / "1" / BROKEN).write_bytes((folder / "1" / "001.png").read_bytes()[:-200])
    (folder / "2" / BROKEN).write_bytes(b"no photo")
    return folder


@pytest.fixture
def other_cache(tmp_path: Path) -> Path:
    return tmp_path / "other-cache"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ray://127.0.0.1:10001", "Ray Client, which is not supported"),
        ("nowhere", "No Ray cluster can be reached at nowhere"),
        ("127.0.0.1:1", "No Ray cluster can be reached at 127.0.0.1:1"),
        ("10.0.0..1:6379", "No Ray cluster can be reached at 10.0.0..1:6379"),  # no IDNA label
    ],
)
def test_an_address_without_a_cluster_is_said(address: str, said: str) -> None:
    with pytest.raises(HeadstartError, match=said):
        RayEngine(address)


def test_ray_keeps_the_contract(engine: RayEngine) -> None:
    check_engine(engine)


# ---- closed to others


def list_tree() -> set[int]:
    """This process and all that descend from it."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "stat").read_text().rpartition(")")[2]
                parents[int(entry.name)] = int(status.split()[1])
            except OSError:
                continue
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def list_listening() -> list[str]:
    """Local addresses, in hexadecimal, that the processes of the cluster listen on."""
    inodes = set()
    for pid in list_tree():
        with contextlib.suppress(OSError):
            for link in list(Path(f"/proc/{pid}/fd").iterdir()):
                with contextlib.suppress(OSError):  # such as that of the listing itself
                    inodes.add(str(link.readlink()).removeprefix("socket:[").removesuffix("]"))
    rows = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    return [row[1].partition(":")[0] for row in rows if row[3] == "0A" and row[9] in inodes]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nobody_else_can_reach_the_cluster(engine: RayEngine) -> None:
    with socket.create_server(("0.0.0.0", 0)):  # the test sees what it looks for
        assert "00000000" in list_listening()
    listening = list_listening()
    assert len(listening) >= 6  # of this process, Ray's own and its workers
    loopback = {"0100007F", "0000000000000000FFFF00000100007F"}
    assert set(listening) <= loopback
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert not (Path.home() / ".ray").exists()  # where Ray's own token would be for all to read


# ---- extraction


def extract(prefix: Prefix, folder: Path, **named: Any) -> Any:
    return extract_manifest(prefix, scan_folder(folder), runtime="onnxruntime", **named)


def test_the_same_features_and_problems_and_each_goes_on_with_the_other(
    engine: RayEngine,
    prefix: Prefix,
    photos: Path,
    empty_cache: Path,
    other_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reports: list[tuple[int, int]] = []
    monkeypatch.chdir(photos.parent)
    relative = Path(photos.name)
    with use_engine(engine):
        far = extract(prefix, relative, progress=lambda *done: reports.append(done))
    monkeypatch.setenv("HEADSTART_CACHE", str(other_cache))
    near = extract(prefix, relative)
    assert np.array_equal(far.array, near.array)
    assert (far.samples, far.problems, far.flags) == (near.samples, near.problems, near.flags)
    assert [problem.path.name for problem in far.problems] == [BROKEN, BROKEN]
    assert (far.forwarded, near.forwarded) == (60, 60)
    assert reports[0] == (1, 63)  # the copy counts as done
    assert reports[-1] == (63, 63)
    assert reports == sorted(reports)
    # What one has computed the other finds.
    monkeypatch.setenv("HEADSTART_CACHE", str(empty_cache))
    write_digits(photos, ("0", "1", "2"), 30, start=20)
    assert extract(prefix, photos).forwarded == 30
    write_digits(photos, ("0", "1"), 36, start=30)
    with use_engine(engine):
        assert extract(prefix, photos).forwarded == 12
        assert extract(prefix, photos).forwarded == 0


def test_nodes_read_addresses_by_themselves(
    engine: RayEngine, prefix: Prefix, few_digits: Path, empty_cache: Path
) -> None:
    with use_engine(engine):
        found = extract(prefix, Path(f"file://{few_digits}"))
        assert (len(found.samples), found.forwarded, found.problems) == (12, 12, ())
        assert extract(prefix, few_digits).forwarded == 0
        fsspec.filesystem("memory").pipe_file("/here/only/a.png", b"no photo")
        with pytest.raises(HeadstartError, match=r"here/only/a\.png is on this machine"):
            extract(prefix, Path("memory://here"))


def list_workers(*states: bytes) -> list[int]:
    """Ids of Ray's processes that compute, or are in one of more states."""
    found = []
    for pid in list_tree():
        try:
            name = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if name.startswith(tuple(b"ray::" + state for state in (b"_run", *states))):
            found.append(pid)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_killed_workers_lose_no_photo_and_double_none(
    engine: RayEngine,
    prefix: Prefix,
    tmp_path: Path,
    empty_cache: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, killed = write_digits(tmp_path / "more", ("3", "4"), 60), []

    def kill(done: int, _: int) -> None:
        computing = list_workers()
        if done >= 16 * (len(killed) + 1) and len(killed) < 3 and computing:
            os.kill(computing[0], signal.SIGKILL)
            killed.append(computing[0])

    with use_engine(engine):
        found = extract(prefix, folder, progress=kill)
    assert killed
    assert found.problems == ()
    assert (len(found.samples), found.forwarded) == (120, 120)
    assert [part["photos"] for part in describe_cache()] == [120, 120]  # their quality, too
    assert capsys.readouterr().out == ""  # Ray would write between rows
    assert np.isfinite(found.array).all()
    assert extract(prefix, folder).forwarded == 0


def test_the_same_views(
    engine: RayEngine,
    prefix: Prefix,
    few_digits: Path,
    other_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ends = cut_prefix(prefix, Boundary("block6d_add", (7, 7, 192), 18816, 0, 0, 0))
    manifest, found = scan_folder(few_digits), []
    for cache, used in (("near", "local"), ("far", engine)):
        monkeypatch.setenv("HEADSTART_CACHE", str(other_cache / cache))
        with use_engine(used):
            found.append(open_activations(ends, manifest, views=3, runtime="onnxruntime"))
    near, far = found
    rows, views = np.arange(12).repeat(3), np.tile(np.arange(3), 12)
    assert np.array_equal(near.read(rows, views), far.read(rows, views))
    assert (near.forwarded, far.forwarded) == (36, 36)


# ---- prediction


def test_predict_writes_the_same_rows(
    engine: RayEngine, trained_bundle: Path, few_digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = []
    for name in ("local", "ray"):
        with use_engine(engine if name == "ray" else "local"):
            paths = [str(trained_bundle), str(few_digits), "gone.png"]
            app(["predict", *paths, "--csv", "--engine", name, "--views", "2"], **ALONE)
        told.append(capsys.readouterr().out)
    near, far = told
    assert near == far
    assert len(near.splitlines()) == 1 + 12 + 1


# ---- training


def test_the_same_fits_and_the_matrix_is_sent_once(
    engine: RayEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(240) % 3
    rows = rng.normal(size=(240, 20)) + 0.7 * labels[:, None]
    folds = list(list_folds(labels, [str(row) for row in range(240)], 4, 0))
    names = np.eye(3)[labels]

    def fit() -> list[Any]:
        probe, head = fit_probe(rows, labels, 3, folds), fit_head(rows, names, folds, MULTILABEL)
        held_out = hold_out(rows, labels, 3, [folds, folds[::-1]], 0.01)
        return [probe.kernel, probe.held_out, probe.path, head.kernel, head.path, held_out]

    near = fit()
    monkeypatch.setattr("headstart.training.fits.LEAST_SENT", 240)
    puts, put = [], engine._ray.put
    monkeypatch.setattr(engine._ray, "put", lambda held: puts.append(held) or put(held))
    with use_engine(engine):
        far = fit()
    assert len(puts) == 3  # not one for each strength
    for ours, theirs in zip(near, far, strict=True):
        assert np.array_equal(ours, theirs)


def test_the_same_training(
    engine: RayEngine, trained: Any, digits_folder: Path, empty_cache: Path
) -> None:
    with use_engine(engine):
        found = ImageClassifier(engine="ray").fit(digits_folder)
    assert found.evaluation == trained.evaluation
    assert found.bundle.members.keys() == trained.bundle.members.keys()
    assert found.bundle.members == trained.bundle.members


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_same_steps_of_fine_tuning_though_workers_are_killed_in_one(
    engine: RayEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headstart.training.nodes.LEAST_SENT", 20)
    monkeypatch.setattr(RayEngine, "nodes", 2)  # on this machine, with a core each
    monkeypatch.setattr(engine, "list_cores", lambda: [1, 1])
    here, there, sent, send = make_network(), make_network(), [], engine.start
    with use_engine(engine):
        assert spread(there, 100) == ""
    started: list[int] = []

    def interrupt(work: list[Any], items: list[Any], **asked: int) -> Any:
        if len(sent) == 6:  # the fourth step; a process that is stopped computes nothing of it
            started[:] = list_workers(b"IDLE")
            for pid in started:
                os.kill(pid, signal.SIGSTOP)
            Timer(0.5, lambda: [os.kill(pid, signal.SIGKILL) for pid in started]).start()
        sent.append(items)
        return send(work, items, **asked)

    monkeypatch.setattr(engine, "start", interrupt)
    one, two = take_steps(here), take_steps(there)
    np.testing.assert_allclose(two[:, 0], one[:, 0], rtol=CLOSE)
    np.testing.assert_array_equal(two[:, 1], one[:, 1])
    assert started
    assert len(sent) > 2 * len(one)
