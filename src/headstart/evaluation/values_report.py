"""The record of a run that says a number of a photo → what its page says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headstart.evaluation.intervals import Estimate, estimate_share
from headstart.evaluation.pages.plots import plot_residuals, plot_values
from headstart.evaluation.run_page import FEW_TESTED, Card, Headline, Page, render_run, say_share
from headstart.evaluation.values import ValueEvaluation, ValueTrust

_FEW_VALUES = 100


@dataclass(frozen=True)
class ValuePhoto:
    """A test photo on the page.

    Attributes:
        name: Of its file.
        value: What was answered.
        truth: What is true.
        group: What it belongs to, such as its near duplicates.
        is_outside: Whether the truth is outside of the interval; None where there is none.
        picture: A JPEG; empty where the photo cannot be read any more.
    """

    name: str
    value: float
    truth: float
    group: str
    is_outside: bool | None = None
    picture: bytes = b""

    @property
    def error(self) -> float:
        """Answer minus truth."""
        return self.value - self.truth


@dataclass(frozen=True)
class Interval:
    """One row of the table of intervals.

    Attributes:
        coverage: What was asked for.
        half_width: Of the intervals; None where too few photos were trained on.
        held: Share of the test photos whose truth was inside; None likewise.
    """

    coverage: float
    half_width: float | None
    held: Estimate | None


def render_values(
    title: str,
    record: Mapping[str, Any],
    answers: Sequence[ValuePhoto],
    photos: Sequence[ValuePhoto],
    note: str,
) -> str:
    """The page of a run.

    Args:
        title: Its heading.
        record: What ``run.json`` holds.
        answers: All test photos, without pictures.
        photos: Those that are shown.
        note: Which of the test photos these are.

    Raises:
        MissingPackageError: Jinja or Matplotlib is not installed.
        ValueError: The record is damaged.
    """
    found, trust = record.get("evaluation"), ValueTrust.from_json(record["trust"])
    evaluation = ValueEvaluation.from_json(found) if found else None
    intervals = measure_intervals(trust, answers)
    page = Page(
        title,
        "A number of each photo",
        record,
        _make_headline(evaluation) if evaluation else None,
        _list_cards(record, evaluation, answers),
    )
    half = trust.get_half_width(evaluation.coverage_asked) if evaluation else None
    values, truths = (np.array([getattr(a, k) for a in answers]) for k in ("value", "truth"))
    plots = {
        "predicted": plot_values(values, truths, half) if answers else "",
        "residuals": plot_residuals(values, truths, half) if answers else "",
    }
    return render_run(
        "values.html.jinja",
        page,
        plots,
        evaluation=evaluation,
        intervals=intervals,
        has_intervals=half is not None,
        photos=photos,
        note=note,
    )


def measure_intervals(trust: ValueTrust, answers: Sequence[ValuePhoto]) -> list[Interval]:
    """How often the intervals of each coverage hold the truth.

    >>> trust = ValueTrust({0.8: 1.0, 0.99: None}, 0.0, 0.0)
    >>> photos = [ValuePhoto("a", 3.0, 2.5, "a"), ValuePhoto("b", 3.0, 5.0, "b")]
    >>> [(row.half_width, row.held and row.held.value) for row in measure_intervals(trust, photos)]
    [(1.0, 0.5), (None, None)]
    """
    errors, groups = np.array([abs(a.error) for a in answers]), [a.group for a in answers]
    return [
        Interval(
            coverage,
            width,
            None if width is None or not answers else estimate_share(errors <= width, groups),
        )
        for coverage, width in trust.half_widths.items()
    ]


def _make_headline(evaluation: ValueEvaluation) -> Headline:
    base = evaluation.baseline
    return Headline(
        f"{evaluation.mae.value:.3g}",
        "off on average",
        f"Mean absolute error on {evaluation.photos:,} photos that were not trained on. Always "
        f"answering {base.median:.4g}, the median of the training photos, would be off by "
        f"{base.median_mae:.3g}.",
    )


def _list_cards(
    record: Mapping[str, Any], evaluation: ValueEvaluation | None, answers: Sequence[ValuePhoto]
) -> list[Card]:
    cards = []
    if evaluation is not None:
        mae, r2 = evaluation.mae, evaluation.r2
        sure = [
            f"With other photos it could have been off by {mae.low:.3g} to {mae.high:.3g} (95 % "
            "interval).",
            f"It explains {say_share(r2)} parts of the variance (R²).",
        ]
        if evaluation.coverage is not None:
            sure.append(
                f"Its intervals hold the truth of {say_share(evaluation.coverage)} photos (wanted: "
                f"{100 * evaluation.coverage_asked:.0f})."
            )
        cards.append(Card("How sure is that?", sure))
        cards.append(Card("Where is it off?", _describe_errors(evaluation, answers)))
    return [*cards, Card("What to do next", advise(record, evaluation, answers), is_ordered=True)]


def _describe_errors(evaluation: ValueEvaluation, answers: Sequence[ValuePhoto]) -> list[str]:
    worst = max(answers, key=lambda answer: abs(answer.error))
    lines = [
        f"At most by {abs(worst.error):.3g}: {worst.value:.4g} instead of {worst.truth:.4g}.",
    ]
    errors, truths = (np.array([getattr(a, k) for a in answers]) for k in ("error", "truth"))
    bias = float(errors.mean())
    side = "high" if bias > 0 else "low"
    lines.append(f"On average its answers are {abs(bias):.2g} too {side}.")
    # The lowest and the highest quarter: heads that know little answer towards the middle.
    low, high = np.quantile(truths, (0.25, 0.75))
    for quarter, rows in (("smallest", truths <= low), ("largest", truths >= high)):
        lines.append(f"Of the {quarter} quarter by {float(abs(errors[rows]).mean()):.3g}.")
    return lines


def advise(
    record: Mapping[str, Any], evaluation: ValueEvaluation | None, answers: Sequence[ValuePhoto]
) -> list[str]:
    """What would help most, as sentences; never empty."""
    lines = []
    trained = record["samples"]["train"]
    if trained < _FEW_VALUES:
        lines.append(f"Add photos: {trained} to train on are few for a number.")
    if evaluation is None:
        lines.append("Set photos aside for a test (--test TABLE), or add photos.")
        return lines
    if evaluation.mae.high >= evaluation.baseline.median_mae:
        lines.append(
            "It may be no better than always answering the median: the photos may not show what "
            "the number depends on."
        )
    outside = sum(answer.is_outside is True for answer in answers)
    if outside:
        lines.append(
            f"Look at the {outside} photos whose truth is outside of its interval: among them "
            "numbers that are wrong in the table are frequent."
        )
    if evaluation.photos < FEW_TESTED:
        mae = evaluation.mae
        lines.append(
            f"Test on more photos: {evaluation.photos} leave an interval of "
            f"{mae.high - mae.low:.2g} around the mean absolute error."
        )
    return lines or ["Nothing stands out: use it, and look at its intervals."]
