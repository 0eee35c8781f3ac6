"""Manifest → split: stratified, seeded, groups kept together, stable when photos are added.

A group goes to the test when a hash of the seed and its name is below the test share. What happens
to a group therefore does not depend on the others, and photos that are added move nobody, with two
exceptions. In a class with few groups the share may stray far from 20 %: it is kept between a tenth
and three tenths (`_balance_classes`), and a group at such a limit may move. And a group that gets a
new member may get a new name (`headstart.data.duplicates.group_photos`). Where the record of an
earlier split is at hand there are no exceptions: what was tested stays in the test, what was
trained on never gets there, and new photos follow their group.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.data.scan import Manifest, Problem, Sample
from headstart.data.targets import Strata, make_strata
from headstart.errors import DatasetError, say_count
from headstart.task import CLASSIFICATION, REGRESSION

# Share of the photos that is set aside for the final number when no test folder is given.
TEST_SHARE = 0.2

# In every class at least a tenth of the groups is tested, and at least one, but no more than three
# tenths; and two groups stay in training, where there are two.
_FEWEST_TRAINED = 2

_BY_SEED = ", by seed"

SIDES = ("train", "validation", "test", "unused")


@dataclass(frozen=True)
class Split:
    """Which side each sample is on.

    Attributes:
        train: Photos to learn from.
        validation: Photos to choose by; empty unless they were given.
        test: Photos for the final number.
        unused: Those that would leak or were replaced.
        seed: Of the choice.
        source: Who decided: folders, or the seed.
        groups: The group of each digest.
        set_aside: Those of ``unused`` whose group came to be on both sides, with the reason.
    """

    train: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    test: tuple[Sample, ...]
    unused: tuple[Sample, ...]
    seed: int
    source: str
    groups: Mapping[str, str] = field(default_factory=dict, repr=False)
    set_aside: tuple[Problem, ...] = ()

    def to_json(self) -> dict[str, object]:
        """The split as plain data: digests per side, so that renaming a file does not change it.

        ``groups`` lists those of more than one photo.
        """
        sides = {name: [sample.digest for sample in getattr(self, name)] for name in SIDES}
        members: dict[str, list[str]] = defaultdict(list)
        for digest, group in sorted(self.groups.items()):
            members[group].append(digest)
        groups = [found for found in members.values() if len(found) > 1]
        return {"seed": self.seed, "source": self.source, **sides, "groups": groups}


def split_manifest(
    manifest: Manifest,
    seed: int,
    test: Manifest | None = None,
    *,
    groups: Mapping[str, str] | None = None,
    earlier: Any = None,
    use_all: bool = False,
) -> Split:
    """Assign every sample to train, validation or test.

    A given test set (``test``, else folders named so) is used as it is; without one, about 20 % of
    the groups of each class (or label, or tenth of the numbers) are set aside. A training photo
    whose bytes are also in validation or test is not used.

    Args:
        manifest: The photos.
        seed: Changes which photos are set aside; the same seed gives the same split on every
            machine, whatever the order or the names of the files.
        test: Photos of a separate test folder.
        groups: Digest → group; by default each photo is its own. See `group_photos`.
        earlier: What `Split.to_json` gave for an earlier split of these photos or a part of them.
            Its test photos stay test photos. It counts for nothing if its seed is another, or if
            its test photos were given.
        use_all: Set nothing aside when no test photos are given.

    Raises:
        DatasetError: No photos, fewer than two classes, a class with a single photo, or a class
            that is tested but never trained.
    """
    check_classes(manifest)
    given = {
        side: [s for s in manifest.samples if s.side == side] for side in ("validation", "test")
    }
    train = [s for s in manifest.samples if s.side in (None, "train")]
    group_of = {sample.digest: sample.digest for sample in manifest.samples} | dict(groups or {})
    strata = make_strata([s.label for s in manifest.samples], manifest.task)
    source = "folders"
    replaced: list[Sample] = []
    reasons: dict[str, str] = {}
    if test is not None:
        replaced, given["test"] = given["test"], list(test.samples)
    elif not given["test"] and not use_all:
        side_of, reasons = _choose_sides(train, strata, group_of, seed, read_sides(earlier, seed))
        train, given["test"], replaced = (
            [s for s in train if side_of[s.digest] == side] for side in ("train", "test", "unused")
        )
        source = f"about {TEST_SHARE:.0%} of each class{_BY_SEED}"
    held_out = {s.digest for s in given["test"]}
    leaking = [s for s in given["validation"] if s.digest in held_out]
    validation = [s for s in given["validation"] if s.digest not in held_out]
    held_out |= {s.digest for s in validation}
    leaking += [s for s in train if s.digest in held_out]
    train = [s for s in train if s.digest not in held_out]
    set_aside = tuple(Problem(s.path, reasons[s.digest]) for s in replaced if reasons)
    lost = (*leaking, *(replaced if reasons else ()))
    if manifest.task is not REGRESSION:
        _check_sides((train, validation, given["test"]), lost, len(set_aside), strata)
    unused, tested = (*replaced, *leaking), tuple(given["test"])
    return Split(tuple(train), tuple(validation), tested, unused, seed, source, group_of, set_aside)


def read_sides(record: Any, seed: int) -> dict[str, str]:
    """Digest → side of a split that the same seed has chosen, else nothing.

    >>> read_sides({"seed": 0, "source": "…, by seed", "train": ["a"], "test": ["b"]}, seed=0)
    {'a': 'train', 'b': 'test'}
    >>> read_sides({"seed": 1, "source": "…, by seed", "train": ["a"], "test": ["b"]}, seed=0)
    {}
    """
    if not isinstance(record, Mapping) or record.get("seed") != seed:
        return {}
    if not str(record.get("source")).endswith(_BY_SEED):
        return {}
    found: dict[str, str] = {}
    for side in SIDES:
        digests = record.get(side, ())
        if isinstance(digests, Sequence):
            found |= {digest: side for digest in digests if isinstance(digest, str)}
    return found


def list_folds(
    labels: npt.NDArray[np.integer], groups: Sequence[str], folds: int, seed: int
) -> Iterator[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]:
    """Stratified cross-validation folds ``(train rows, held-out rows)`` that keep groups together.

    Every class is dealt over the folds in an order given by the seed and the group's name. A group
    that is the only one of a class is in all training rows: without it the class would be unknown.

    >>> labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    >>> [len(held_out) for _, held_out in list_folds(labels, list("abcdefgh"), 4, seed=0)]
    [2, 2, 2, 2]
    """
    members: dict[str, list[int]] = defaultdict(list)
    for row, group in enumerate(groups):
        members[group].append(row)
    owners: dict[int, set[str]] = defaultdict(set)
    for label, group in zip(labels.tolist(), groups, strict=True):
        owners[label].add(group)
    lone = {group for found in owners.values() if len(found) == 1 for group in found}
    # A group that is in two classes is dealt with the lower one, whatever the order of the rows.
    ordered = sorted(
        members.keys() - lone, key=lambda group: (min(labels[members[group]]), _rank(group, seed))
    )
    fold_of = np.full(len(labels), -1, np.intp)
    for position, group in enumerate(ordered):
        fold_of[members[group]] = position % folds
    for fold in range(folds):
        yield np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)


def _rank(group: str, seed: int) -> str:
    # A hash rather than a random generator: adding a photo does not reshuffle the others.
    return hashlib.sha256(f"{seed}:{group}".encode(errors="surrogateescape")).hexdigest()


def _is_below_share(rank: str) -> bool:
    return int(rank, 16) < TEST_SHARE * 2**256


def _choose_sides(
    samples: Iterable[Sample],
    strata: Strata,
    group_of: Mapping[str, str],
    seed: int,
    earlier: Mapping[str, str],
) -> tuple[dict[str, str], dict[str, str]]:
    """The side of each digest; for those that are on none (``"unused"``) the reason."""
    members: dict[str, list[Sample]] = defaultdict(list)
    classes: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        members[group_of[sample.digest]].append(sample)
        for name in strata(sample.label):
            classes[name].add(group_of[sample.digest])
    before = {g: {earlier.get(s.digest) for s in found} for g, found in members.items()}
    ranks = {group: _rank(group, seed) for group in members}
    tested = {group for group, sides in before.items() if "test" in sides}
    free = {group for group, sides in before.items() if not sides & {"test", "train"}}
    tested |= {group for group in free if _is_below_share(ranks[group])}
    _balance_classes(classes, tested, free, ranks)
    side_of = {s.digest: "test" if g in tested else "train" for g in members for s in members[g]}
    reasons: dict[str, str] = {}
    for group in (group for group, sides in before.items() if "test" in sides):
        paths = [s.path for s in members[group] if earlier.get(s.digest) == "test"]
        for sample in members[group]:
            if earlier.get(sample.digest) in ("train", "unused"):
                side_of[sample.digest] = "unused"
                reasons[sample.digest] = (
                    "a training photo of the earlier split, and now in one group with its test "
                    f"photo {min(paths)}; neither trained on nor tested"
                )
    return side_of, reasons


def _balance_classes(
    classes: Mapping[str, set[str]], tested: set[str], free: set[str], ranks: Mapping[str, str]
) -> None:
    """Change what is tested, among free groups, where a class would have too much or too little.

    Groups with the lowest hash come into the test first, and those with the highest leave it first.
    Where a group is in several classes of which one has too little and the other too much, the test
    gives way.
    """
    limits = {label: _find_limits(len(found)) for label, found in classes.items()}
    order = sorted(classes, key=lambda label: (len(classes[label]), label))
    for label in order:
        lacking = limits[label][0] - len(classes[label] & tested)
        more = sorted((classes[label] & free) - tested, key=ranks.__getitem__)
        tested.update(more[: max(lacking, 0)])
    for label in order:
        excess = len(classes[label] & tested) - limits[label][1]
        back = sorted(classes[label] & tested & free, key=ranks.__getitem__, reverse=True)
        tested.difference_update(back[: max(excess, 0)])


def _find_limits(groups: int) -> tuple[int, int]:
    """How many groups of a class are tested at least and at most.

    >>> [_find_limits(groups) for groups in (1, 2, 3, 4, 20, 100)]
    [(0, 0), (0, 0), (1, 1), (1, 2), (2, 6), (10, 30)]
    """
    if groups <= _FEWEST_TRAINED:
        return 0, 0
    return max(1, groups // 10), min(-(-3 * groups // 10), groups - _FEWEST_TRAINED)


_LAYOUT = "Expected is a folder with one folder per class, each with photos of that class."


def check_classes(manifest: Manifest) -> None:
    """Refuse photos that no classifier can be made of, before any time is spent on them.

    Raises:
        DatasetError: No photos, or one class; without any label, or with one and the same number.
    """
    names, task = manifest.class_names, manifest.task
    refused = ""
    if manifest.problems:
        first = manifest.problems[0]
        refused = (
            f" {say_count(len(manifest.problems), 'file', 'files')} could not be used, the first: "
            f"{first.path} ({first.reason})."
        )
    if task is not CLASSIFICATION:
        needed = (
            "two different numbers" if task is REGRESSION else "one label and photos without it"
        )
        if len({sample.label for sample in manifest.samples}) < 2 or not names:
            raise DatasetError(
                f"The task {task.name} needs photos with at least {needed}; there are "
                f"{say_count(len(manifest.samples), 'photo', 'photos')}.{refused}"
            )
        return
    if not names:
        raise DatasetError(f"No photos found.{refused} {_LAYOUT}")
    if len(names) == 1:
        raise DatasetError(
            f"Only one class was found ({names[0]}), and a classifier tells at least two apart. "
            f"{_LAYOUT}"
        )


def _check_sides(
    sides: tuple[list[Sample], list[Sample], list[Sample]],
    lost: Iterable[Sample],
    set_aside: int,
    strata: Strata,
) -> None:
    def list_labels(samples: Iterable[Sample]) -> set[str]:
        return {name for sample in samples for name in strata(sample.label) if name}

    train, validation, test = sides
    pairs = {(name, sample.digest) for sample in train for name in strata(sample.label) if name}
    counts = Counter(name for name, _ in pairs)
    lost_labels = list_labels(lost)
    hint = (
        f" {say_count(set_aside, 'photo was', 'photos were')} set aside: its group holds test "
        "photos of the earlier split by now; with another seed the split starts anew."
        if set_aside
        else ""
    )
    for side, samples in (("validation", validation), ("test", test)):
        strange = sorted(list_labels(samples) - set(counts))
        if strange:
            raise DatasetError(
                f"The {side} photos have classes without training photos: {', '.join(strange)}. "
                f"Training photos have: {', '.join(sorted(counts)) or 'none'}. Add photos of each "
                f"class to the training folder, or take the class away.{hint}"
            )
    rare = [label for label in sorted(lost_labels | set(counts)) if counts[label] < 2]
    if rare:
        raise DatasetError(
            f"Classes with fewer than two different training photos: {', '.join(rare)}. "
            "Add photos to them (three or more in all to have one tested), or move the folders "
            f"elsewhere.{hint}"
        )
