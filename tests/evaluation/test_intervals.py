"""Intervals: published values, and by simulation how often they hold the truth.

The simulations here are short, with wide margins; benchmarks/coverage.py has the long ones.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from headstart.evaluation.intervals import (
    Estimate,
    bootstrap,
    compare_hits,
    cross_validate,
    estimate_repeated,
    estimate_share,
    wilson,
)
from headstart.evaluation.student import student_quantile

DRAWS = 100


def covers(found: Estimate, truth: float) -> bool:
    return found.low <= truth <= found.high


def draw_groups(
    rng: np.random.Generator, share: float, groups: int, size: float, correlation: float
) -> tuple[np.ndarray, np.ndarray]:
    """Hits of photos that are alike within groups: a beta-binomial with this correlation."""
    sizes = rng.poisson(size - 1, groups) + 1
    weight = (1 - correlation) / correlation
    shares = rng.beta(share * weight, (1 - share) * weight, groups)
    numbers = np.repeat(np.arange(groups), sizes)
    return rng.random(len(numbers)) < shares[numbers], numbers


# ---- Wilson


# From the Wilson score formula as published, e.g. in Newcombe 1998, table I (81/263, 15/148,
# 0/20, 1/29; 95 %, without continuity correction).
@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_is_the_published_interval(right: int, count: int, low: float, high: float) -> None:
    found = wilson(right, count)
    assert found.value == right / count
    assert found.low == pytest.approx(low, abs=5e-5)
    assert found.high == pytest.approx(high, abs=5e-5)


@given(st.integers(1, 5000), st.data())
def test_wilson_is_ordered_and_mirrored(count: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, count))
    found, mirrored = wilson(right, count), wilson(count - right, count)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.low == pytest.approx(1 - mirrored.high, abs=1e-12)


@pytest.mark.parametrize("share", [0.6, 0.9, 0.98])
def test_wilson_covers_the_truth(share: float) -> None:
    rng = np.random.default_rng(0)
    intervals = [wilson(int(right), 100) for right in rng.binomial(100, share, 2000)]
    covered = np.mean([interval.low <= share <= interval.high for interval in intervals])
    assert 0.92 <= covered <= 0.98


@given(st.integers(1, 500), st.data(), st.sampled_from([0.5, 0.8, 0.99]))
def test_wilson_is_scipys(count: int, data: st.DataObject, level: float) -> None:
    right = data.draw(st.integers(0, count))
    expected = stats.binomtest(right, count).proportion_ci(level, "wilson")
    found = wilson(right, count, level)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


# ---- shares of groups


def test_without_groups_a_share_is_wilsons() -> None:
    hits = np.arange(200) % 7 > 0
    assert estimate_share(hits) == wilson(int(hits.sum()), 200)


@pytest.mark.parametrize(
    ("share", "groups", "size", "correlation"),
    [(0.9, 40, 6, 0.5), (0.8, 30, 10, 0.2), (0.95, 100, 4, 0.8)],
)
def test_shares_of_groups_cover_where_the_naive_interval_fails(
    share: float, groups: int, size: float, correlation: float
) -> None:
    rng = np.random.default_rng(0)
    covered = {"grouped": 0, "naive": 0}
    for _ in range(DRAWS):
        hits, numbers = draw_groups(rng, share, groups, size, correlation)
        covered["grouped"] += covers(estimate_share(hits, numbers), share)
        covered["naive"] += covers(estimate_share(hits), share)
    assert 0.91 <= covered["grouped"] / DRAWS <= 0.99
    assert covered["naive"] / DRAWS < 0.85


@settings(max_examples=200)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=40))
def test_groups_never_narrow_a_share(rows: list[tuple[bool, int]]) -> None:
    hits, groups = zip(*rows, strict=True)
    plain, grouped = estimate_share(hits), estimate_share(hits, groups)
    assert grouped.value == pytest.approx(plain.value)
    assert 0 <= grouped.low <= plain.low + 1e-9
    assert plain.high - 1e-9 <= grouped.high <= 1


def test_copies_of_photos_add_nothing() -> None:
    hits = np.arange(100) % 9 > 0
    once = estimate_share(hits, np.arange(100))
    copied = estimate_share(np.repeat(hits, 5), np.repeat(np.arange(100), 5))
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high), abs=0.01)
    plain = estimate_share(hits)
    assert (once.low, once.high) == pytest.approx((plain.low, plain.high), abs=0.005)


def test_groups_that_are_all_right_count_once_each() -> None:
    found = estimate_share(np.ones(300), np.repeat(np.arange(10), 30))
    assert 0.6 < found.low < wilson(10, 10).low
    assert found.high == 1
    one = estimate_share([True, False, True], ["a", "a", "a"])
    assert (one.low, one.high) == (0, 1)


@pytest.mark.parametrize("hit", [True, False])
def test_classes_that_are_all_right_are_not_known_for_sure(hit: bool) -> None:
    classes = np.repeat([0, 1], [70, 10])
    hits = np.full(80, hit)
    found = estimate_share(hits, classes=classes)
    width = found.high - found.low
    # Less is known than of 80 photos, as one class has few; more than of twice that class.
    plain, few = wilson(80 * hit, 80), wilson(20 * hit, 20)
    assert found.value == hit
    assert plain.high - plain.low < width < few.high - few.low
    grouped = estimate_share(hits, np.arange(80) // 5, classes=classes)
    assert grouped.high - grouped.low > 1.5 * width


def test_one_class_is_no_class() -> None:
    hits, groups = np.arange(60) % 4 > 0, np.arange(60) // 3
    assert estimate_share(hits, classes=["hat"] * 60) == estimate_share(hits)
    assert estimate_share(hits, groups, classes=["hat"] * 60) == estimate_share(hits, groups)


@pytest.mark.parametrize(
    ("photos", "recalls", "size"),
    [
        ([10] * 10, [0.98] * 10, 1),
        ([70, 10], [0.95, 0.8], 1),
        ([100, 60, 40], [0.95, 0.9, 0.85], 4),
    ],
)
def test_means_over_classes_cover(photos: list[int], recalls: list[float], size: int) -> None:
    rng = np.random.default_rng(0)
    classes = np.repeat(np.arange(len(photos)), photos)
    groups = np.arange(len(classes)) // size
    covered, draws = 0, 4 * DRAWS
    for _ in range(draws):
        # A group's photos are right together in half of the groups.
        own, shared = rng.random(len(classes)), rng.random(len(classes))[groups]
        together = (rng.random(len(classes)) < 0.5)[groups] & (size > 1)
        hits = np.where(together, shared, own) < np.array(recalls)[classes]
        found = estimate_share(hits, groups if size > 1 else None, classes=classes)
        covered += covers(found, float(np.mean(recalls)))
    assert 0.9 <= covered / draws <= 0.99


def test_the_names_of_groups_do_not_matter() -> None:
    hits = np.arange(60) % 4 > 0
    numbers = np.arange(60) // 3
    named = [f"burst {number}" for number in numbers[::-1]]
    assert estimate_share(hits, numbers) == estimate_share(hits[::-1], named)


# ---- bootstrap


@pytest.mark.parametrize(("count", "groups"), [(60, None), (120, 30)])
def test_the_bootstrap_covers_the_truth(count: int, groups: int | None) -> None:
    rng = np.random.default_rng(0)
    covered, naive, draws = 0, 0, DRAWS // 2
    for seed in range(draws):
        if groups is None:
            values, numbers = rng.normal(0.5, 1, count), None
        else:
            numbers = rng.integers(0, groups, count)
            values = 0.5 + rng.normal(0, 1, groups)[numbers] + 0.3 * rng.normal(0, 1, count)

        def mean(rows: np.ndarray, values: np.ndarray = values) -> float:
            return float(values[rows].mean())

        found = bootstrap(mean, count, seed, numbers)
        covered += covers(found, 0.5)
        naive += covers(bootstrap(mean, count, seed), 0.5) if groups else 0
        assert found.value == values.mean()
    assert 0.9 <= covered / draws <= 0.99
    assert naive / draws < 0.8


def test_the_bootstrap_is_scipys_but_for_the_widening() -> None:
    values = np.random.default_rng(1).lognormal(size=400)
    found = bootstrap(lambda rows: float(np.median(values[rows])), 400, seed=0)
    expected = stats.bootstrap(
        (values,), np.median, n_resamples=2000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    width = expected.high - expected.low
    assert (found.low, found.high) == pytest.approx(expected, abs=0.12 * width)


def test_a_drawn_group_brings_all_its_rows() -> None:
    groups = np.array([3, 1, 3, 2, 1, 3])
    seen = []
    bootstrap(lambda rows: seen.append(rows) or 0.0, 6, seed=0, groups=groups)
    for rows in seen[1:]:
        counts = np.bincount(rows, minlength=6)
        for group in (1, 2, 3):
            assert len(set(counts[groups == group])) == 1
        assert sum(counts[groups == group][0] for group in (1, 2, 3)) == 3
    assert len({tuple(np.sort(rows)) for rows in seen}) > 5


def test_the_seed_and_the_level_are_heeded() -> None:
    values = np.random.default_rng(0).normal(size=50)

    def mean(rows: np.ndarray) -> float:
        return float(values[rows].mean())

    assert bootstrap(mean, 50, 3) == bootstrap(mean, 50, 3)
    assert bootstrap(mean, 50, 3) != bootstrap(mean, 50, 4)
    wide, narrow = bootstrap(mean, 50, 3, level=0.99), bootstrap(mean, 50, 3, level=0.5)
    assert wide.low < narrow.low < narrow.high < wide.high
    alone = bootstrap(mean, 50, 3, groups=[0] * 50)
    assert alone.low == alone.high == alone.value


# ---- paired comparison


@pytest.mark.parametrize(
    ("count", "better", "worse", "group_size"),
    [(60, 0.1, 0.05, 1), (300, 0.08, 0.05, 1), (60, 0.15, 0.1, 6), (300, 0.02, 0.02, 1)],
)
def test_comparisons_cover_the_truth(
    count: int, better: float, worse: float, group_size: int
) -> None:
    rng = np.random.default_rng(0)
    covered = naive = 0
    for seed in range(DRAWS):
        gains = rng.choice([1, 0, -1], count, p=[better, 1 - better - worse, worse])
        groups = np.repeat(np.arange(count), group_size)
        gains = gains[groups]
        found = compare_hits(gains > 0, gains < 0, groups, seed=seed).difference
        covered += covers(found, better - worse)
        if group_size > 1:
            naive += covers(
                compare_hits(gains > 0, gains < 0, seed=seed).difference, better - worse
            )
    assert covered / DRAWS >= 0.91
    assert naive / DRAWS < 0.8


def test_a_comparison_is_antisymmetric_and_says_how_probable() -> None:
    rng = np.random.default_rng(0)
    hits, others = rng.random(900) < 0.9, rng.random(900) < 0.8
    there, back = compare_hits(hits, others), compare_hits(others, hits)
    assert there.difference.value == -back.difference.value
    assert there.difference.low == pytest.approx(-back.difference.high, abs=0.01)
    assert there.probability > 0.98
    assert there.probability + back.probability == pytest.approx(1, abs=0.02)


def test_classifiers_that_never_disagree_are_not_surely_equal() -> None:
    found = compare_hits(np.ones(50), np.ones(50))
    assert found.difference.low < 0 == found.difference.value < found.difference.high
    assert found.probability == pytest.approx(0.5, abs=0.05)


def test_pairing_is_what_narrows() -> None:
    rng = np.random.default_rng(0)
    hits = rng.random(200) < 0.7
    others = hits ^ (rng.random(200) < 0.02)
    paired = compare_hits(hits, others).difference
    shuffled = compare_hits(hits, rng.permutation(others)).difference
    assert paired.high - paired.low < 0.5 * (shuffled.high - shuffled.low)


@pytest.mark.parametrize(
    ("hits", "others", "groups"),
    [([], [], None), ([1, 0], [1, 0], [1]), ([[1], [0]], [[1], [0]], None)],
)
def test_hits_that_fit_nothing_are_refused(hits: list, others: list, groups: list | None) -> None:
    with pytest.raises(ValueError, match=r"one per photo|needed is one each"):
        compare_hits(hits, others, groups)


# ---- repeated cross-validation


def list_folds(count: int, folds: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    fold_of = np.random.default_rng(seed).permutation(count) % folds
    return [(np.flatnonzero(fold_of != k), np.flatnonzero(fold_of == k)) for k in range(folds)]


def test_every_row_is_predicted_by_those_that_did_not_see_it() -> None:
    labels = np.arange(40) % 3

    def predict(train: np.ndarray, held_out: np.ndarray) -> np.ndarray:
        assert not set(train) & set(held_out)
        return np.stack([held_out, np.full(len(held_out), len(train))], 1)

    found = cross_validate(predict, [list_folds(40, 5, seed) for seed in range(3)])
    assert found.shape == (3, 40, 2)
    assert (found[:, :, 0] == np.arange(40)).all()
    assert (found[:, :, 1] == 32).all()
    assert len(labels) == 40


def test_folds_that_leave_out_or_repeat_rows_are_refused() -> None:
    folds = list_folds(20, 4, 0)
    for wrong in (folds[:-1], [*folds, folds[0]]):
        with pytest.raises(ValueError, match="every row once"):
            cross_validate(lambda train, held_out: held_out * 1.0, [wrong])


@pytest.mark.parametrize(("count", "distance"), [(80, 1.2), (40, 4.0)])
def test_repeated_cross_validation_covers_the_accuracy_of_the_method(
    count: int, distance: float
) -> None:
    """A nearest-mean classifier of two normal classes, whose accuracy is known: 0.7 and 0.97."""
    rng, dimensions = np.random.default_rng(0), 4

    def draw(number: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(number) % 2
        centres = distance / dimensions**0.5 * (labels[:, None] - 0.5)
        return rng.normal(size=(number, dimensions)) + centres, labels

    def learn(rows: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, float]:
        low, high = rows[labels == 0].mean(0), rows[labels == 1].mean(0)
        return high - low, float((high - low) @ (high + low) / 2)

    many, truth_labels = draw(20_000)
    accuracies = []
    for _ in range(100):
        weights, threshold = learn(*draw(count * 4 // 5))
        accuracies.append(((many @ weights > threshold) == truth_labels).mean())
    truth, covered = float(np.mean(accuracies)), 0
    for number in range(150):
        rows, labels = draw(count)

        def predict(
            train: np.ndarray,
            held_out: np.ndarray,
            rows: np.ndarray = rows,
            labels: np.ndarray = labels,
        ) -> np.ndarray:
            weights, threshold = learn(rows[train], labels[train])
            return rows[held_out] @ weights > threshold

        repeats = [list_folds(count, 5, 10 * number + repeat) for repeat in range(4)]
        covered += covers(
            estimate_repeated(cross_validate(predict, repeats) == labels, repeats), truth
        )
    assert covered / 150 >= 0.89


def test_folds_that_are_all_right_leave_what_as_many_photos_leave() -> None:
    repeats = [list_folds(40, 5, repeat) for repeat in range(5)]
    hits = np.ones((5, 40))
    assert estimate_repeated(hits, repeats) == wilson(40, 40)
    grouped = estimate_repeated(hits, repeats, np.arange(40) // 4)
    assert grouped.value == grouped.high == 1
    assert 0.6 < grouped.low < wilson(10, 10).low
    alone = estimate_repeated(hits, repeats, np.zeros(40))
    assert (alone.low, alone.high) == (0, 1)


# ---- Student's t


@settings(max_examples=100)
@given(st.floats(0.001, 0.9999), st.integers(1, 3000))
def test_the_quantile_is_scipys(probability: float, freedom: int) -> None:
    expected = stats.t.ppf(probability, freedom)
    assert student_quantile(probability, freedom) == pytest.approx(expected, rel=2e-5, abs=1e-6)
