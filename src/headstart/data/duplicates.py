"""Exact and near duplicates → groups: photos that must not be on different sides of a split.

Exact copies have equal bytes. Near duplicates are resized, recompressed, mirrored or lightly cropped
copies, and shots of one burst. They are proposed by neighbourhood of the network's features, which
survive all of these, and confirmed by comparing the pictures themselves: two photos of different
dresses are near for the network, but their pixels do not line up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]


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
