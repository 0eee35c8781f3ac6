"""Exact and near duplicates → groups: photos that must not be on different sides of a split.

Exact copies have equal bytes. Near duplicates are resized, recompressed, mirrored or lightly
cropped copies, and shots of one burst. They are proposed by neighbourhood of the network's
features, which survive all of these, and confirmed by comparing the pictures themselves: two photos
of different dresses are near for the network, but their pixels do not line up
(`headstart.data.registration`).

Only what stands out is proposed: a copy is much nearer than the tenth nearest photo (Lowe 2004,
https://doi.org/10.1023/B:VISI.0000029664.99615.94, section 7.1, takes the second). The thresholds
lie between copies planted among real photos and different things that look alike;
benchmarks/duplicates.py measures both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from headstart.data.registration import Floats, Rows

# Proposed are pairs of which one is among the three nearest of the other, when its distance (1 -
# cosine) is at most this share of the distance of the tenth nearest: planted copies have 0.6 at
# most. Within a burst of more than ten the tenth is near as well: what is nearer than `_NEAR` is
# always proposed. Nothing is below `_FAR`.
_NEAREST, _TENTH, _SHARE, _NEAR, _FAR = 3, 10, 0.65, 0.85, 0.55

# Rows of a block of cosines; up to so many photos all cosines are computed, beyond that those
# within cells of so many: each photo with those that have its nearest centre among their three.
_BLOCK, _EXACT, _CELL, _CENTRES = 512, 10_000, 1000, 3

# Confirmed are correlations from here on: planted copies have 0.83 or more, different things up to
# 0.66. A burst may have less, when the network too finds its photos unusually alike.
_COPY, _BURST, _BURST_SIMILARITY = 0.72, 0.6, 0.9

# Below this at a coarse level a pair is given up: planted copies have 0.90 or more.
_FLOOR = 0.75

# Lining up proves nothing where all photos do: handwritten digits, views of a fixed camera. There
# both photos picked at random line up, and each with its tenth nearest (in films only the latter).
# Upper quartiles of the correlations: at random 0.1 for real photos, 0.26 for trousers on one wall,
# 0.3 for digits; with the tenth nearest 0.27 at most, and 0.57 for digits.
_PICKED, _ALIKE_AT_RANDOM, _ALIKE_NEARBY = 64, 0.2, 0.4

# So do digits among real photos. Of a crowd (photos that are proposed to each other, also through
# others) of this size pairs picked at random are compared, too. In a burst or before a fixed camera
# half of them count as pairs, and stay.
_CROWD = 2 * _PICKED

# All photos are asked about when a larger share is proposed, or confirmed, than this.
_MANY_PROPOSED, _MANY_CONFIRMED = 0.2, 0.02

# Pairs of rows and a floor → ``(pair, 2)`` correlations, see `compare_photos`.
Compare = Callable[[Rows, float], Floats]


@dataclass(frozen=True)
class Pair:
    """Two photos that are one picture, or two shots of one moment.

    Attributes:
        row: The one that comes first.
        other: The other one.
        similarity: Cosine of their features.
        correlation: Of their pixels, lined up; 1 is equal but for brightness and contrast.
        kind: ``"same"`` (equal features), ``"copy"``, ``"mirrored"`` or ``"burst"``.
    """

    row: int
    other: int
    similarity: float
    correlation: float
    kind: str


def find_near_duplicates(features: npt.NDArray[np.floating], compare: Compare) -> list[Pair]:
    """Pairs of near duplicates among photos; which are found does not depend on their order.

    Args:
        features: ``(sample, feature)``. Equal rows are paired without a look at the photos.
        compare: Looks at photos: `headstart.data.registration.compare_photos` with its ``load``
            given, or something that remembers what that said.

    >>> from headstart.data.registration import compare_photos
    >>> texture = np.random.default_rng(0).integers(0, 256, (3, 128, 128)).astype(np.uint8)
    >>> texture[1] = texture[0, :, ::-1]
    >>> features = np.array([[1.0, 0.1], [1.0, 0.2], [1.0, 0.3]])
    >>> def compare(pairs, floor):
    ...     return compare_photos(pairs, lambda row: texture[row], floor)
    >>> [pair.kind for pair in find_near_duplicates(features, compare)]
    ['mirrored']
    """
    keys = [hashlib.sha256(row.tobytes()).digest() for row in features]
    first = {key: row for row, key in reversed(list(enumerate(keys)))}
    twins = ((first[key], row) for row, key in enumerate(keys) if first[key] != row)
    same = [Pair(row, other, 1.0, 1.0, "same") for row, other in twins]
    # In this order a pair has the same photo moved onto the other, whatever the order of the rows.
    rows = np.array([first[key] for key in sorted(first)], np.intp)
    unit = features[rows].astype(np.float32)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    positions, similarities = propose_pairs(unit)
    are_many = len(positions) > _MANY_PROPOSED * len(rows)
    if not len(positions) or (are_many and _are_all_alike(rows, unit, compare)):
        return same
    kept = _leave_out_crowds(rows, positions, compare)
    found = _confirm_pairs(rows[positions[kept]], similarities[kept], compare)
    are_more = not are_many and len(found) > _MANY_CONFIRMED * len(rows)
    if are_more and _are_all_alike(rows, unit, compare):
        return same
    return sorted([*same, *found], key=lambda pair: (pair.row, pair.other))


def _confirm_pairs(pairs: Rows, similarities: Floats, compare: Compare) -> list[Pair]:
    both = np.nan_to_num(compare(pairs, _FLOOR), nan=-1)
    found = []
    for pair, similarity, (plain, mirrored) in zip(pairs, similarities, both, strict=True):
        correlation = float(max(plain, mirrored))
        is_burst = plain >= max(_BURST, mirrored) and similarity >= _BURST_SIMILARITY
        if correlation >= _COPY or is_burst:
            kind = "burst" if correlation < _COPY else "mirrored" if mirrored > plain else "copy"
            row, other = sorted(pair.tolist())
            found.append(Pair(row, other, float(similarity), correlation, kind))
    return found


def propose_pairs(unit: Floats, block: int = _BLOCK) -> tuple[Rows, Floats]:
    """``(pair, 2)`` rows of which one stands out among the neighbours of the other, and cosines.

    Args:
        unit: ``(sample, feature)``, rows of length 1, in an order that says nothing about them.
        block: Rows whose cosines are in memory at once.

    >>> propose_pairs(np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]))[0].tolist()
    [[0, 1], [1, 2]]
    """
    nobody = np.empty(0, np.intp)
    proposed: list[tuple[Rows, Rows, Floats]] = [(nobody, nobody, np.empty(0, np.float32))]
    for asking, others in _list_cells(unit, block):
        candidates = unit[others]
        for start in range(0, len(asking), block):
            rows = asking[start : start + block]
            cosines = unit[rows] @ candidates.T
            # Whoever asks is among the others, too.
            cosines[np.arange(len(rows)), np.searchsorted(others, rows)] = -np.inf
            row, column = np.nonzero(cosines >= _find_limits(cosines))
            proposed.append((rows[row], others[column], cosines[row, column]))
    ones, others, found = (np.concatenate(each) for each in zip(*proposed, strict=True))
    pairs = np.sort(np.column_stack([ones, others]), axis=1)
    pairs, first = np.unique(pairs, axis=0, return_index=True)
    return pairs, found[first].astype(np.float32)


def _find_limits(cosines: Floats) -> Floats:
    """``(row, 1)`` cosines from which on a photo is proposed to each row."""
    others = cosines.shape[1]
    places = [-min(_NEAREST, others), -min(_TENTH, others)]
    third, tenth = np.partition(cosines, places, axis=1)[:, places].T
    if others <= _TENTH:  # nobody is the tenth: all that is not far stands out
        tenth = np.zeros(len(cosines), np.float32)
    standing_out = np.minimum(1 - _SHARE * (1 - tenth), _NEAR)
    limits: Floats = np.maximum(np.maximum(standing_out, _FAR), third)[:, None]
    return limits


def _list_cells(unit: Floats, block: int) -> Iterator[tuple[Rows, Rows]]:
    """Rows that ask for neighbours, and those among which they are looked for."""
    everything = np.arange(len(unit))
    if len(unit) <= _EXACT:
        yield everything, everything
        return
    centres = unit[: len(unit) // _CELL].T
    nearest = np.concatenate(
        [
            np.argsort(-(unit[start : start + block] @ centres), axis=1)[:, :_CENTRES]
            for start in range(0, len(unit), block)
        ]
    )
    for cell in range(centres.shape[1]):
        yield np.flatnonzero(nearest[:, 0] == cell), np.flatnonzero((nearest == cell).any(1))


def _are_all_alike(rows: Rows, unit: Floats, compare: Compare) -> bool:
    """Whether photos line up that are no copies; the order of ``rows`` is random."""
    half = len(rows) // 2
    if half < _TENTH:
        return False
    count = min(half, _PICKED)
    tenth = np.argsort(-(unit[:count] @ unit.T), axis=1)[:, _TENTH]  # each is its own nearest
    for others, limit in ((np.arange(count) + half, _ALIKE_AT_RANDOM), (tenth, _ALIKE_NEARBY)):
        correlations = _correlate(rows[:count], rows[others], compare)
        if np.percentile(correlations, 75) < limit:
            return False
    return True


def _correlate(ones: Rows, others: Rows, compare: Compare) -> Floats:
    """``(pair,)``, the better of both ways; -1 where a photo cannot be read."""
    both = compare(np.column_stack([ones, others]), -1.0)
    correlations: Floats = np.nan_to_num(both, nan=-1).max(1)
    return correlations


def _leave_out_crowds(rows: Rows, positions: Rows, compare: Compare) -> npt.NDArray[np.bool_]:
    """Which pairs are left without those of crowds that line up and are no copies."""
    names = join_groups([str(row) for row in range(len(rows))], map(tuple, positions.tolist()))
    _, crowds, counts = np.unique(names, return_inverse=True, return_counts=True)
    kept = np.ones(len(positions), bool)
    for crowd in np.flatnonzero(counts >= _CROWD):
        members = rows[crowds == crowd]  # their order is random
        correlations = _correlate(members[:_PICKED], members[-_PICKED:], compare)
        middle, upper = np.percentile(correlations, (50, 75))
        if upper >= _ALIKE_AT_RANDOM and middle < _BURST:
            kept &= crowds[positions[:, 0]] != crowd
    return kept


def group_photos(
    digests: Sequence[str], pairs: Iterable[Pair], named: Sequence[str | None] | None = None
) -> list[str]:
    """A group per photo: of equal bytes, near duplicates, equally named; also through others.

    Args:
        digests: Of each photo.
        pairs: Near duplicates.
        named: For each photo the group that the user has put it in, or None.

    Returns:
        For each photo the first of the names in its group, else its first digest. Named groups are
        marked with "#", and come first: a name stays when photos are added, a first digest may not.

    >>> group_photos(["a", "b", "c", "a"], [Pair(1, 2, 0.9, 0.9, "copy")])
    ['a', 'b', 'b', 'a']
    >>> group_photos(["a", "b", "c"], [Pair(1, 2, 0.9, 0.9, "copy")], ["anna", None, "anna"])
    ['#anna', '#anna', '#anna']
    """
    links = [(pair.row, pair.other) for pair in pairs]
    names = list(digests)
    place: dict[str, int] = {}
    for row, name in enumerate(named or ()):
        if name is not None:
            if name not in place:
                place[name] = len(names)
                names.append(f"#{name}")
            links.append((row, place[name]))
    return join_groups(names, links)[: len(digests)]


def join_groups(names: Sequence[str], pairs: Iterable[tuple[int, int]]) -> list[str]:
    """A group name per photo: connected by equal names or by pairs, directly or through others.

    Args:
        names: A name per photo; equal names are one group to begin with.
        pairs: Rows that belong together.

    Returns:
        For each photo the first (smallest) name of its group, so that a group's name does not
        depend on the order of the photos.

    >>> join_groups(["a", "b", "c", "a"], [(1, 2)])
    ['a', 'b', 'b', 'a']
    """
    parent: dict[str, str] = {name: name for name in names}

    def find(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for one, other in pairs:
        first, second = sorted((find(names[one]), find(names[other])))
        parent[second] = first
    return [find(name) for name in names]
