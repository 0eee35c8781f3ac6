"""What a training would do, and what it takes: predicted before anything long starts."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from headstart.budget import Budget, BudgetError, format_duration
from headstart.data.scan import Manifest, Sample
from headstart.features.cache import ActivationCache
from headstart.features.choice import choose_runtime, count_cached, make_space
from headstart.features.extract import extract_manifest
from headstart.features.pace import LEAST, recall_pace
from headstart.models.boundary import Prefix
from headstart.runtimes import AUTO, get_runtime
from headstart.training.memory import measure_memory

# Photos that are timed on the way, if so many are new; their rows are in the cache afterwards.
TIMED = 64

# Where nothing was ever timed: multiply-adds per second of a slow core.
_SLOW_CORE = 1.5e10

# Of the probe: seconds, and seconds per photo and class. Of finding near duplicates: seconds per
# new photo. Of evaluation and saving: seconds, and seconds per photo.
_PROBE, _PROBE_EACH, _PAIRS_EACH, _END, _END_EACH = 0.5, 1.5e-4, 1e-3, 1.5, 4e-4

# Work that tells how crowded the machine is.
_CROWD_SECONDS = 0.1

# The steps of every training.
_NEEDED = ("first pass", "probe", "measure")

# Bytes of the process per feature of a photo: float16 as cached, and what the solver makes of it.
_BYTES_EACH = 16

# What is promised is a little more than what is predicted.
MARGIN = 1.1


@dataclass
class Step:
    """One line of the plan.

    Attributes:
        name: A short word.
        what: What is computed.
        seconds: Predicted; None where it is not begun.
        why: The reason for doing or not doing it.
        cached_bytes: It adds to the cache.
        memory_mb: Largest resident memory of the process by then; 0 where not known.
        is_taken: Whether it is begun, or would be.
        actual: Seconds that it took; None before.
        outcome: What came of it.
    """

    name: str
    what: str
    seconds: float | None
    why: str
    cached_bytes: int = 0
    memory_mb: float = 0.0
    is_taken: bool = True
    actual: float | None = None
    outcome: str = ""


@dataclass
class Plan:
    """What is done, in order.

    Attributes:
        budget: Seconds; None without a budget.
        is_strict: Whether the budget was asked for.
        minimum: Seconds of what every training needs: the first pass, the probe, its measurement.
        pace: Seconds per photo of the frozen pass.
        photos: How many there are.
        new: Of them not in the cache when the plan was made.
        steps: In order; the recipe ``auto`` adds its own.
        actual: Seconds in all; None before the end.
    """

    budget: float | None
    is_strict: bool
    minimum: float
    pace: float
    photos: int
    new: int
    steps: list[Step] = field(default_factory=list)
    actual: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @property
    def needed(self) -> list[Step]:
        """The steps of every training: first pass, probe, measurement."""
        return [step for step in self.steps if step.name in _NEEDED]

    def set_further(self, steps: Iterable[Step]) -> None:
        """Put steps between the probe and its measurement, in place of those that were there."""
        needed = self.needed
        self.steps = [*needed[:-1], *steps, needed[-1]]

    def note_pass(self, seconds: dict[str, float]) -> None:
        """Write down what the first pass took, before those of further steps are added to it.

        Args:
            seconds: By step of the stopwatch, the comparison of backbones included.
        """
        self.needed[0].actual = sum(seconds[name] for name in ("decode", "prefix", "groups"))

    def finish(self, seconds: dict[str, float], compared: float = 0.0) -> None:
        """Write down what the steps took.

        Args:
            seconds: By step of the stopwatch.
            compared: Of them, in ``prefix``, on comparing backbones.
        """
        if compared:
            why = "as asked for; see the table of backbones"
            self.steps.insert(0, Step("backbones", "compared on a part", None, why))
        took = {
            "backbones": compared,
            "first pass": max(0.0, (self.needed[0].actual or 0.0) - compared),
            "probe": seconds["probe"],
            "measure": seconds["trust"] + seconds["evaluate"],
        }
        for step in self.steps:
            actual = took.get(step.name, step.actual)
            step.actual = None if actual is None else round(actual, 2)
        self.actual = seconds["total"]


def make_plan(
    prefix: Prefix,
    manifest: Manifest,
    budget: Budget | None,
    *,
    seed: int,
    runtime: str = AUTO,
    is_timed: bool = True,
) -> Plan:
    """Time some photos and predict what every training needs.

    Args:
        prefix: The frozen part.
        manifest: All photos.
        budget: What there is.
        seed: Which photos are timed.
        runtime: What computes the prefix.
        is_timed: Whether photos are timed; else the pace is what was remembered, or a guess.

    Raises:
        BudgetError: The budget was asked for and is less than that.
    """
    samples = list({sample.digest: sample for sample in manifest.samples}.values())
    new = find_new(prefix, samples, runtime)
    pace = _time_photos(prefix, new, seed, runtime, is_timed)
    left = max(0, len(new) - TIMED * is_timed)
    # The pass was timed beside whatever else the machine does; the rest is scaled by that.
    crowd = measure_crowd() if is_timed else 1.0
    classes = len({sample.label for sample in samples})
    count = len(manifest.samples)
    first = left * pace + crowd * _PAIRS_EACH * len(new)
    probe = crowd * (_PROBE + _PROBE_EACH * count * classes)
    end = crowd * (_END + _END_EACH * count)
    spent = budget.spent if budget else 0.0
    resident = measure_memory()
    solving = resident + count * prefix.shape[-1] * _BYTES_EACH / 1e6 if resident else 0.0
    plan = Plan(
        budget=budget.seconds if budget else None,
        is_strict=bool(budget and budget.is_strict),
        minimum=spent + MARGIN * (first + probe + end),
        pace=pace,
        photos=count,
        new=len(new),
        steps=[
            Step(
                "first pass",
                f"{len(new):,} of {count:,} photos through {prefix.backbone}",
                first,
                "computed once per photo, then cached" if new else "all are in the cache",
                len(new) * int(np.prod(prefix.shape)) * 2,
                resident,
            ),
            Step(
                "probe",
                f"linear head, {classes} classes",
                probe,
                "the first usable model",
                memory_mb=solving,
            ),
            Step(
                "measure",
                "test photos, trust, saving",
                end,
                "figures, thresholds, report",
                memory_mb=solving,
            ),
        ],
    )
    if budget is not None and budget.is_strict and plan.minimum > budget.seconds:
        raise BudgetError(
            f"{count:,} photos need at least {format_duration(np.ceil(plan.minimum))} here "
            f"({len(new):,} are new, {1 / pace:,.0f} photos/s); the budget is "
            f"{format_duration(budget.seconds)}. Give --budget {np.ceil(plan.minimum):.0f}s or "
            "more, or fewer photos; what was computed so far is kept."
        )
    return plan


def find_new(prefix: Prefix, samples: Iterable[Sample], runtime: str) -> list[Sample]:
    """The samples that have no row yet, of the runtime that will be used."""
    samples = list(samples)
    digests = [sample.digest for sample in samples]
    chosen = choose_runtime(prefix, digests) if runtime == AUTO else runtime
    space = make_space(prefix, get_runtime(chosen).identity)
    if not count_cached([space], digests)[0]:
        return samples
    with contextlib.closing(ActivationCache(space)) as cache:
        missing = set(cache.missing(digests))
    return [sample for sample in samples if sample.digest in missing]


def shuffle(manifest: Manifest, seed: int) -> Manifest:
    """The samples in an order that says nothing: any first part of it has all classes."""
    order = np.random.default_rng([seed, 17]).permutation(len(manifest.samples))
    return replace(manifest, samples=tuple(manifest.samples[row] for row in order))


def _time_photos(
    prefix: Prefix, new: list[Sample], seed: int, runtime: str, is_timed: bool
) -> float:
    """Seconds per photo of the pass, of some new photos, or as remembered."""
    if is_timed and len(new) > LEAST:
        some = shuffle(Manifest(tuple(new)), seed).samples[:TIMED]
        found = extract_manifest(prefix, Manifest(some), runtime=runtime)
        if found.pace is not None:
            return found.pace
    return guess_pace(prefix, runtime)


def guess_pace(prefix: Prefix, runtime: str) -> float:
    """Seconds per photo of a pass, as remembered, or those of a slow core."""
    found = recall_pace(prefix, runtime)
    if found is not None:
        return found
    from headstart.models.backbones import BACKBONES

    spec = BACKBONES.get(prefix.backbone)
    return (spec.multiply_adds if spec else 1e9) / _SLOW_CORE


def measure_crowd() -> float:
    """Seconds that a second of one core's work takes now: 1 on an idle machine, more on a busy one.

    >>> measure_crowd() >= 1
    True
    """
    begin, start = time.perf_counter(), time.thread_time()
    while time.thread_time() - start < _CROWD_SECONDS:
        pass
    return max(1.0, (time.perf_counter() - begin) / (time.thread_time() - start))
