"""Folds in which every label has its share, where a photo may have several."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

Fold = tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]


def deal_folds(
    strata: Sequence[tuple[str, ...]], groups: Sequence[str], folds: int, seed: int
) -> Iterator[Fold]:
    """Folds ``(train rows, held-out rows)``, by iterative stratification of whole groups.

    The rarest label that is left is dealt first, each of its groups to the fold that lacks it
    most, then to the smallest one (Sechidis, Tsoumakas and Vlahavas 2011, algorithm 1,
    https://doi.org/10.1007/978-3-642-23808-6_10).

    Args:
        strata: Of each row what is to be balanced.
        groups: Of each row; a group is held out as a whole.
        folds: How many, at most as many as there are groups.
        seed: Of the order of groups that are alike.

    >>> strata = [("a",), ("a", "b"), ("b",), ("a", "b"), ("b",), ("a",)]
    >>> [held.tolist() for _, held in deal_folds(strata, list("uvwxyz"), 2, seed=0)]
    [[0, 2, 4, 5], [1, 3]]
    """
    members: dict[str, list[int]] = defaultdict(list)
    owners: dict[str, set[str]] = defaultdict(set)
    for row, group in enumerate(groups):
        members[group].append(row)
        for name in strata[row] or ("",):
            owners[name].add(group)
    names_of: dict[str, list[str]] = defaultdict(list)
    for name in sorted(owners):
        for group in owners[name]:
            names_of[group].append(name)
    wanted = {name: [len(found) / folds] * folds for name, found in owners.items()}
    space = [len(groups) / folds] * folds
    fold_of = np.full(len(groups), -1, np.intp)
    while any(owners.values()):
        rarest = min((name for name in owners if owners[name]), key=lambda n: (len(owners[n]), n))
        for group in sorted(owners[rarest], key=lambda group: _rank(group, seed)):
            lacks = wanted[rarest]
            fold = max(range(folds), key=lambda number: (lacks[number], space[number], -number))
            fold_of[members[group]] = fold
            space[fold] -= len(members[group])
            for name in names_of[group]:
                wanted[name][fold] -= 1
                owners[name].discard(group)
    for fold in range(folds):
        yield np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)


def _rank(group: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{group}".encode(errors="surrogateescape")).hexdigest()
