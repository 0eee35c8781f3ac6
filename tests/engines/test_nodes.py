"""Steps whose gradients are computed in parts are those of one process, without a cluster."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from small_network import CLASSES, SHAPE, build_small

from headstart.engines import use_engine
from headstart.engines.local import LocalEngine
from headstart.errors import HeadstartError
from headstart.models.unfreeze import resolve_unfreeze
from headstart.recipe import FineTune
from headstart.training import nodes
from headstart.training.network import Network
from headstart.training.nodes import spread
from headstart.training.notes import describe_engine

# What rounding may make of a loss in ten steps.
CLOSE = 2e-6


class Several(LocalEngine):
    """Nodes within this process: all that is sent and comes back is pickled."""

    name, is_remote, nodes = "several", True, 3

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self._opened: dict[Any, Any] = {}

    def map(self, open_work: Any, items: Iterable[Any], **named: Any) -> Iterator[Any]:
        assert named["by_node"]
        if open_work not in self._opened:
            context = pickle.loads(pickle.dumps(open_work))(2)
            self._opened[open_work] = context, context.__enter__()
        _, work = self._opened[open_work]
        sent = pickle.loads(pickle.dumps(list(items)))
        self.sizes.append(len(sent))
        yield from pickle.loads(pickle.dumps(list(work(sent))))


def make_network(**settings: Any) -> Network:
    model = build_small()
    chosen = FineTune("block3", **{"batch_size": 13, "mixup": 0.5, "l2_sp": 0.1, **settings})
    network = Network(model, resolve_unfreeze(model, "block3"), CLASSES, chosen)
    kernel = np.random.default_rng(1).normal(size=(8, CLASSES)).astype(np.float32)
    network.start(network.get(), kernel, np.zeros(CLASSES, np.float32))
    return network


def take_steps(network: Network, count: int = 10) -> np.ndarray:
    rng = np.random.default_rng(0)
    found = []
    for step in range(count):
        photos = rng.normal(size=(13, *SHAPE)).astype(np.float16)
        targets = np.eye(CLASSES, dtype=np.float32)[rng.integers(CLASSES, size=13)]
        weights = rng.uniform(0.5, 1.5, 13).astype(np.float32)
        random = np.random.default_rng([7, step])
        found.append(network.train_step(photos, targets, weights, (1e-2, 1e-2), random))
    return np.array(found)


@pytest.fixture(autouse=True)
def few_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "LEAST_SENT", 20)


def test_parts_of_a_batch_make_the_step_of_one_process() -> None:
    """With mixup, dropout, smoothing, weights, L2-SP, and parts of several sizes."""
    here, there, engine = make_network(), make_network(), Several()
    start = there.get()
    with use_engine(engine):
        assert spread(there, 100) == ""
    one = take_steps(here)
    first = take_steps(there, 2)
    engine.nodes = 2  # one left
    there.start(start, *start[-2:])  # as the next run of a stage does
    again = take_steps(there)
    assert engine.sizes == [3] * 2 + [2] * 10
    np.testing.assert_allclose(first[:, 0], one[:2, 0], rtol=CLOSE)
    np.testing.assert_allclose(again[:, 0], one[:, 0], rtol=CLOSE)
    np.testing.assert_array_equal(again[:, 1], one[:, 1])
    assert np.ptp(one[:, 0]) > 1e4 * CLOSE
    for ours, theirs in zip(here.get(), there.get(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)  # Adam divides by small gradients


@pytest.mark.parametrize(
    ("photos", "settings", "count", "said"),
    [
        (19, {}, 2, "fewer than 20"),
        (100, {"batch_size": 7}, 2, "too small to be shared"),
        (100, {"batchnorm": "train"}, 2, "needs the whole batch"),
        (100, {}, 1, "one node"),
    ],
)
def test_what_is_not_shared_says_why(
    photos: int, settings: dict[str, Any], count: int, said: str
) -> None:
    class Unpacked:
        def __init__(self) -> None:
            self.settings = FineTune(**settings)

    engine = Several()
    engine.nodes = count
    assert spread(Unpacked(), photos) == ""  # type: ignore[arg-type]
    with use_engine(engine):
        why = spread(Unpacked(), photos)  # type: ignore[arg-type]
        assert said in why
        assert list(describe_engine(None)) == []


def test_another_tensorflow_on_a_node_is_refused() -> None:
    opened = nodes.Differentiation(b"", "1.0").open(1)
    with pytest.raises(HeadstartError, match=r"the run was begun with 1\.0"), opened:
        pass
