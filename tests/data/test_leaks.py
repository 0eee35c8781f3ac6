"""What is on two sides of a given split is said, in a sentence each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from headstart.data.duplicates import Pair
from headstart.data.leaks import describe_leaks
from headstart.data.scan import Manifest, Sample
from headstart.data.split import split_manifest


def make_sample(name: str, digest: str, group: str | None = None) -> Sample:
    side, label, _ = name.split("/")
    return Sample(Path(name), label, digest, side, None, group)


SAMPLES = (
    make_sample("train/a/1", "1", "anna"),
    make_sample("train/a/2", "2", "bea"),
    make_sample("train/a/3", "3"),
    make_sample("train/b/4", "4", "anna"),
    make_sample("train/b/5", "5"),
    make_sample("train/b/copy", "t1"),
    make_sample("validation/a/v", "v"),
    make_sample("test/a/t1", "t1"),
    make_sample("test/a/t2", "t2", "bea"),
)
ROW = {sample.path.as_posix(): row for row, sample in enumerate(SAMPLES)}


def pair(one: str, other: str) -> Pair:
    return Pair(*sorted((ROW[one], ROW[other])), 0.9, 0.9, "copy")


def describe(*pairs: Pair) -> list[str]:
    split = split_manifest(Manifest(SAMPLES), seed=0)
    return list(describe_leaks(split, SAMPLES, pairs))


def test_copies_pairs_and_groups_are_listed():
    copies, near, groups = describe(
        pair("train/a/2", "test/a/t2"),
        pair("train/a/1", "train/b/4"),  # both are trained on
        pair("train/a/3", "validation/a/v"),
        pair("train/b/copy", "train/b/5"),  # the one that is used of the copies is tested
    )
    assert copies.startswith("1 photo has the same bytes as a photo on another side of the split")
    assert "train/b/copy (test/a/t1)" in copies
    assert near.startswith("3 pairs of near duplicates are on two sides of the given split")
    for part in (
        "train/a/2 and test/a/t2 (copy)",
        "train/a/3 and validation/a/v (copy)",
        "train/b/5 and test/a/t1 (copy)",
    ):
        assert part in near
    assert groups.startswith("1 group is on two sides")
    assert "bea (train, test)" in groups


def test_nothing_is_said_of_a_sound_split():
    sound = [replace(s, group=None) for s in SAMPLES if s.path.name != "copy"]
    split = split_manifest(Manifest(tuple(sound)), seed=0)
    assert list(describe_leaks(split, sound, [])) == []


def test_a_test_folder_that_was_replaced_is_no_leak():
    inside = [s for s in SAMPLES if s.path.name != "copy"]
    outside = Manifest((Sample(Path("other/t1"), "a", "t1"),))
    split = split_manifest(Manifest(tuple(inside)), seed=0, test=outside)
    assert not [text for text in describe_leaks(split, inside, []) if "same bytes" in text]


def test_long_lists_are_cut():
    many = [make_sample(f"train/a/{n}", f"{n}") for n in range(20)]
    more = [make_sample(f"test/a/{n}", f"t{n}") for n in range(20)]
    everything = [*many, *more, *SAMPLES[3:5]]
    split = split_manifest(Manifest(tuple(everything)), seed=0)
    pairs = [Pair(n, 20 + n, 0.9, 0.9, "copy") for n in range(20)]
    [near] = describe_leaks(split, everything, pairs)
    assert near.startswith("20 pairs")
    assert near.count("(copy)") == 10
    assert "; and 10 more" in near
