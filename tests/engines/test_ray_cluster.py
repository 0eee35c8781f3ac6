"""Ray's engine and the cluster: what tasks ask for, nodes that come and go, what Ray changes."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from headstart.engines import use_engine
from headstart.errors import HeadstartError

if importlib.util.find_spec("ray") is None:
    pytest.skip('Ray is not installed: pip install "headstart[ray]"', allow_module_level=True)

from test_ray_engine import engine

from headstart.engines import ray_engine
from headstart.engines.ray_engine import RayEngine

__all__ = ["engine"]  # the fixture: a cluster of its own for this file


def make_teller() -> Any:
    """Opens a work that says what it was given; local, so that it is pickled with its code."""

    @contextlib.contextmanager
    def tell(cores: int) -> Iterator[Any]:
        device = os.environ.get("CUDA_VISIBLE_DEVICES")
        yield lambda items: ((item, cores, device) for item in items)

    return tell


# ---- what Ray changes in this process


def test_results_that_are_left_early_end_without_a_word(engine: RayEngine) -> None:
    def pass_on(_: int) -> Any:
        return contextlib.nullcontext(iter)

    other = RayEngine()
    results = other.map(pass_on, range(100), lost=max, chunk=1)
    assert next(results) == 0
    other.close()
    results.close()  # as when its last reference goes, where Python would print the error
    assert list(engine.map(pass_on, range(9), lost=max, chunk=1)) == list(range(9))


def test_an_end_from_outside_is_handled_by_the_program(engine: RayEngine) -> None:
    assert list(engine.map(lambda _: contextlib.nullcontext(iter), [1], lost=max, chunk=1)) == [1]
    handler = signal.getsignal(signal.SIGTERM)
    assert not getattr(handler, "__module__", "").startswith("ray")


# ---- shares of a GPU


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="each task has a core of its own")
@pytest.mark.parametrize(("share", "at_once"), [(0.5, 2), (1.0, 1)])
def test_tasks_share_a_gpu(engine: RayEngine, tmp_path: Path, share: float, at_once: int) -> None:
    @contextlib.contextmanager
    def meet(_: int) -> Iterator[Any]:
        def run(items: Any) -> Iterator[Any]:
            """Each says that it has begun, and waits whether others do before it ends."""
            for item in items:
                (tmp_path / f"{item} begun").touch()
                deadline = time.monotonic() + (20 if at_once > 1 else 1)
                while len(list(tmp_path.glob("* begun"))) < 2 and time.monotonic() < deadline:
                    time.sleep(0.05)
                both = len(list(tmp_path.glob("* begun"))) == 2
                yield item, both, os.environ.get("CUDA_VISIBLE_DEVICES")

        yield run

    assert engine.slots >= 2
    with use_engine("ray", gpus=share) as sharing:
        first, second = sharing.map(meet, [1, 2], lost=max, chunk=1)
        assert sharing.slots == at_once
    assert first == (1, at_once == 2, "0")
    assert second[0] == 2


def test_tasks_of_a_whole_node_have_their_share(engine: RayEngine) -> None:
    tell, cores = make_teller(), os.cpu_count()
    assert [*engine.map(tell, [1], lost=max, chunk=1, by_node=True)] == [(1, cores, None)]
    with use_engine("ray", gpus=0.5) as sharing:
        assert [*sharing.map(tell, [1], lost=max, chunk=1, by_node=True)] == [(1, cores, "0")]


def test_gpus_that_no_node_has_are_refused(engine: RayEngine) -> None:
    def count(_: int) -> Any:
        return contextlib.nullcontext(list)

    assert list(engine.map(count, [1], lost=max, chunk=1)) == [1]
    sharing = RayEngine(gpus=2)
    said = "Each task shall have 2 GPUs, but no node of the Ray cluster has more than 1"
    with pytest.raises(HeadstartError, match=said):
        next(sharing.map(count, [1], lost=max, chunk=1))


# ---- nodes that come and go


def test_a_task_that_no_node_has_the_cores_for_any_more_is_sent_again(
    engine: RayEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert next(engine.map(make_teller(), [0], lost=max, chunk=1))[:2] == (0, 1)
    list_cores, start = engine.list_cores, time.monotonic()

    def pretend() -> list[int]:
        """A large node, which goes before it has begun anything; after it none, then the real."""
        passed = time.monotonic() - start
        assert passed < 30, "it waits for the node that was"
        return [64] if passed < 1 else [] if passed < 3 else list_cores()

    monkeypatch.setattr(engine, "list_cores", pretend)
    found = list(engine.map(make_teller(), [1, 2], lost=max, chunk=1, by_node=True))
    assert [pair[:2] for pair in found] == [(item, os.cpu_count()) for item in (1, 2)]


class Cluster:
    """What Ray says of nodes, at a time that is set."""

    def __init__(self, *resources: dict[str, float]) -> None:
        self.resources, self.now = list(resources), 1000.0

    def nodes(self) -> list[dict[str, Any]]:
        gone = {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}
        return [gone, *({"Alive": True, "Resources": each} for each in self.resources)]

    def open(self, monkeypatch: pytest.MonkeyPatch, gpus: float | None = None) -> RayEngine:
        """An engine that is connected to it."""
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        monkeypatch.setattr(ray_engine, "time", SimpleNamespace(monotonic=lambda: self.now))
        engine = RayEngine(gpus=gpus)
        engine._ray = self
        return engine


@pytest.mark.parametrize(
    ("gpus", "nodes", "slots"),
    [
        (None, [{"CPU": 8.0}, {"CPU": 2.0, "GPU": 1.0}, {"GPU": 1.0}], 10),
        (0.25, [{"CPU": 8.0}, {"CPU": 2.0, "GPU": 1.0}, {"GPU": 1.0}], 2),
        (0.4, [{"CPU": 8.0, "GPU": 2.0}], 4),  # what is left of two GPUs makes no share
        (2.0, [{"CPU": 8.0, "GPU": 3.0}, {"CPU": 8.0, "GPU": 1.0}], 1),
    ],
)
def test_slots_are_those_of_nodes_that_hold_a_task(
    gpus: float | None,
    nodes: list[dict[str, float]],
    slots: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert Cluster(*nodes).open(monkeypatch, gpus).slots == slots


def wait_for_nodes(engine: RayEngine, cluster: Cluster, seconds: int) -> None:
    """Ask each second, as a map does while nothing is computed."""
    for _ in range(seconds):
        assert engine.slots == 1
        cluster.now += 1


def test_nodes_are_waited_for_from_when_they_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster({"CPU": 4.0})
    engine = cluster.open(monkeypatch)
    assert engine.slots == 4
    cluster.resources.clear()
    cluster.now += 3600  # a long scan
    wait_for_nodes(engine, cluster, 100)
    cluster.now += 3600  # another one, after what was cut short by Ctrl-C
    wait_for_nodes(engine, cluster, 120)
    cluster.resources.append({"CPU": 2.0})
    assert engine.slots == 2
    cluster.resources.clear()
    cluster.now += 1
    wait_for_nodes(engine, cluster, 120)
    with pytest.raises(HeadstartError, match="has had no core to compute on for 120 s"):
        wait_for_nodes(engine, cluster, 2)


def test_nodes_with_too_few_gpus_are_not_waited_for_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = Cluster({"CPU": 4.0, "GPU": 1.0}, {"CPU": 4.0, "GPU": 1.0})
    engine = cluster.open(monkeypatch, gpus=2.0)
    wait_for_nodes(engine, cluster, 120)
    with pytest.raises(HeadstartError, match="has had no core with 2 GPUs to compute on for 120 s"):
        wait_for_nodes(engine, cluster, 2)
