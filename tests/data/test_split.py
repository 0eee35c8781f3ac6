"""Splits: stratified, stable, and without a photo on two sides."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.data.scan import Manifest, Problem, Sample
from headstart.data.split import Split, list_folds, split_manifest
from headstart.errors import DatasetError
from headstart.files import digest_bytes

SIDES = ("train", "validation", "test", "unused")


def make_sample(label: str, number: object, side: str | None = None, copy: int = 0) -> Sample:
    digest = digest_bytes(f"{number}".encode())
    return Sample(Path(f"{side}/{label}/{number}-{copy}.jpg"), label, digest, side)


def make_manifest(side: str | None = None, **counts: int) -> Manifest:
    return Manifest(
        tuple(
            make_sample(label, f"{label}{number}", side)
            for label, count in counts.items()
            for number in range(count)
        )
    )


def join(*manifests: Manifest) -> Manifest:
    return Manifest(tuple(sample for manifest in manifests for sample in manifest.samples))


def digests(samples: tuple[Sample, ...]) -> set[str]:
    return {sample.digest for sample in samples}


def check_split(split: Split, samples: tuple[Sample, ...]) -> None:
    """What holds for every split, whatever it was made of."""
    sides = [getattr(split, side) for side in SIDES]
    assert Counter(sample for side in sides for sample in side) == Counter(samples)
    assert not digests(split.train) & digests(split.test)
    assert not digests(split.train) & digests(split.validation)
    assert not digests(split.validation) & digests(split.test)
    trained = Counter(label for label, _ in {(s.label, s.digest) for s in split.train})
    assert min(trained.values()) >= 2
    assert {sample.label for sample in samples} == set(trained)


def test_a_fifth_of_each_class_is_set_aside():
    manifest = make_manifest(a=100, b=10, c=3)
    split = split_manifest(manifest, seed=0)
    check_split(split, manifest.samples)
    counts = Counter(sample.label for sample in split.test)
    assert 10 <= counts["a"] <= 30
    assert 1 <= counts["b"] <= 3
    assert counts["c"] == 1
    assert not split.validation
    assert not split.unused
    assert split.source == "about 20% of each class, by seed"


def test_copies_stay_together_and_count_once():
    copies = [make_sample("a", f"a{n}", copy=c) for n in range(10) for c in range(n + 1)]
    manifest = Manifest((*copies, *make_manifest(b=10).samples))
    split = split_manifest(manifest, seed=3)
    check_split(split, manifest.samples)
    assert 1 <= len({sample.digest for sample in split.test if sample.label == "a"}) <= 3


def test_the_seed_decides():
    manifest = make_manifest(a=50, b=50)
    splits = [split_manifest(manifest, seed).to_json() for seed in (1, 1, 2)]
    assert splits[0] == splits[1]
    assert splits[0]["test"] != splits[2]["test"]


def test_a_split_is_the_same_in_every_release():
    split = split_manifest(make_manifest(a=10, b=10), seed=0)
    assert [sample.path.stem for sample in split.test] == GOLDEN_TEST_PHOTOS


# Changing how photos are set aside makes old test numbers incomparable: not without a reason.
GOLDEN_TEST_PHOTOS = ["a0-0", "a1-0", "b2-0", "b4-0", "b7-0"]


def test_given_sides_are_used_as_they_are():
    parts = {side: make_manifest(side, a=4, b=4) for side in ("train", "validation", "test")}
    named = {
        side: Manifest(
            tuple(replace(s, digest=digest_bytes(f"{side}{s.path}".encode())) for s in part.samples)
        )
        for side, part in parts.items()
    }
    split = split_manifest(join(*named.values()), seed=0)
    assert split.source == "folders"
    for side, part in named.items():
        assert getattr(split, side) == part.samples


def test_validation_without_test_still_sets_photos_aside():
    validation = Manifest((make_sample("a", "v1", "validation"),))
    manifest = join(make_manifest("train", a=20, b=20), validation)
    split = split_manifest(manifest, seed=0)
    check_split(split, manifest.samples)
    assert split.validation == validation.samples
    assert 4 <= len(split.test) <= 12


def test_a_separate_test_folder():
    manifest, test = make_manifest(a=5, b=5), make_manifest(a=2, b=1)
    test = Manifest(
        tuple(replace(s, digest="t" + s.digest, path=Path("t", s.path)) for s in test.samples)
    )
    split = split_manifest(manifest, seed=0, test=test)
    assert split.test == test.samples
    assert split.train == manifest.samples
    check_split(split, (*manifest.samples, *test.samples))


def test_a_separate_test_folder_replaces_the_one_inside():
    inside = Manifest((make_sample("never trained", "inside", "test"),))
    outside = Manifest((make_sample("b", "outside"),))
    manifest = join(make_manifest("train", a=3, b=3), inside)
    split = split_manifest(manifest, seed=0, test=outside)
    assert split.test == outside.samples
    assert split.unused == inside.samples
    check_split(replace(split, unused=()), (*split.train, *outside.samples))
    assert split.train == manifest.samples[:-1]


def test_photos_that_would_leak_are_not_used():
    train = make_manifest("train", a=5, b=5)
    validation = [make_sample("a", name, "validation") for name in ("a0", "a1", "v")]
    test = [make_sample("a", "a0", "test"), make_sample("b", "b0", "test")]
    manifest = Manifest((*train.samples, *validation, *test))
    split = split_manifest(manifest, seed=0)
    check_split(split, manifest.samples)
    assert split.test == tuple(test)
    assert split.validation == tuple(validation[1:])
    assert [sample.path.stem for sample in split.unused] == ["a0-0", "a0-0", "a1-0", "b0-0"]


def test_everything_may_be_used_for_training():
    manifest = make_manifest(a=4, b=2)
    split = split_manifest(manifest, seed=0, use_all=True)
    assert split.train == manifest.samples
    assert not split.test


def test_testing_on_the_training_folder_is_refused_soon():
    manifest = make_manifest(a=5000, b=5000)
    start = time.perf_counter()
    with pytest.raises(DatasetError, match="without training photos: a, b"):
        split_manifest(manifest, seed=0, test=manifest)
    assert time.perf_counter() - start < 5


ONE_CLASS_IS_LEFT = Manifest(
    (
        *make_manifest("train", a=4, b=2).samples,
        *(make_sample("a", name, "test") for name in ("b0", "b1", "t")),
    )
)


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        (Manifest(()), "No photos found"),
        (Manifest((), (Problem(Path("x"), "empty file"),)), "1 file could not be used"),
        (make_manifest(a=9), r"Only one class was found \(a\)"),
        (make_manifest(a=9, b=1), "fewer than two different training photos: b"),
        (
            Manifest(
                (*make_manifest(a=9).samples, *(make_sample("b", 1, copy=c) for c in range(9)))
            ),
            "fewer than two different training photos: b",
        ),
        (ONE_CLASS_IS_LEFT, "fewer than two different training photos: b"),
        (
            join(make_manifest("train", a=4, b=4), make_manifest("test", c=2)),
            "test photos have classes without training photos: c. Training photos have: a, b",
        ),
        (
            join(make_manifest("train", a=4, b=4), make_manifest("validation", c=2)),
            "validation photos have classes without training photos: c",
        ),
    ],
)
def test_impossible_splits_are_refused(manifest, words):
    with pytest.raises(DatasetError, match=words):
        split_manifest(manifest, seed=0)


PHOTOS = st.builds(
    make_sample,
    label=st.sampled_from("abc"),
    number=st.integers(0, 30),
    side=st.sampled_from([None, None, "train", "train", "validation", "test"]),
    copy=st.integers(0, 10_000),
)
FLAT_PHOTOS = st.builds(
    make_sample, st.sampled_from("abc"), st.integers(0, 30), st.none(), st.integers(0, 10_000)
)


@given(
    samples=st.lists(PHOTOS, unique=True, max_size=60)
    | st.lists(FLAT_PHOTOS, unique=True, min_size=8, max_size=60),
    seed=st.integers(0, 2**32),
    randomness=st.randoms(use_true_random=False),
)
@settings(max_examples=200, deadline=None)
def test_any_manifest_is_split_well_or_refused(samples, seed, randomness):
    manifest = Manifest(tuple(samples))
    try:
        split = split_manifest(manifest, seed)
    except DatasetError:
        return
    check_split(split, manifest.samples)
    assert set(split.to_json()) == {"seed", "source", "groups", *SIDES}
    assert all(s.side in (None, "train", "test") for s in split.test)
    renamed = [replace(s, path=Path(f"{randomness.random()}.png")) for s in samples]
    randomness.shuffle(renamed)
    again = split_manifest(Manifest(tuple(renamed)), seed)
    for side in SIDES:
        one, other = split.to_json()[side], again.to_json()[side]
        assert sorted(one) == sorted(other)


@st.composite
def labelled_groups(draw) -> tuple[np.ndarray, list[str]]:
    """Rows with a label and a group; some groups are in two classes, as torn copies are."""
    rows = draw(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), min_size=2, max_size=60))
    if draw(st.booleans()):
        rows = [(label, 100 * label + group) for label, group in rows]
    return np.array([label for label, _ in rows]), [f"g{group}" for _, group in rows]


@given(data=labelled_groups(), folds=st.integers(2, 6), seed=st.integers(0, 1000))
@settings(max_examples=200, deadline=None)
def test_folds_are_a_partition_that_keeps_groups_together(data, folds, seed):
    """A partition of all rows but those of a group that is the only one of a class."""
    labels, groups = data
    found = list(list_folds(labels, groups, folds, seed))
    assert len(found) == folds
    owners = [{g for g, n in zip(groups, labels, strict=True) if n == label} for label in labels]
    lone = {next(iter(owner)) for owner in owners if len(owner) == 1}
    everything = np.concatenate([held_out for _, held_out in found])
    assert sorted(everything) == [row for row in range(len(labels)) if groups[row] not in lone]
    for train, held_out in found:
        assert sorted([*train, *held_out]) == list(range(len(labels)))
        assert not {groups[row] for row in train} & {groups[row] for row in held_out}
    classes_of = {g: {n for n, h in zip(labels, groups, strict=True) if h == g} for g in groups}
    for label in set(labels):
        own = {group for group, classes in classes_of.items() if classes == {label}}
        if len(own) >= folds and all(len(classes) == 1 for classes in classes_of.values()):
            assert all(label in labels[held_out] for _, held_out in found)
            assert all(label in labels[train] for train, _ in found)


@given(data=labelled_groups(), folds=st.integers(2, 6), seed=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_folds_do_not_depend_on_the_order_of_the_rows(data, folds, seed):
    labels, groups = data
    order = list(range(len(labels)))
    random.Random(seed).shuffle(order)
    shuffled = list_folds(labels[order], [groups[row] for row in order], folds, seed)
    for (_, held_out), (_, other) in zip(
        list_folds(labels, groups, folds, seed), shuffled, strict=True
    ):
        assert {groups[row] for row in held_out} == {groups[order[row]] for row in other}


def test_the_seed_decides_the_folds():
    labels, groups = np.repeat([0, 1], 20), [str(number) for number in range(40)]
    one, same, other = (
        [held_out.tolist() for _, held_out in list_folds(labels, groups, 4, seed)]
        for seed in (0, 0, 1)
    )
    assert one == same
    assert one != other
