"""The steps that the recipe ``auto`` may take, and which of them fits into a budget."""

from __future__ import annotations

from dataclasses import dataclass, replace

from headstart.budget import Budget, format_duration
from headstart.errors import say_count
from headstart.models.boundary import Prefix
from headstart.models.unfreeze import SHARES_BEFORE
from headstart.recipe import LIVE, FineTune
from headstart.training.forecast import (
    Amounts,
    Forecast,
    forecast_stage,
    guess_speed,
    measure_speed,
    recall_speed,
)
from headstart.training.plan import MARGIN, Step

# From the nearest to the furthest. A quick one sees two views, fewer epochs, and takes the middle
# rate instead of trying three.
_QUICK = FineTune(views=2, epochs=8, learning_rate=5e-4)
RUNGS: tuple[tuple[str, FineTune], ...] = (
    ("last block, quick", replace(_QUICK, unfreeze="last_block")),
    ("last block", FineTune("last_block")),
    ("half, quick", replace(_QUICK, unfreeze="half")),
    ("half", FineTune("half")),
    ("most", FineTune("most")),
    ("whole network", FineTune("all", views=LIVE)),
)

# A guess is so rough that only what is beyond this share of it is out of the question.
_GUESS = 0.6

# Kept for ending in good order.
END_SECONDS = 1.5


@dataclass(frozen=True)
class Ladder:
    """What steps take on this machine, with these photos.

    Attributes:
        prefix: Of the backbone, to its pooled features.
        num_classes: Number of classes.
        amounts: Of photos, and the pace of a pass.
        budget: What there is; None without an end.
        before: Seconds of it that other work will take first.
    """

    prefix: Prefix
    num_classes: int
    amounts: Amounts
    budget: Budget | None
    before: float = 0.0

    @property
    def left(self) -> float:
        """Seconds that a step may take."""
        return self.budget.left - self.before if self.budget else float("inf")

    def find_fitting(
        self, rungs: tuple[tuple[str, FineTune], ...], *, is_timed: bool = True
    ) -> tuple[tuple[int, Forecast] | None, list[Step]]:
        """Number and forecast of the furthest step that fits; and those beyond it, with reasons.

        Args:
            rungs: From the nearest to the furthest.
            is_timed: Time some steps of what may fit, unless that was done before on this machine;
                else what is known has to do.
        """
        fitting = None
        beyond: list[tuple[str, FineTune]] = []
        for number in reversed(range(len(rungs))):
            forecast = self.forecast_closely(rungs[number][1], is_timed=is_timed)
            if self._fits(forecast, MARGIN if forecast.is_measured else _GUESS):
                fitting = number, forecast
                break
            beyond.insert(0, rungs[number])
        # A nearer step of the same depth may have been timed after a further one was guessed.
        return fitting, [self._refuse(*rung) for rung in beyond]

    def _refuse(self, name: str, settings: FineTune) -> Step:
        forecast = self.forecast(settings)
        about = "about " if forecast.is_measured else "very roughly "
        why = (
            f"would take {about}{format_duration(forecast.seconds)}, "
            f"{format_duration(max(self.left, 0))} are left"
        )
        return make_step(name, settings, why)

    def forecast(self, settings: FineTune) -> Forecast:
        """What a step would take, as far as that is known without TensorFlow."""
        speed = recall_speed(self.prefix, settings)
        speed = speed or guess_speed(settings.unfreeze, self.amounts.pace)
        return forecast_stage(speed, settings, self.amounts)

    def forecast_closely(
        self, settings: FineTune, times: float = 1.0, *, is_timed: bool = True
    ) -> Forecast:
        """As `forecast`; some steps are timed where it may fit, so many times over."""
        forecast = self.forecast(settings)
        if is_timed and not forecast.is_measured and self._fits(forecast, times * _GUESS):
            return self.measure(settings)
        return forecast

    def measure(self, settings: FineTune) -> Forecast:
        """As `forecast`; some steps are timed, unless that was done before on this machine."""
        if recall_speed(self.prefix, settings) is None:
            measure_speed(self.prefix, settings, self.num_classes, self.amounts.train)
        return self.forecast(settings)

    def _fits(self, forecast: Forecast, margin: float) -> bool:
        return margin * forecast.seconds + END_SECONDS <= self.left


def make_step(name: str, settings: FineTune, why: str, forecast: Forecast | None = None) -> Step:
    """A step of the plan; without a forecast it is one that is not taken."""
    what = describe_stage(settings)
    if forecast is None:
        return Step(name, what, None, why, is_taken=False)
    return Step(name, what, forecast.seconds, why, forecast.cached_bytes, forecast.memory_mb)


def describe_stage(settings: FineTune) -> str:
    """A step in a few words.

    >>> describe_stage(FineTune("last_block", views=2))
    'last block, 2 views, up to 14 epochs'
    >>> describe_stage(FineTune("all", views="live"))
    'whole network, new views, up to 14 epochs'
    >>> describe_stage(FineTune(4, views=1, epochs=1))
    'last 4 layers, 1 view, 1 epoch'
    """
    names = {"last_block": "last block", "all": "whole network", "1": "last layer"}
    names |= {share: f"{share} of the network" for share in SHARES_BEFORE}
    part = str(settings.unfreeze)
    part = names.get(part, f"last {part} layers" if part.isdecimal() else part)
    rate = "" if settings.learning_rate is None else ", one rate"
    views = "new views" if settings.is_live else say_count(settings.cached_views, "view", "views")
    epochs = "1 epoch" if settings.epochs == 1 else f"up to {settings.epochs} epochs"
    return f"{part}, {views}, {epochs}{rate}"
