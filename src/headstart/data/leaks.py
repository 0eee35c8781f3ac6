"""What is on more than one side of a given split: a sentence each for copies, near ones, groups."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from headstart.data.duplicates import Pair
from headstart.data.scan import Sample
from headstart.data.split import Split
from headstart.errors import say_count

# Examples per sentence; the bundle's record of the split has all groups.
_SHOWN = 10


def describe_leaks(split: Split, samples: Sequence[Sample], pairs: Iterable[Pair]) -> Iterator[str]:
    """Sentences about photos that are, or would have been, on two sides of a split.

    Args:
        split: The split.
        samples: Those of the pairs' rows.
        pairs: Near duplicates.
    """
    sides: dict[str, dict[str, Sample]] = defaultdict(dict)  # digest → side → one of the copies
    names: dict[str, list[str]] = defaultdict(list)
    for side in ("train", "validation", "test"):
        for sample in getattr(split, side):
            sides[sample.digest].setdefault(side, sample)
            if sample.group is not None and side not in names[sample.group]:
                names[sample.group].append(side)
    copies = [
        f"{sample.path} ({next(iter(sides[sample.digest].values())).path})"
        for sample in split.unused
        if sample.side != "test" and sample.digest in sides
    ]
    if copies:
        yield (
            f"{say_count(len(copies), 'photo has', 'photos have')} the same bytes as a photo on "
            f"another side of the split; left out: {_shorten(copies)}."
        )
    near = [
        f"{sides[one][side].path} and {sides[other][further].path} ({pair.kind})"
        for pair in pairs
        for one, other in [(samples[pair.row].digest, samples[pair.other].digest)]
        for side, further in [_find_crossing(sides[one], sides[other])]
        if side
    ]
    if near:
        yield (
            f"{say_count(len(near), 'pair of near duplicates is', 'pairs of near duplicates are')} "
            "on two sides of the given split, so that figures look better than they are: "
            f"{_shorten(near)}. Nothing was moved."
        )
    torn = [f"{name} ({', '.join(found)})" for name, found in sorted(names.items()) if found[1:]]
    if torn:
        yield (
            f"{say_count(len(torn), 'group is', 'groups are')} on two sides of the given split, so "
            f"that figures look better than they are: {_shorten(torn)}. Nothing was moved."
        )


def _find_crossing(ones: Iterable[str], others: Iterable[str]) -> tuple[str, str]:
    """Two different sides of which the first photo is on one, the second on the other."""
    crossings = ((one, other) for one in ones for other in others if one != other)
    return next(crossings, ("", ""))


def _shorten(items: Sequence[str]) -> str:
    more = f"; and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return "; ".join(items[:_SHOWN]) + more
