"""Which networks are the result: those of folds, that of all photos, or their mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_network import CLASSES, SHAPE, Array, build_small
from test_loop import make_network

from headstart.data.scan import Sample
from headstart.training.loop import Context
from headstart.training.probe import fit_probe
from headstart.training.stage import Stage
from headstart.training.tuning import Photos

NAMES = ("0", "1", "2")


def make_stage(labels: np.ndarray, groups: tuple[str, ...] | None = None, **settings: Any) -> Stage:
    given = {"epochs": 1, "learning_rate": 1e-3, "dropout": 0.0, **settings}
    network = make_network(build_small(), **given)
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(len(labels), *SHAPE)).astype(np.float32)
    features = np.asarray(network._features(rows, False))
    numbers = tuple(str(number) for number in range(len(labels)))
    samples = tuple(
        Sample(Path(number), NAMES[label], number)
        for number, label in zip(numbers, labels, strict=True)
    )
    photos = Photos(samples, (), groups or numbers, features, NAMES)
    return Stage(network, Array(rows), photos, fit_probe(features, labels, CLASSES), Context(0))


def run(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[Any], list[Any]]:
    """The names of the runs, the arrays that each ended with, and those of the result."""
    ends: list[Any] = []
    real = Stage._train_on

    def train_on(self: Stage, *given: Any, **more: Any) -> Any:
        found = real(self, *given, **more)
        ends.append((given[0], self._network.get()))
        return found

    monkeypatch.setattr(Stage, "_train_on", train_on)
    monkeypatch.setattr("headstart.training.stage.choose_share", lambda *_: (1.0, None))
    monkeypatch.setattr("headstart.training.stage._describe", lambda *_: "")
    stage.run()
    return [name for name, _ in ends], [end for _, end in ends], stage._network.get()


def count_classes(*sizes: int) -> np.ndarray:
    return np.repeat(np.arange(len(sizes)), sizes)


def is_mean(arrays: list[Any], of: list[Any]) -> bool:
    means = [np.mean(parts, axis=0) for parts in zip(*of, strict=True)]
    return all(np.allclose(a, b, atol=1e-6) for a, b in zip(arrays, means, strict=True))


@pytest.mark.parametrize("count", [24, 25, 26, 27])
def test_four_folds_count_whatever_the_number_of_photos(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """One of them may have seen a photo less than three quarters."""
    stage = make_stage(count_classes(4, 10, count - 14))
    names, ends, result = run(stage, monkeypatch)
    assert names == ["fold 1", "fold 2", "fold 3", "fold 4"]
    assert is_mean(result, ends)


def test_three_folds_have_seen_too_little(monkeypatch: pytest.MonkeyPatch) -> None:
    names, ends, result = run(make_stage(count_classes(3, 10, 10)), monkeypatch)
    assert names == ["fold 1", "fold 2", "fold 3", "all photos"]
    assert is_mean(result, ends[-1:])


def test_a_class_of_one_group_is_in_every_network(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = ("one", "one", *(str(number) for number in range(24)))
    names, ends, result = run(make_stage(count_classes(2, 12, 12), groups), monkeypatch)
    assert names == [f"fold {number}" for number in range(1, 6)]
    assert is_mean(result, ends)


def test_some_folds_of_many_and_all_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headstart.training.stage.ENOUGH_HELD_OUT", 15)
    names, ends, result = run(make_stage(count_classes(10, 10, 10)), monkeypatch)
    assert names == ["fold 1", "fold 2", "fold 3", "all photos"]
    assert is_mean(result, ends)


def test_statistics_of_batches_are_not_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = make_stage(count_classes(10, 10, 10), batchnorm="train")
    names, ends, result = run(stage, monkeypatch)
    assert names[-1] == "all photos"
    assert is_mean(result, ends[-1:])
