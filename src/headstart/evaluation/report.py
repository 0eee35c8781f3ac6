"""The record of a run that tells classes apart → what its page says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headstart.evaluation.gallery import Section
from headstart.evaluation.intervals import Estimate
from headstart.evaluation.learning_curve import LearningCurve
from headstart.evaluation.metrics import Evaluation
from headstart.evaluation.pages.plots import plot_classes, plot_reliability
from headstart.evaluation.run_page import (
    FEW_TESTED,
    FEW_TRAINED,
    Card,
    Headline,
    Page,
    render_run,
    say_share,
)
from headstart.evaluation.trust import WHY_NEVER_SURE

_SHOWN_CONFUSIONS = 3
# Where chance alone would show a calibration error above it, a measured one says nothing.
_TOO_VAGUE = 0.1


@dataclass(frozen=True)
class Photo:
    """A test photo on the page.

    Attributes:
        name: Of its file.
        label: Its true class.
        answer: The most probable one.
        probability: Of the answer.
        is_sure: None where that is not known.
        is_novel: Whether it does not look like the training photos; None likewise.
        picture: A JPEG; empty where the photo cannot be read any more.
        heat: A PNG to be laid over it, what the answer rests on; empty where that is not drawn.
    """

    name: str
    label: str
    answer: str
    probability: float
    is_sure: bool | None
    is_novel: bool | None
    picture: bytes
    heat: bytes = b""

    @property
    def is_right(self) -> bool:
        """Whether the answer is the true class."""
        return self.answer == self.label


def render_report(
    title: str,
    record: Mapping[str, Any],
    photos: Sequence[Photo],
    note: str,
    curve: LearningCurve | None = None,
    sections: Sequence[Section] = (),
) -> str:
    """The page of a run.

    Args:
        title: Its heading.
        record: What ``run.json`` holds.
        photos: Test photos with pictures.
        note: Which of the test photos these are.
        curve: The learning curve, where it was measured.
        sections: What the photo doctor found.

    Raises:
        MissingPackageError: Jinja or Matplotlib is not installed.
        ValueError: The record is damaged.
    """
    found = record.get("evaluation")
    evaluation = Evaluation.from_json(found) if found else None
    names = record["class_names"]
    headline = None
    if evaluation is not None:
        headline = Headline(
            f"{100 * evaluation.accuracy.value:.0f}",
            "of 100 photos right",
            f"Measured on {evaluation.photos:,} photos that were not trained on. Always answering "
            f"the largest class would be right for {100 * evaluation.majority:.0f}.",
        )
    page = Page(
        title,
        f"{len(names)} classes: {', '.join(names)}",
        record,
        headline,
        _list_cards(record, evaluation, curve),
        curve,
        sections,
    )
    plots = {
        "classes": plot_classes(evaluation) if evaluation else "",
        "reliability": _draw_reliability(evaluation),
    }
    return render_run(
        "classes.html.jinja",
        page,
        plots,
        evaluation=evaluation,
        photos=photos,
        note=note,
        calibration_says=_describe_calibration(evaluation),
        trust_says=_describe_trust(evaluation),
    )


def _draw_reliability(evaluation: Evaluation | None) -> str:
    if evaluation is None or evaluation.calibration is None or not evaluation.calibration.bins:
        return ""
    return plot_reliability(evaluation.calibration)


def _list_cards(
    record: Mapping[str, Any], evaluation: Evaluation | None, curve: LearningCurve | None
) -> list[Card]:
    cards = []
    if evaluation is not None:
        low, high = (round(100 * v) for v in (evaluation.accuracy.low, evaluation.accuracy.high))
        sure = [
            f"With other photos it could have been between {low} and {high} of 100 (95 % interval)."
        ]
        if record.get("cross_validation"):
            found = record["cross_validation"]
            sure.append(
                "Cross-validated over all photos, the head alone is right for "
                f"{say_share(Estimate(**found))}."
            )
        sure.append(_describe_calibration(evaluation))
        cards.append(Card("How sure is that?", [line for line in sure if line]))
        confusions = list_confusions(evaluation)[:_SHOWN_CONFUSIONS]
        lines = [
            f"{count} of {total} photos of {label} are answered {answer}"
            for label, answer, count, total in confusions
        ]
        cards.append(Card("What does it confuse?", lines or ["Nothing: all are right."]))
    return [*cards, Card("What to do next", advise(record, evaluation, curve), is_ordered=True)]


def list_confusions(evaluation: Evaluation) -> list[tuple[str, str, int, int]]:
    """``(true class, answer, photos, photos of the true class)``, the most frequent first."""
    names = evaluation.class_names
    found = [
        (names[row], names[column], count, sum(counts))
        for row, counts in enumerate(evaluation.confusion)
        for column, count in enumerate(counts)
        if count and row != column
    ]
    return sorted(found, key=lambda each: (-each[2], -each[2] / each[3], each[:2]))


def advise(
    record: Mapping[str, Any], evaluation: Evaluation | None, curve: LearningCurve | None
) -> list[str]:
    """What would help most, as sentences; never empty."""
    lines = []
    counts = record["train_counts"]
    few = sorted((count, name) for name, count in counts.items() if count < FEW_TRAINED)
    if few:
        shown = ", ".join(f"{name} ({count})" for count, name in few[:5])
        lines.append(f"Add photos of {shown}: a class needs {FEW_TRAINED} to train on, better 50.")
    if evaluation is None:
        lines.append("Set photos aside for a test (--test FOLDER), or add photos to each class.")
        return lines
    confusions = list_confusions(evaluation)
    if confusions and confusions[0][2] > 1:
        label, answer, count, _ = confusions[0]
        lines.append(
            f"Look at the {count} photos of {label} that were answered {answer}: correct labels "
            "that are wrong; where a person cannot tell either, the classes may be one."
        )
    if curve is not None and curve.gain is not None:
        lines.append(curve.says)
    if evaluation.accuracy.value < 1:
        lines.append("Let the photo doctor list probable wrong labels: headstart doctor PHOTOS.")
    if not record.get("fine_tune") and evaluation.accuracy.value < 0.95:
        lines.append("Try to train the network's last part as well: --recipe tune.")
    if evaluation.photos < FEW_TESTED:
        lines.append(
            f"Test on more photos: {evaluation.photos} leave an interval of "
            f"{100 * (evaluation.accuracy.high - evaluation.accuracy.low):.0f} points."
        )
    return lines or ["Nothing stands out: use it, and look at what it is not sure of."]


def _describe_calibration(evaluation: Evaluation | None) -> str:
    if evaluation is None or evaluation.calibration is None:
        return ""
    found = evaluation.calibration
    if found.ece <= found.by_chance_high and found.by_chance_high > _TOO_VAGUE:
        return (
            f"Whether its probabilities can be believed, {evaluation.photos} photos do not tell: "
            f"they are off by {100 * found.ece:.1f} points on average, and chance alone would show "
            f"up to {100 * found.by_chance_high:.1f}."
        )
    if found.ece <= found.by_chance_high:
        return (
            "Its probabilities can be believed: they are off by "
            f"{100 * found.ece:.1f} points on average, as chance alone would show on so few photos."
        )
    return (
        f"Its probabilities are off by {100 * found.ece:.1f} points on average, more than the "
        f"{100 * found.by_chance_high:.1f} that chance alone would show."
    )


def _describe_trust(evaluation: Evaluation | None) -> list[str]:
    trust = evaluation.trust if evaluation else None
    if trust is None:
        return []
    right = f", and {say_share(trust.precision)} of these are right" if trust.precision else ""
    lines = [
        f"It is sure of {100 * trust.answered.value:.0f} of 100 photos{right} (wanted: "
        f"{100 * trust.precision_asked:.0f}). The others it calls not sure"
        f"{'' if trust.answered.value else f': {WHY_NEVER_SURE}'}.",
        f"Sets of {trust.set_size:.2f} classes on average hold the truth of "
        f"{say_share(trust.coverage)} (wanted: {100 * trust.coverage_asked:.0f}).",
    ]
    if trust.novel is not None:
        lines.append(
            f"{say_share(trust.novel)} of the test photos do not look like the training photos; "
            "about 5 would be usual."
        )
    return lines
