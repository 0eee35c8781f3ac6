"""Photos to label: unsure, and unlike one another."""

from __future__ import annotations

import numpy as np
import pytest

from headstart.evaluation.selection import CANDIDATES_PER_PHOTO, measure_margins, select_photos


def test_of_each_kind_of_unsure_photo_one_is_chosen() -> None:
    rng = np.random.default_rng(0)
    kinds = np.repeat(np.arange(6), 30)
    features = np.eye(6)[kinds] + 0.05 * rng.normal(size=(180, 6))
    margins = rng.random(180) * 0.1
    chosen = select_photos(margins, features, 6)
    assert sorted(kinds[chosen]) == list(range(6))
    assert len(set(kinds[np.argsort(margins)[:6]])) < 6  # the six least sure are not one of each


def test_sure_answers_are_left_out_however_strange() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, 8))
    margins = np.where(np.arange(400) < 300, 0.9, 0.1)
    features[:300] *= 50
    chosen = select_photos(margins, features, 10)
    assert chosen.min() >= 300
    assert CANDIDATES_PER_PHOTO * 10 == 100


def test_the_least_sure_comes_first_and_none_twice() -> None:
    rng = np.random.default_rng(1)
    margins, features = rng.random(200), rng.normal(size=(200, 4))
    chosen = select_photos(margins, features, 12)
    assert len(set(chosen.tolist())) == 12
    assert (np.diff(margins[chosen]) >= 0).all()


def test_equal_photos_fill_up_the_number() -> None:
    chosen = select_photos(np.linspace(0, 1, 50), np.ones((50, 4)), 5)
    assert len(set(chosen.tolist())) == 5


@pytest.mark.parametrize("count", [3, 4, 10])
def test_all_are_chosen_where_there_are_not_more(count: int) -> None:
    assert select_photos(np.array([0.3, 0.1, 0.2]), np.eye(3), count).tolist() == [1, 2, 0]


def test_the_seed_decides() -> None:
    rng = np.random.default_rng(1)
    margins, features = rng.random(300), rng.normal(size=(300, 16))
    one, same = (select_photos(margins, features, 15, seed=3) for _ in range(2))
    assert one.tolist() == same.tolist()


def test_the_margin_is_between_the_first_two() -> None:
    odds = np.array([[0.2, 0.5, 0.3], [1.0, 0.0, 0.0]])
    assert measure_margins(odds) == pytest.approx([0.2, 1.0])
    assert measure_margins(np.ones((3, 1))).tolist() == [0, 0, 0]
