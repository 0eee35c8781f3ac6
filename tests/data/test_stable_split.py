"""Splits of groups, and what happens to them when photos are added."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from headstart.data.duplicates import join_groups
from headstart.data.scan import Manifest, Sample
from headstart.data.split import Split, read_sides, split_manifest
from headstart.errors import DatasetError
from headstart.files import digest_bytes


def make_samples(label: str, numbers: range, side: str | None = None) -> list[Sample]:
    return [
        Sample(Path(f"{label}{n}.jpg"), label, digest_bytes(f"{label}{n}".encode()), side)
        for n in numbers
    ]


def manifest_of(*parts: list[Sample]) -> Manifest:
    return Manifest(tuple(sample for part in parts for sample in part))


def digests(samples: tuple[Sample, ...]) -> set[str]:
    return {sample.digest for sample in samples}


def names(samples: tuple[Sample, ...]) -> list[str]:
    return sorted(sample.path.stem for sample in samples)


def group(*parts: list[Sample]) -> dict[str, str]:
    """Each part is a group, named by its first sample."""
    return {sample.digest: part[0].digest for part in parts for sample in part}


def test_groups_are_on_one_side():
    a, b = make_samples("a", range(100)), make_samples("b", range(100))
    bursts = [part[i : i + 5] for part in (a, b) for i in range(0, 100, 5)]
    split = split_manifest(manifest_of(a, b), 0, groups=group(*bursts))
    assert 0 < len(split.test) < 80
    for burst in bursts:
        found = {digest for sample in burst for digest in [sample.digest]}
        assert found <= digests(split.train) or found <= digests(split.test)
    assert not split.unused
    assert sorted(map(sorted, split.to_json()["groups"])) == sorted(
        sorted(sample.digest for sample in burst) for burst in bursts
    )


def test_a_group_in_two_classes_is_on_one_side():
    a, b = make_samples("a", range(40)), make_samples("b", range(40))
    people = [[a[n], b[n]] for n in range(40)]
    for seed in range(5):
        split = split_manifest(manifest_of(a, b), seed, groups=group(*people))
        tested = {int(sample.path.stem[1:]) for sample in split.test}
        assert len(split.test) == 2 * len(tested)
        assert 4 <= len(tested) <= 12


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    ("groups", "least", "most"), [(1, 0, 0), (2, 0, 0), (3, 1, 1), (4, 1, 2), (10, 1, 3)]
)
def test_small_classes_keep_two_groups_and_have_one_tested(seed, groups, least, most):
    small, large = make_samples("s", range(3 * groups)), make_samples("l", range(60))
    bursts = [small[i : i + 3] for i in range(0, 3 * groups, 3)]
    split = split_manifest(manifest_of(small, large), seed, groups=group(*bursts))
    tested = Counter(s.label for s in split.test)
    assert 3 * least <= tested["s"] <= 3 * most


def test_at_the_limits_the_hash_still_decides():
    """Else the same photos would be tested whatever the seed."""
    a, b = make_samples("a", range(10)), make_samples("b", range(30))
    counts = Counter()
    for seed in range(40):
        split = split_manifest(manifest_of(a, b), seed)
        tested = digests(split.test) & digests(tuple(a))
        by_hash = sorted((s.digest for s in a), key=lambda d: digest_bytes(f"{seed}:{d}".encode()))
        assert tested == set(by_hash[: len(tested)])
        below = sum(digest_bytes(f"{seed}:{s.digest}".encode()) < "33333333" for s in a)
        counts["few" if below < 1 else "many" if below > 3 else "between"] += 1
        assert len(tested) == min(max(below, 1), 3)
    assert min(counts[name] for name in ("few", "many", "between")) > 0


def test_the_share_is_a_fifth_on_the_whole():
    a, b = make_samples("a", range(4000)), make_samples("b", range(4000))
    counts = Counter(s.label for s in split_manifest(manifest_of(a, b), seed=3).test)
    assert all(720 < count < 880 for count in counts.values())


@given(
    before=st.integers(60, 200),
    added=st.integers(1, 60),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=60, deadline=None)
def test_without_a_record_added_photos_move_nobody_within_the_limits(before, added, seed):
    other = make_samples("b", range(30))
    old = split_manifest(manifest_of(make_samples("a", range(before)), other), seed)
    new = split_manifest(manifest_of(make_samples("a", range(before + added)), other), seed)
    # At a limit the share of the class decides, and somebody may have to move.
    assume(before // 10 < sum(s.label == "a" for s in old.test) < 3 * before // 10)
    assume((before + added) // 10 < sum(s.label == "a" for s in new.test))
    assert digests(old.test) <= digests(new.test)
    assert digests(old.train) <= digests(new.train)


@given(before=st.integers(3, 40), seed=st.integers(0, 10**6))
@settings(max_examples=100, deadline=None)
def test_without_a_record_one_more_photo_moves_at_most_one(before, seed):
    other = make_samples("b", range(30))
    old = split_manifest(manifest_of(make_samples("a", range(before)), other), seed)
    new = split_manifest(manifest_of(make_samples("a", range(before + 1)), other), seed)
    assert (
        len(
            digests(old.test)
            ^ (digests(new.test) - digests(tuple(make_samples("a", range(before, before + 1)))))
        )
        <= 1
    )


@st.composite
def growing_photos(draw) -> tuple[Manifest, Manifest, dict[str, str], dict[str, str], int]:
    """Photos with groups, and more photos by which groups grow and merge."""
    labels = draw(st.lists(st.sampled_from("abc"), min_size=8, max_size=40))
    first = draw(st.integers(6, len(labels)))
    samples = [
        Sample(Path(f"{n}.jpg"), label, digest_bytes(f"{n}".encode()))
        for n, label in enumerate(labels)
    ]
    rows = st.integers(0, len(labels) - 1)
    pairs = draw(st.lists(st.tuples(rows, rows), max_size=12))

    def join(count: int) -> dict[str, str]:
        known = [s.digest for s in samples[:count]]
        found = join_groups(known, [pair for pair in pairs if max(pair) < count])
        return dict(zip(known, found, strict=True))

    seed = draw(st.integers(0, 1000))
    whole = Manifest(tuple(samples))
    return Manifest(tuple(samples[:first])), whole, join(first), join(len(samples)), seed


@given(growing_photos())
@settings(max_examples=300, deadline=None)
def test_with_the_record_it_is_exact(data):
    before, after, groups_before, groups_after, seed = data
    try:
        old = split_manifest(before, seed, groups=groups_before)
    except DatasetError:
        return
    try:
        new = split_manifest(after, seed, groups=groups_after, earlier=old.to_json())
    except DatasetError:
        return
    assert digests(old.test) <= digests(new.test)
    assert not digests(old.train) & digests(new.test)
    for name in set(groups_after.values()):
        members = {digest for digest, found in groups_after.items() if found == name}
        was_tested, was_trained = members & digests(old.test), members & digests(old.train)
        fresh = members - was_tested - was_trained
        aside = was_trained if was_tested else set()
        assert members & digests(new.unused) == aside
        if was_tested:
            assert fresh <= digests(new.test)
        elif was_trained:
            assert fresh <= digests(new.train)
        assert not (members & digests(new.train) and members & digests(new.test))
    assert {problem.path for problem in new.set_aside} == {s.path for s in new.unused}
    # And once more: what was set aside stays out.
    again = split_manifest(after, seed, groups=groups_after, earlier=new.to_json())
    assert again.to_json() == new.to_json()


def test_training_photos_of_a_merged_group_are_set_aside_and_listed():
    a, b = make_samples("a", range(30)), make_samples("b", range(30))
    old = split_manifest(manifest_of(a, b), seed=0)
    tested = next(s for s in old.test if s.label == "a")
    trained = next(s for s in old.train if s.label == "a")
    bridge = make_samples("a", range(30, 31))
    new = split_manifest(
        manifest_of(a, b, bridge),
        seed=0,
        groups=group([tested, trained, *bridge]),
        earlier=old.to_json(),
    )
    assert digests(new.test) == digests(old.test) | digests(tuple(bridge))
    assert new.unused == (trained,)
    [problem] = new.set_aside
    assert problem.path == trained.path
    assert f"one group with its test photo {tested.path}" in problem.reason


def test_a_group_that_gets_a_member_keeps_its_side_with_the_record():
    a, b = make_samples("a", range(60)), make_samples("b", range(60))
    old = split_manifest(manifest_of(a, b), seed=1)
    moved = 0
    for number, sample in enumerate(old.test):
        more = make_samples(sample.label, range(100 + number, 101 + number))
        # The new member's digest comes first in half of the cases, and names the group then.
        name = min(sample.digest, more[0].digest)
        groups = {sample.digest: name, more[0].digest: name}
        with_record, without = (
            split_manifest(manifest_of(a, b, more), 1, groups=groups, earlier=record)
            for record in (old.to_json(), None)
        )
        assert {sample.digest, more[0].digest} <= digests(with_record.test)
        moved += sample.digest not in digests(without.test)
    assert moved > 0  # that is what the record is for


def test_named_groups_need_no_record():
    a, b = make_samples("a", range(60)), make_samples("b", range(60))
    everybody = {s.digest: f"#{s.path.stem[0]}{int(s.path.stem[1:]) % 30}" for s in (*a, *b)}
    old = split_manifest(manifest_of(a[:40], b[:40]), seed=0, groups=everybody)
    new = split_manifest(manifest_of(a, b), seed=0, groups=everybody)
    assert digests(old.test) <= digests(new.test)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"source": "folders"},
        {"train": None, "test": 3},
        {"train": [1, None], "test": [["x"]]},
    ],
)
def test_a_record_of_something_else_counts_for_nothing(change):
    a, b = make_samples("a", range(30)), make_samples("b", range(30))
    plain = split_manifest(manifest_of(a, b), seed=0)
    record = {
        **plain.to_json(),
        "train": names(plain.test),
        "test": [s.digest for s in plain.train],
    }
    record |= change
    assert split_manifest(manifest_of(a, b), seed=0, earlier=record) == plain


@pytest.mark.parametrize("record", [None, 1, "text", [], {}])
def test_no_record_at_all(record):
    assert read_sides(record, 0) == {}


def test_the_golden_record_of_an_older_release_is_gone_on_with():
    a, b = make_samples("a", range(30)), make_samples("b", range(30))
    tested = [*a[:6], *b[:6]]
    record = {
        "seed": 0,
        "source": "20% of each class, by seed",
        "train": [s.digest for s in (*a[6:], *b[6:])],
        "validation": [],
        "test": [s.digest for s in tested],
        "unused": [],
    }
    split = split_manifest(manifest_of(a, b), seed=0, earlier=record)
    assert split.test == tuple(tested)


def test_given_sides_are_not_changed_by_groups():
    train = [*make_samples("a", range(5), "train"), *make_samples("b", range(5), "train")]
    test = [replace(s, side="test") for s in make_samples("a", range(10, 12))]
    everything = manifest_of(train, test)
    split = split_manifest(everything, 0, groups=group([*train, *test]))
    assert (split.train, split.test, split.unused) == (tuple(train), tuple(test), ())
    assert isinstance(split, Split)
