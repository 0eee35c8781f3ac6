"""The table of engines, the block that sets one, and the check that rejects broken twins."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import itertools
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from headstart import ImageClassifier, extract_features
from headstart.engines import ENGINES, check_is_seen, current_engine, use_engine
from headstart.engines.flights import DiedError, Flights
from headstart.engines.local import LocalEngine
from headstart.errors import HeadstartError, MissingPackageError
from headstart.features.choice import choose_runtime, is_measurable
from headstart.features.forward import open_forward
from headstart.models.loaders import load_prefix
from headstart.testing import check_engine


class Broken(LocalEngine):
    """The local engine, tampered with."""

    def __init__(self, change: Callable[..., Any]) -> None:
        self._change = change

    def map(self, *arguments: Any, **named: Any) -> Any:
        return self._change(super().map, *arguments, **named)


def backwards(map: Any, open_work: Any, items: Any, **named: Any) -> Iterator[Any]:
    results = map(open_work, items, **named)
    for first in results:
        yield from (*itertools.islice(results, 1), first)


def without_the_last(map: Any, open_work: Any, items: Any, **named: Any) -> Iterator[Any]:
    yield from list(map(open_work, items, **named))[:-1]


def all_at_once(map: Any, open_work: Any, items: Any, **named: Any) -> Iterator[Any]:
    yield from map(open_work, list(items), **named)


def opened_for_each(map: Any, open_work: Any, items: Any, **named: Any) -> Iterator[Any]:
    for item in items:
        yield from map(open_work, [item], **named)


def with_errors_of_its_own(map: Any, open_work: Any, items: Any, **named: Any) -> Iterator[Any]:
    try:
        yield from map(open_work, items, **named)
    except HeadstartError as error:
        raise HeadstartError(f"task failed: {error!r}") from error


def without_errors(map: Any, open_work: Any, items: Any, **named: Any) -> Iterator[Any]:
    with contextlib.suppress(HeadstartError):
        yield from map(open_work, items, **named)


def other_by_node(map: Any, open_work: Any, items: Any, **named: Any) -> Iterator[Any]:
    shift = 1 if named["by_node"] else 0
    yield from map(open_work, (item + shift for item in items), **named)


def test_the_local_engine_keeps_the_contract() -> None:
    check_engine(LocalEngine())


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        (backwards, "not in the order"),
        (without_the_last, "99 results"),
        (all_at_once, "without end"),
        (opened_for_each, "opened the work 100 times"),
        (with_errors_of_its_own, "arrived as another one"),
        (without_errors, "did not arrive"),
        (other_by_node, "all cores of a node gave other results"),
    ],
)
def test_the_check_rejects_broken_twins(change: Callable[..., Any], broken: str) -> None:
    with pytest.raises(AssertionError, match=broken):
        check_engine(Broken(change))


def test_an_engine_is_in_use_within_its_block_only() -> None:
    class Other(LocalEngine):
        name = "other"

    other = Other()
    with use_engine(other):
        assert current_engine() is other
        with use_engine(None):
            assert current_engine() is other
        with use_engine("local"):
            assert current_engine().name == "local"
    assert current_engine().name == "local"


@pytest.mark.parametrize(
    ("engine", "address", "said"),
    [
        ("rey", None, "Did you mean ray"),
        ("local", "10.0.0.1:6379", "Say also: --engine ray"),
    ],
)
def test_what_is_no_engine_is_said(engine: str, address: str | None, said: str) -> None:
    with pytest.raises(HeadstartError, match=said), use_engine(engine, address=address):
        pass


@pytest.mark.parametrize(
    ("engine", "gpus", "said"),
    [
        ("local", 0.5, "Say also: --engine ray"),
        ("ray", 0.0, "0 is no share of a GPU"),
        ("ray", 1.5, "1.5 is no share of a GPU"),
        ("ray", 1e-5, "1e-05 is no share of a GPU"),
        ("ray", math.inf, "inf is no share of a GPU"),
        ("ray", math.nan, "nan is no share of a GPU"),
    ],
)
def test_what_is_no_share_is_said(engine: str, gpus: float, said: str) -> None:
    with pytest.raises(HeadstartError, match=said), use_engine(engine, gpus=gpus):
        pass


class Sharing(LocalEngine):
    """An engine whose tasks have a share of a GPU."""

    gpus = 0.5


def test_gpus_are_for_the_runtime_that_uses_them() -> None:
    prefix = load_prefix("efficientnet-lite0")
    with use_engine(Sharing()):
        assert choose_runtime(prefix, ["0" * 64]) == "tensorflow"
        assert not is_measurable(prefix)
        with pytest.raises(HeadstartError, match="onnxruntime computes on CPUs"):
            open_forward(prefix, "onnxruntime")
    assert choose_runtime(prefix, ["0" * 64]) != "tensorflow"


def test_without_ray_its_pip_line_is_said_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "ray" else find_spec(name)
    )
    for call in (
        lambda: extract_features("efficientnet-lite0", "nowhere", engine="ray"),
        lambda: ImageClassifier(engine="ray").fit("nowhere"),
    ):
        with pytest.raises(MissingPackageError, match=r'pip install "headstart\[ray\]"'):
            call()
    assert ENGINES["ray"].packages == ("ray",)


# ---- what becomes of chunks, without a cluster


class Tasks:
    """Computes squares; what is in ``ends`` dies as it says, so often."""

    slots = 2

    def __init__(self, ends: dict[int, list[DiedError]]) -> None:
        self.ends, self.started = ends, []
        self._items: list[list[int]] = []

    def start(self, work: Any, items: list[int]) -> int:
        self._items.append(items)
        self.started.append(len(items))
        return len(self._items) - 1

    def wait(self, references: list[int]) -> list[int]:
        return references[-1:]  # the last one first: results must be put in order

    def fetch(self, reference: int) -> list[int]:
        for item in self._items[reference]:
            if self.ends.get(item):
                raise self.ends[item].pop()
        return [item * item for item in self._items[reference]]


def follow(tasks: Tasks, count: int = 64, size: int = 8) -> list[Any]:
    return list(
        Flights(tasks, None, lambda item, why: (item, why)).follow(iter(range(count)), size)
    )


def crash() -> DiedError:
    return DiedError(is_guilty=True)


def test_a_process_that_died_once_is_no_fault_of_the_items() -> None:
    tasks = Tasks({20: [crash()], 40: [DiedError(is_guilty=False)] * 5})
    assert follow(tasks) == [n * n for n in range(64)]
    assert set(tasks.started) == {8}


def test_an_item_that_ends_its_process_is_given_up_alone() -> None:
    found = follow(Tasks({21: [crash() for _ in range(99)]}))
    assert found.pop(21) == (21, "the process that computed it crashed")
    assert found == [n * n for n in range(64) if n != 21]


def test_a_chunk_for_which_memory_is_short_is_halved() -> None:
    def run_short(times: int) -> list[DiedError]:
        return [DiedError(is_guilty=False, is_large=True) for _ in range(times)]

    tasks = Tasks({21: run_short(4)})
    assert follow(tasks) == [n * n for n in range(64)]
    assert 4 in tasks.started
    lost = follow(Tasks({21: run_short(99)}))
    assert lost[21] == (21, "the process that computed it ran out of memory")


def test_what_no_item_is_to_blame_for_ends_the_run() -> None:
    ends = {item: [crash() for _ in range(99)] for item in range(64)}
    with pytest.raises(HeadstartError, match="one after the other"):
        follow(Tasks(ends))
    ends = {21: [DiedError(is_guilty=False) for _ in range(99)]}
    with pytest.raises(HeadstartError, match="lost the same task 11 times"):
        follow(Tasks(ends))


def test_what_waits_is_bounded() -> None:
    class Stuck(Tasks):
        def wait(self, references: list[int]) -> list[int]:
            assert len(references) <= 4
            return [r for r in references if r != 0] or references

    taken: list[int] = []

    def count() -> Iterator[int]:
        for item in range(10_000):
            taken.append(item)
            yield item

    results = Flights(Stuck({}), None, lambda item, why: why).follow(count(), 8)
    assert next(results) == 0
    assert len(taken) <= 8 * 8


# ---- what is said


class Remote(LocalEngine):
    """The local engine, which says that it is not."""

    name, is_remote = "ray", True


def test_nodes_that_do_not_see_the_photos_are_named(tmp_path: Path) -> None:
    here, reason = tmp_path / "a.jpg", f"cannot be read: {os.strerror(errno.ENOENT)}"
    here.touch()
    check_is_seen(here, reason)
    with use_engine(Remote()):
        check_is_seen(tmp_path / "gone.jpg", reason)
        check_is_seen(here, "damaged image")
        with pytest.raises(HeadstartError, match="a node of the cluster does not find it"):
            check_is_seen(here, reason)
