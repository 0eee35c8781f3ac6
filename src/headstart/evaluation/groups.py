"""Photos that belong together, and for how many photos on their own they count. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.intp]
Floats = npt.NDArray[np.float64]

# How much of a group the worst case counts as where few groups tell how misses cluster: among the
# values tried (0, 1/4, 1/2, 1) the one whose coverage is nearest to 95 %.
_WORST_WEIGHT = 0.25


class Groups:
    """Rows by group; a row is its own group when none are given."""

    def __init__(self, groups: Sequence[Any] | npt.NDArray[Any] | None, count: int) -> None:
        if groups is None:
            numbers = np.arange(count)
        else:
            _, numbers = np.unique(np.asarray(groups), return_inverse=True)
        if len(numbers) != count or not count:
            raise ValueError(f"{len(numbers)} groups for {count} photos; needed is one each")
        self._numbers = numbers
        self._rows = np.argsort(numbers, kind="stable")
        self.sizes = np.bincount(numbers)
        self._starts = np.cumsum(self.sizes) - self.sizes

    def __len__(self) -> int:
        return len(self.sizes)

    def sum(self, values: Floats) -> Floats:
        """``(group,)`` sums of ``(row,)`` values."""
        sums: Floats = np.bincount(self._numbers, values).astype(np.float64)
        return sums

    def draw(self, rng: np.random.Generator) -> Rows:
        """The rows of as many groups as there are, drawn with replacement."""
        drawn = rng.integers(0, len(self), len(self))
        sizes = self.sizes[drawn]
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        rows: Rows = self._rows[np.repeat(self._starts[drawn], sizes) + within]
        return rows


def effective_size(right: Floats, sizes: Rows) -> float:
    """Photos of a simple sample with the variance that the mean share of the classes has.

    Half a photo is added on each side, as by Jeffreys' prior (Brown et al. 2001,
    https://doi.org/10.1214/ss/1009213286): few photos that are all right are not known for sure.
    """
    if len(sizes) == 1:
        return float(sizes[0])
    shares = (right + 0.5) / (sizes + 1)
    variance = float((shares * (1 - shares) / sizes).sum()) / len(sizes) ** 2
    return float(shares.mean() * (1 - shares.mean())) / variance


def design_effect(values: Floats, classes: Rows, shares: Floats, members: Groups) -> float:
    """How many times the variance of photos that are their own groups."""
    sizes, total = np.bincount(classes), len(members)
    weights = 1 / sizes[classes]
    # Where every group is right or wrong as a whole, a photo of a group of ten is a tenth.
    worst = float((members.sum(weights) ** 2).sum() / (weights**2).sum())
    alone = float((shares * (1 - shares) / sizes).sum())
    if alone == 0:
        return worst
    spread = members.sum(weights * (values - shares[classes]))
    effect = total / (total - 1) * float((spread**2).sum()) / alone
    # Few groups with misses (or hits) say little of how these cluster: the worst case counts
    # as a part of one more of them.
    mixed = float(min((members.sum(1 - values) > 0).sum(), (members.sum(values) > 0).sum()))
    return (mixed * effect + _WORST_WEIGHT * worst) / (mixed + _WORST_WEIGHT)
