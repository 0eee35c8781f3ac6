"""The learning curve of the probe on features whose difficulty is known."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from headstart.data.split import list_folds
from headstart.training.learning import _cut_folds, measure_learning_curve


def draw(per_class: int, classes: int = 4, apart: float = 1.6, seed: int = 0) -> tuple:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), per_class)
    centres = apart * rng.normal(size=(classes, 16)) / 4**0.5
    return (centres[labels] + rng.normal(size=(len(labels), 16))).astype(np.float32), labels


def test_more_photos_are_measured_to_help() -> None:
    features, labels = draw(60)
    groups = [str(number) for number in range(len(labels))]
    curve = measure_learning_curve(features, labels, groups, 1.0, 200, seed=0)
    assert curve is not None
    sizes = [point.photos for point in curve.points]
    assert sizes == sorted(sizes)
    assert sizes[-1] == 192
    assert curve.points[-1].accuracy.value > curve.points[0].accuracy.value + 0.03
    assert curve.photos == 200


def test_a_larger_part_contains_the_smaller_and_keeps_groups_whole() -> None:
    _, labels = draw(30)
    groups = [str(number // 3) for number in range(len(labels))]
    folds = list(list_folds(labels, groups, 5, 0))
    small, large = (_cut_folds(folds, labels, groups, share, 0) for share in (0.2, 0.6))
    for (few, held_out), (many, _) in zip(small, large, strict=True):
        assert set(few) < set(many)
        assert set(np.unique(labels[few])) == {0, 1, 2, 3}
        kept, tested = ({groups[row] for row in rows} for rows in (few, held_out))
        assert not kept & tested
        sizes = Counter(groups[row] for row in few)
        assert set(sizes.values()) == {3}


def test_few_photos_give_fewer_points() -> None:
    features, labels = draw(4)
    curve = measure_learning_curve(features, labels, [*map(str, range(16))], 1.0, 16, seed=0)
    assert curve is not None
    assert len(curve.points) < 6


def test_a_class_of_one_group_has_no_curve() -> None:
    features, labels = draw(10)
    groups = ["together" if label == 0 else str(row) for row, label in enumerate(labels)]
    assert measure_learning_curve(features, labels, groups, 1.0, 40, seed=0) is None


def test_many_photos_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headstart.training.learning._MOST_PHOTOS", 100)
    features, labels = draw(60)
    curve = measure_learning_curve(features, labels, [*map(str, range(240))], 1.0, 240, seed=0)
    assert curve is not None
    assert curve.points[-1].photos == 80
    assert curve.photos == 240
