"""Sentences that the user should read about the photos of a training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from headstart.data.scan import Manifest, Problem
from headstart.data.split import Split
from headstart.engines import current_engine
from headstart.training.probe import UNEVEN
from headstart.training.tuning import Tuning


def describe_classes(split: Split, class_names: tuple[str, ...], use_all: bool) -> Iterator[str]:
    """What should be known about the numbers of photos per class."""
    counts = Counter(sample.label for sample in split.train)
    few = [name for name in class_names if counts[name] < 20]
    if few:
        shown = ", ".join(f"{name} ({counts[name]})" for name in few[:5])
        more = f" and {len(few) - 5} more" if len(few) > 5 else ""
        yield (
            f"Few training photos (under 20) in: {shown}{more}. Numbers on so few photos are "
            "rough; more photos would help most here."
        )
    if max(counts.values()) >= UNEVEN * min(counts.values()):
        yield (
            f"Uneven classes ({min(counts.values())} to {max(counts.values())} training photos): "
            "every class counts the same in training."
        )
    tested = Counter(sample.label for sample in split.test)
    untested = [name for name in class_names if split.test and not tested[name]]
    if untested:
        yield f"No test photos of: {', '.join(untested)}; nothing is known about them."
    if not split.test and not use_all:
        why = "every class has fewer than three groups of photos"
        yield describe_untested(split, why, "the accuracy")


def describe_lost(manifest: Manifest, problems: tuple[Problem, ...]) -> Iterator[str]:
    """Classes of which no photo could be read."""
    kept = manifest.without(problems).class_names
    lost = [name for name in manifest.class_names if name not in kept]
    if lost:
        yield f"No photo could be read of: {', '.join(lost)}; the classifier does not have it."


def describe_untested(split: Split, why: str, unknown: str) -> str:
    """That there are no test photos; also why, where photos were taken for the same."""
    groups = {split.groups.get(sample.digest, sample.digest) for sample in split.train}
    together = ""
    if len(groups) < len(split.train):
        together = (
            f" Copies and photos that look alike to the backbone are one group: {len(split.train)} "
            f"photos are {len(groups)}. If they differ to you, take another backbone."
        )
    return (
        f"No photos were set aside for a test, because {why}: nothing is known about {unknown}. "
        f"Add photos, or give some with --test.{together}"
    )


def describe_engine(tuning: Tuning | None) -> Iterator[str]:
    """What did not run where the user may think it did."""
    if tuning is not None and tuning.why_here:
        yield (
            f"Steps of fine-tuning were computed on this machine, not on the engine "
            f"{current_engine().name}: {tuning.why_here}."
        )
