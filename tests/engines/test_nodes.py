"""Steps whose gradients are computed in parts are those of one process, without a cluster."""

from __future__ import annotations

import importlib.metadata
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import build_network
from small_network import CLASSES, SHAPE, build_small

from headstart.data.scan import scan_folder
from headstart.engines import use_engine
from headstart.engines.local import LocalEngine
from headstart.errors import HeadstartError
from headstart.models.loaders import load_prefix
from headstart.models.unfreeze import resolve_unfreeze
from headstart.recipe import FineTune
from headstart.training import library, nodes, search
from headstart.training.batch import Batch
from headstart.training.fine_tune import tune
from headstart.training.network import Network
from headstart.training.nodes import spread
from headstart.training.notes import describe_engine
from headstart.training.search import Search
from headstart.training.tuning import Options

# What rounding may make of a loss in ten steps.
CLOSE = 2e-6


class Several(LocalEngine):
    """Nodes within this process: all that is sent and comes back is pickled."""

    name, is_remote, nodes = "several", True, 3

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self._opened: dict[Any, Any] = {}

    def map(
        self, open_work: Any, items: Iterable[Any], *, by_node: bool = False, **named: Any
    ) -> Iterator[Any]:
        if not by_node:
            yield from super().map(open_work, items, **named)
            return
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


def test_parts_have_the_photos_that_they_are_mixed_with() -> None:
    numbers = np.arange(13.0)
    batch = Batch.draw(numbers, numbers[:, None], -numbers, 1.0, np.random.default_rng(0))
    assert sorted(batch.partners) == [*range(13)]
    assert 0 < batch.share < 1
    for name, expected in (("own", numbers), ("others", numbers[batch.partners])):
        parts = [getattr(part, name) for part in batch.cut(3)]
        x, targets, weights = (np.concatenate(each) for each in zip(*parts, strict=True))
        np.testing.assert_array_equal(x, expected)
        np.testing.assert_array_equal(targets, expected[:, None])
        np.testing.assert_array_equal(weights, -expected)


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


def test_the_tensorflow_of_another_package_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    get_version = importlib.metadata.version

    def find(name: str) -> str:
        if name == "tensorflow":  # installed as tensorflow-cpu
            raise importlib.metadata.PackageNotFoundError(name)
        return get_version(name)

    monkeypatch.setattr(importlib.metadata, "version", find)
    here, there = make_network(), make_network()
    with use_engine(Several()):
        assert spread(there, 100) == ""
    np.testing.assert_allclose(take_steps(there, 1), take_steps(here, 1), rtol=CLOSE)


def test_a_stage_and_a_search_on_nodes_are_those_of_one_process(
    few_digits: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna", reason='pip install "headstart[search]"')
    monkeypatch.setattr(nodes, "LEAST_SENT", 5)
    monkeypatch.setattr(nodes, "LEAST_PART", 2)
    monkeypatch.setattr(search, "VIEWS", (1,))
    monkeypatch.setattr(search, "EPOCHS", 1)
    model = build_network(32)
    last = model.layers[-1].name
    prefix, manifest = load_prefix(model), scan_folder(few_digits)
    losses, engine = [], Several()
    for used in ("local", engine):
        monkeypatch.setenv("HEADSTART_CACHE", str(empty_cache / str(len(losses))))
        with use_engine(used):
            photos, probe = library._fit_probe(prefix, manifest, 2, "onnxruntime", 0)
            options = Options("onnxruntime")
            settings = FineTune(last, batch_size=8, epochs=2, learning_rate=1e-3, holdout=0)
            tuning = tune(prefix, photos, probe, settings, seed=0, options=options)
            found = Search(prefix, photos, probe, 0, options, 1, (last,)).run()
        assert tuning is not None
        assert found is not None
        losses.append([*(epoch["loss"] for epoch in tuning.history), found.loss])
        assert list(describe_engine(tuning)) == []
    assert set(engine.sizes) == {3}
    assert losses[1] == pytest.approx(losses[0], rel=CLOSE)
    with use_engine(engine):
        [note] = describe_engine(replace(tuning, why_here="it has a GPU"))
    assert note.endswith("on this machine, not on the engine several: it has a GPU.")


def test_what_is_interrupted_on_nodes_goes_on_without_them(
    few_digits: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "LEAST_SENT", 5)
    monkeypatch.setattr(nodes, "LEAST_PART", 2)
    model = build_network(32)
    prefix, manifest = load_prefix(model), scan_folder(few_digits)
    settings = FineTune(
        model.layers[-1].name, batch_size=8, epochs=3, learning_rate=1e-3, holdout=0
    )
    steps, take = [0], Network.train_step

    def count(*arguments: Any) -> Any:
        steps[0] += 1
        return take(*arguments)

    def run(used: Any, folder: str, most: float = np.inf) -> Any:
        def check() -> None:
            if steps[0] == most:
                raise KeyboardInterrupt

        steps[0] = 0
        monkeypatch.setenv("HEADSTART_CACHE", str(empty_cache / folder))
        with use_engine(used):
            photos, probe = library._fit_probe(prefix, manifest, 2, "onnxruntime", 0)
            options = Options("onnxruntime", check=check)
            return tune(prefix, photos, probe, settings, seed=0, options=options)

    monkeypatch.setattr(Network, "train_step", count)
    whole, every = run("local", "a"), steps[0]
    engine = Several()
    with pytest.raises(KeyboardInterrupt):
        run(engine, "b", every - 2)
    assert len(engine.sizes) == every - 2
    rest = run("local", "b")
    assert steps[0] == 2
    losses = [[epoch["loss"] for epoch in each.history] for each in (whole, rest)]
    assert losses[1] == pytest.approx(losses[0], rel=CLOSE)
    for name, array in whole.arrays.items():
        np.testing.assert_allclose(rest.arrays[name], array, rtol=1e-4, atol=1e-6)
