"""The first pass within a budget: what was seen in time is used."""

from __future__ import annotations

from dataclasses import dataclass, replace

from headstart.budget import Budget, OutOfTimeError, format_duration
from headstart.data.scan import Manifest
from headstart.errors import DatasetError
from headstart.features.extract import Features, Progress, extract_manifest
from headstart.models.boundary import Prefix
from headstart.training.plan import MARGIN, Plan, find_new, shuffle


@dataclass(frozen=True)
class FirstPass:
    """The frozen pass over the photos of a training.

    Attributes:
        prefix: The frozen part.
        manifest: The photos.
        budget: Nothing is left out unless it was asked for.
        plan: Of the training: what comes after the pass needs time, too.
    """

    prefix: Prefix
    manifest: Manifest
    budget: Budget | None
    plan: Plan | None

    def extract(
        self, *, seed: int, runtime: str, progress: Progress | None
    ) -> tuple[Features, tuple[str, ...]]:
        """Features of the photos, or of as many as there is time for; and what to say of that.

        Args:
            seed: Of the order in which photos are computed: any part of them has all classes.
            runtime: What computes.
            progress: Called with ``(done, all)`` photos.

        Raises:
            DatasetError: Too few photos were seen in time.
        """
        prefix, manifest, budget, plan = self.prefix, self.manifest, self.budget, self.plan
        if budget is None or plan is None or not budget.is_strict or not plan.new:
            return extract_manifest(prefix, manifest, runtime=runtime, progress=progress), ()
        reserve = MARGIN * sum(step.seconds or 0.0 for step in plan.needed[1:])

        def report(done: int, total: int) -> None:
            budget.check(reserve)
            if progress is not None:
                progress(done, total)

        shuffled = shuffle(manifest, seed)
        try:
            whole = extract_manifest(prefix, shuffled, runtime=runtime, progress=report)
        except OutOfTimeError:
            return self._use_seen(budget, runtime)
        features = extract_manifest(prefix, manifest, runtime=runtime)
        return replace(features, forwarded=whole.forwarded, seconds=whole.seconds), ()

    def _use_seen(self, budget: Budget, runtime: str) -> tuple[Features, tuple[str, ...]]:
        samples = self.manifest.samples
        unseen = {sample.digest for sample in find_new(self.prefix, samples, runtime)}
        kept = tuple(sample for sample in samples if sample.digest not in unseen)
        counts = f"{len(kept):,} of {len(samples):,} photos"
        if len({sample.label for sample in kept}) < 2:
            raise DatasetError(
                f"Only {counts} were seen within {format_duration(budget.seconds)}, which is "
                "slower than the first photos foretold. Run again with a larger --budget: what was "
                "computed is kept."
            )
        seen = replace(self.manifest, samples=kept)
        return extract_manifest(self.prefix, seen, runtime=runtime), (
            f"Only {counts} were used: the machine was slower than the first photos foretold, and "
            f"the budget was {format_duration(budget.seconds)}. Run again to use them all; what "
            "was computed is kept.",
        )
