"""Manifest → split: stratified, seeded, exact duplicates kept together."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from headstart.data.scan import Manifest, Sample
from headstart.errors import DatasetError

# Share of the photos that is set aside for the final number when no test folder is given.
TEST_SHARE = 0.2


@dataclass(frozen=True)
class Split:
    """Which side each sample is on; ``unused`` lists those that would leak or were replaced."""

    train: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    test: tuple[Sample, ...]
    unused: tuple[Sample, ...]
    seed: int
    source: str

    def to_json(self) -> dict[str, object]:
        """The split as plain data: digests per side, so that renaming a file does not change it."""
        sides = {name: getattr(self, name) for name in ("train", "validation", "test", "unused")}
        digests = {name: [sample.digest for sample in side] for name, side in sides.items()}
        return {"seed": self.seed, "source": self.source, **digests}


def split_manifest(
    manifest: Manifest, seed: int, test: Manifest | None = None, *, use_all: bool = False
) -> Split:
    """Assign every sample to train, validation or test.

    A given test set (``test``, else folders named so) is used as it is; without one, 20 % of each
    class are set aside. Photos with equal bytes stay together, and a training photo whose bytes are
    also in validation or test is not used.

    Args:
        manifest: The photos.
        seed: Changes which photos are set aside; the same seed gives the same split on every
            machine, whatever the order or the names of the files.
        test: Photos of a separate test folder.
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
    source = "folders"
    replaced: list[Sample] = []
    if test is not None:
        replaced, given["test"] = given["test"], list(test.samples)
    elif not given["test"] and not use_all:
        train, given["test"] = _set_aside(train, seed)
        source = f"{TEST_SHARE:.0%} of each class, by seed"
    held_out = {s.digest for s in given["test"]}
    leaking = [s for s in given["validation"] if s.digest in held_out]
    validation = [s for s in given["validation"] if s.digest not in held_out]
    held_out |= {s.digest for s in validation}
    leaking += [s for s in train if s.digest in held_out]
    train = [s for s in train if s.digest not in held_out]
    _check_sides(train, validation, given["test"], {s.label for s in leaking})
    unused = (*replaced, *leaking)
    return Split(tuple(train), tuple(validation), tuple(given["test"]), unused, seed, source)


def list_folds(
    labels: npt.NDArray[np.integer], groups: Sequence[str], folds: int, seed: int
) -> Iterator[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]:
    """Stratified cross-validation folds ``(train rows, held-out rows)`` that keep groups together.

    Every class is dealt over the folds in an order given by the seed and the group's name.

    >>> labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    >>> [len(held_out) for _, held_out in list_folds(labels, list("abcdefgh"), 4, seed=0)]
    [2, 2, 2, 2]
    """
    members: dict[str, list[int]] = defaultdict(list)
    for row, group in enumerate(groups):
        members[group].append(row)
    # A photo that is in two classes is dealt with the lower one, whatever the order of the rows.
    ordered = sorted(members, key=lambda group: (min(labels[members[group]]), _rank(group, seed)))
    fold_of = np.empty(len(labels), np.intp)
    for position, group in enumerate(ordered):
        fold_of[members[group]] = position % folds
    for fold in range(folds):
        yield np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)


def _rank(digest: str, seed: int) -> str:
    # A hash rather than a random generator: adding a photo does not reshuffle the others.
    return hashlib.sha256(f"{seed}:{digest}".encode()).hexdigest()


def _set_aside(samples: list[Sample], seed: int) -> tuple[list[Sample], list[Sample]]:
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.digest].append(sample)
    by_class: dict[str, list[str]] = defaultdict(list)
    for digest, members in groups.items():
        # A photo that is in two classes counts for one, whatever the order of the files.
        by_class[min(sample.label for sample in members)].append(digest)
    chosen: set[str] = set()
    for digests in by_class.values():
        count = max(1, round(len(digests) * TEST_SHARE)) if len(digests) > 1 else 0
        chosen.update(sorted(digests, key=lambda digest: _rank(digest, seed))[:count])
    train = [sample for sample in samples if sample.digest not in chosen]
    return train, [sample for sample in samples if sample.digest in chosen]


_LAYOUT = "Expected is a folder with one folder per class, each with photos of that class."


def check_classes(manifest: Manifest) -> None:
    """Refuse photos that no classifier can be made of, before any time is spent on them.

    Raises:
        DatasetError: No photos, or one class.
    """
    names = manifest.class_names
    refused = f" {len(manifest.problems)} files could not be used." if manifest.problems else ""
    if not names:
        raise DatasetError(f"No photos found.{refused} {_LAYOUT}")
    if len(names) == 1:
        raise DatasetError(
            f"Only one class was found ({names[0]}), and a classifier tells at least two apart. "
            f"{_LAYOUT}"
        )


def _check_sides(
    train: list[Sample], validation: list[Sample], test: list[Sample], leaking_labels: set[str]
) -> None:
    counts = Counter(label for label, _ in {(sample.label, sample.digest) for sample in train})
    for side, samples in (("validation", validation), ("test", test)):
        strange = sorted({sample.label for sample in samples} - set(counts))
        if strange:
            raise DatasetError(
                f"The {side} photos have classes without training photos: {', '.join(strange)}. "
                f"Training photos have: {', '.join(sorted(counts)) or 'none'}. Add photos of each "
                "class to the training folder, or take the class away."
            )
    rare = [label for label in sorted(leaking_labels | set(counts)) if counts[label] < 2]
    if rare:
        raise DatasetError(
            f"Classes with fewer than two different training photos: {', '.join(rare)}. "
            "Add photos to them (three or more in all), or move the folders elsewhere."
        )
