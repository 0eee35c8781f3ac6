"""Novelty: far photos are far, groups do not vouch for themselves, memory of all classes."""

from __future__ import annotations

import numpy as np
import pytest

from headstart.evaluation.novelty import (
    choose_references,
    find_nearest,
    fit_limit,
    measure_distances,
    normalise_rows,
)


def cloud(count: int, centre: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows = 0.3 * rng.normal(size=(count, 16))
    rows[:, centre] += 3
    return rows


def test_distances_are_those_of_all_pairs() -> None:
    rows, others = cloud(700, 0), normalise_rows(cloud(60, 0, 1))
    found = measure_distances(rows, others, neighbours=5)
    apart = np.linalg.norm(normalise_rows(rows)[:, None] - others[None], axis=2)
    np.testing.assert_allclose(found, np.sort(apart, axis=1)[:, 4], atol=2e-3)
    assert measure_distances(rows[:2], others[:3], neighbours=9) == pytest.approx(
        apart[:2, :3].max(1), abs=2e-3
    )


def test_foreign_rows_are_beyond_the_limit_and_own_ones_are_not() -> None:
    references = normalise_rows(np.concatenate([cloud(200, 0), cloud(200, 1)]))
    names = list(range(400))
    limit = fit_limit(measure_distances(references, references, groups=(names, names)))
    own = measure_distances(np.concatenate([cloud(200, 0, 2), cloud(200, 1, 3)]), references)
    assert (own > limit).mean() == pytest.approx(0.05, abs=0.04)
    assert (measure_distances(cloud(50, 7), references) > limit).all()


def test_a_group_does_not_vouch_for_itself() -> None:
    rows = normalise_rows(cloud(10, 0))
    bursts = np.repeat(rows, 6, axis=0)  # each photo six times
    groups = np.repeat(np.arange(10), 6).tolist()
    naive = measure_distances(bursts, bursts, neighbours=5)
    fair = measure_distances(bursts, bursts, neighbours=5, groups=(groups, groups))
    assert naive.max() < 2e-3
    assert fair.min() > 0.05
    alone = measure_distances(bursts[:6], bursts[:6], groups=(groups[:6], groups[:6]))
    assert alone == pytest.approx(2.0)


def test_references_are_of_all_classes_and_determined_by_the_seed() -> None:
    labels = np.array([0] * 1000 + [1] * 30)
    chosen = choose_references(labels, seed=3, most=100)
    assert len(set(chosen.tolist())) == 100
    assert np.bincount(labels[chosen]).tolist() == [70, 30]
    assert np.array_equal(chosen, choose_references(labels, seed=3, most=100))
    assert not np.array_equal(chosen, choose_references(labels, seed=4, most=100))
    assert choose_references(labels[:50], seed=0, most=100).tolist() == list(range(50))


def test_the_most_similar_come_first() -> None:
    references = normalise_rows(np.eye(4) + 0.1)
    assert find_nearest(np.array([[0.0, 5.0, 1.0, 0.0]]), references, 2).tolist() == [[1, 2]]


def test_equal_photos_have_a_limit_above_zero() -> None:
    assert fit_limit(np.zeros(30)) > 0


@pytest.mark.parametrize("count", [1, 8, 9])
def test_a_few_photos_are_compared_as_many_are(count: int) -> None:
    rng = np.random.default_rng(0)
    references = normalise_rows(rng.normal(size=(1300, 64)))  # more than two parts
    rows = rng.normal(size=(count, 64))
    cosines = normalise_rows(rows) @ references.T
    nearest = np.sort(cosines, axis=1)[:, ::-1]
    found = measure_distances(rows, references, neighbours=2)
    np.testing.assert_allclose(found, np.sqrt(2 - 2 * nearest[:, 1]), atol=1e-5)
    assert (find_nearest(rows, references, 1)[:, 0] == cosines.argmax(1)).all()
