"""The recipe ``auto``: further steps of fine-tuning, each taken only where it fits and may pay.

Steps go deeper into the network or see more views. The furthest that fits into what is left of the
budget is taken first: how well the last block did says nothing about half of the network
(docs/budget.md). A step's network replaces the one before only where that is likely, by the paired
bootstrap of `headstart.training.interpolate`, on photos that neither was trained on. Whatever ends
a step early leaves the best network so far.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field, replace

import numpy as np

from headstart.budget import Budget, OutOfTimeError, format_duration
from headstart.errors import MissingPackageError, require_package
from headstart.models.boundary import Prefix
from headstart.models.unfreeze import SHARES_BEFORE
from headstart.recipe import FineTune, Recipe
from headstart.training.fine_tune import tune
from headstart.training.forecast import Amounts, Forecast
from headstart.training.interpolate import choose_share
from headstart.training.ladder import END_SECONDS, RUNGS, Ladder, describe_stage, make_step
from headstart.training.objective import encode_classes
from headstart.training.plan import MARGIN, Step
from headstart.training.probe import Probe
from headstart.training.search import DEPTHS, EPOCHS, Search
from headstart.training.trust import list_labels
from headstart.training.tuning import Check, Options, Photos, Tuning

_LOGGER = logging.getLogger(__name__)

# On fewer photos, or fewer mistakes of the probe, a gain could not be told from chance. On 50 of
# ten classes there was one on average, and no draw lost: docs/recipes.md.
FEWEST_PHOTOS, FEWEST_MISTAKES = 50, 5

# The best so far is saved, so that there is a bundle already.
_AGAIN = "run again to go on where it was (on the command line with --force)"


@dataclass
class Climb:
    """The steps of one training.

    Attributes:
        prefix: Of the backbone, to its pooled features.
        photos: What is trained and chosen on.
        probe: The first usable model.
        seed: Of everything random.
        options: Runtime and who is told.
        budget: What there is; None without an end.
        tested: Photos that the result is measured on.
        steps: What was done or not, and why.
        best: The best network so far; None while that is the probe.
        settings: That it was trained with.
        last: The last one that was finished, better or not.
        seconds: ``decode`` and ``prefix`` of all steps.
        stopped: How the user or the end of the budget stopped a step; empty where nothing did.
    """

    prefix: Prefix
    photos: Photos
    probe: Probe
    seed: int
    options: Options
    budget: Budget | None
    tested: int
    steps: list[Step] = field(default_factory=list)
    best: Tuning | None = None
    settings: FineTune | None = None
    last: Tuning | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    stopped: str = ""

    @property
    def ladder(self) -> Ladder:
        """What steps would take."""
        photos, pace = self.photos, self.options.seconds_per_photo or 0.0
        amounts = Amounts(len(photos.train), len(photos.validation), self.tested, pace)
        return Ladder(self.prefix, len(photos.class_names), amounts, self.budget)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was not finished, and what the result is."""
        if not self.stopped:
            return ()
        result = "the head on the frozen network" if self.best is None else "the best until then"
        return (f"Fine-tuning was {self.stopped}. The result is {result}.",)

    def follow(self, recipe: Recipe) -> None:
        """Take the one step that a recipe names, or those that `search` or `run` find."""
        if recipe.fine_tune is not None:
            self.take("fine-tuning", recipe.fine_tune)
        elif recipe.name == "search":
            self.search()
        else:
            self.run()

    def name_recipe(self, recipe: Recipe) -> Recipe:
        """The recipe with what was done."""
        if self.settings is None:
            return recipe
        return replace(recipe, stages=("probe", "fine_tune"), fine_tune=self.settings)

    def run(self, rungs: tuple[tuple[str, FineTune], ...] = RUNGS) -> None:
        """Take the furthest step that fits, again and again, until none does."""
        why = self._find_objection()
        if why:
            self.steps.append(
                Step("fine-tuning", "no part of the network", None, why, is_taken=False)
            )
            return
        lowest = 0
        while lowest < len(rungs) and not self.stopped:
            try:
                found, beyond = self.ladder.find_fitting(rungs[lowest:])
            except KeyboardInterrupt:
                self._stop()
                return
            has_gained = True
            if found is not None:
                offset, forecast = found
                name, settings = rungs[lowest + offset]
                lowest += offset + 1
                has_gained = (
                    self.take(name, settings, forecast) or settings.unfreeze not in SHARES_BEFORE
                )
            named = {step.name for step in self.steps}
            self.steps += [step for step in beyond if step.name not in named]
            if found is None:
                return
            if not has_gained:
                self._leave(rungs[lowest:])
                return

    def search(self) -> None:
        """Search for settings, then take the step with the best of them."""
        why = self._find_objection()
        step = Step("search", "settings of fine-tuning", None, why, is_taken=not why)
        self.steps.append(step)
        if why:
            return
        usual = FineTune(epochs=EPOCHS, learning_rate=1e-3)
        # Half of the time for trials, the rest for the training that follows.
        try:
            forecasts = {
                d: self.ladder.forecast_closely(
                    replace(usual, unfreeze=d), times=2, is_timed=self.ladder.budget is not None
                )
                for d in DEPTHS
            }
        except KeyboardInterrupt:
            step.why, step.is_taken = "stopped before it began", False
            self._stop()
            return
        depths = tuple(d for d, f in forecasts.items() if 2 * f.seconds < self.ladder.left)
        if not depths:
            need = format_duration(2 * forecasts[DEPTHS[0]].seconds)
            step.why, step.is_taken = f"would take about {need} at least", False
            return
        last = max(forecasts[depth].seconds for depth in depths)
        options = replace(self.options, check=self._make_check(MARGIN * last))
        start, found = time.monotonic(), None
        try:
            search = Search(self.prefix, self.photos, self.probe, self.seed, options, depths=depths)
            found = search.run()
        except KeyboardInterrupt:
            self.stopped = step.outcome = _say_stopped()
        step.actual, step.why = time.monotonic() - start, "as asked for"
        if found is not None:
            step.outcome = (
                f"{found.trials} settings tried to the end, {found.pruned} left early; log loss "
                f"{found.loss:.3f} with {describe_stage(found.settings)}"
            )
            self.take("best of the search", found.settings)

    def take(self, name: str, settings: FineTune, forecast: Forecast | None = None) -> bool:
        """Train one step; whether its network is now the best one."""
        forecast = forecast or self.ladder.forecast(settings)
        step = make_step(name, settings, self._argue(forecast), forecast)
        self.steps.append(step)
        start, tuning = time.monotonic(), None
        options = replace(self.options, check=self._make_check(MARGIN * forecast.finish))
        try:
            tuning = tune(
                self.prefix, self.photos, self.probe, settings, seed=self.seed, options=options
            )
            step.outcome = tuning.says if tuning is not None else "nothing could be trained"
        except OutOfTimeError:
            self.stopped = step.outcome = (
                "not finished within the budget: it takes about "
                f"{format_duration(forecast.seconds)}, as foretold; with more of it {_AGAIN}"
            )
        except KeyboardInterrupt:
            self.stopped = step.outcome = _say_stopped()
        step.actual = time.monotonic() - start
        if tuning is not None:
            self.last = tuning
            for part, seconds in tuning.seconds.items():
                self.seconds[part] = self.seconds.get(part, 0.0) + seconds
        if tuning is None or not self._replaces(tuning, step):
            return False
        self.best, self.settings = tuning, settings
        return True

    # ---- decisions

    def _find_objection(self) -> str:
        """Why nothing is fine-tuned, or nothing."""
        count = len(self.photos.train)
        if why := object_to_few(count):
            return why
        chosen = [s for s in self.probe.path if s.strength == self.probe.strength]
        if chosen:
            mistakes = round((1 - chosen[0].accuracy) * count)
            if mistakes < FEWEST_MISTAKES:
                return f"the probe errs on {mistakes} of {count:,} photos held out: nothing to gain"
        try:
            require_package("tensorflow", "keras", purpose="fine-tuning")
        except MissingPackageError as error:
            return str(error)
        return ""

    def _stop(self) -> None:
        """Before a step was begun."""
        self.stopped = why = _say_stopped("stopped before a step was begun")
        what = "no further part of the network"
        self.steps.append(Step("fine-tuning", what, None, why, is_taken=False))

    def _leave(self, rungs: tuple[tuple[str, FineTune], ...]) -> None:
        named = {step.name for step in self.steps}
        why = "the step before gained nothing that is likely to be real"
        for name, settings in rungs:
            if name not in named:
                self.steps.append(make_step(name, settings, why))

    def _argue(self, forecast: Forecast) -> str:
        if self.budget is None:
            return "as asked for"
        left = format_duration(max(self.budget.left, 0))
        return f"fits: about {format_duration(forecast.seconds)} of the {left} that are left"

    def _make_check(self, after: float) -> Check | None:
        """Ends a step while there is time for what comes after it, in seconds."""
        if self.budget is None or not self.budget.is_strict:
            return None
        budget, reserve = self.budget, END_SECONDS + after
        return lambda: budget.check(reserve)

    def _replaces(self, tuning: Tuning, step: Step) -> bool:
        """Whether the step's network is likely better than the best one so far."""
        if tuning.share == 0:
            return False
        if self.best is None or self.best.held_out is None or tuning.held_out is None:
            return True
        (rows, before), (others, after) = self.best.held_out, tuning.held_out
        if not np.array_equal(rows, others):
            return False
        samples = (*self.photos.train, *self.photos.validation)
        labels = list_labels(tuple(samples[row] for row in rows), self.photos.class_names)
        targets = encode_classes(labels, len(self.photos.class_names))
        groups = [self.photos.groups[row] for row in rows]
        share, gain = choose_share([before, after], targets, groups, self.seed, (0.0, 1.0))
        points = 100 * (gain.tuned - gain.probe)
        step.outcome += f" Beside the step before: {points:+.1f} points; "
        step.outcome += "it is kept." if share else "the step before is kept."
        return bool(share)


def _say_stopped(how: str = "stopped") -> str:
    """At once, as what follows takes seconds; the sentence that stays."""
    _LOGGER.warning("Fine-tuning is stopped; what there is is measured.")
    return f"{how}; {_AGAIN}"


def object_to_few(photos: int) -> str:
    """Why so many training photos are not fine-tuned on, or nothing.

    >>> object_to_few(1000)
    ''
    """
    if photos >= FEWEST_PHOTOS:
        return ""
    return (
        f"on {photos} training photos a gain could not be told from chance (from {FEWEST_PHOTOS} "
        "on); more photos would help more"
    )
