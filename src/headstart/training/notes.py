"""Sentences that the user should read about the photos of a training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from headstart.data.split import Split
from headstart.engines import current_engine
from headstart.training.probe import UNEVEN


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
        yield (
            "No photos were set aside for a test, because every class has fewer than three groups "
            "of photos: nothing is known about the accuracy. Add photos, or give some with --test."
        )


def describe_engine(is_tuned: bool) -> Iterator[str]:
    """What did not run where the user may think it did."""
    engine = current_engine()
    if is_tuned and engine.is_remote:
        yield (
            f"Fine-tuning ran on this machine; the engine {engine.name} computed the photos' "
            "activations before the part that was trained (none of them with live views, or where "
            "all of the network was trained)."
        )
