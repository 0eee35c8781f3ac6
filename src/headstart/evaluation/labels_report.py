"""The record of a run that says several labels of a photo → what its page says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headstart.evaluation.labels import LabelFigures, LabelsEvaluation
from headstart.evaluation.pages.plots import plot_labels
from headstart.evaluation.run_page import (
    FEW_TESTED,
    FEW_TRAINED,
    Card,
    Headline,
    Page,
    render_run,
    say_share,
)

_SHOWN_LABELS = 3


@dataclass(frozen=True)
class LabelsPhoto:
    """A test photo on the page.

    Attributes:
        name: Of its file.
        right: Labels that are said, and that it has.
        wrong: Labels that are said, and that it has not.
        missed: Labels that it has, and that are not said.
        probability: Of exactly the labels that are said.
        picture: A JPEG; empty where the photo cannot be read any more.
    """

    name: str
    right: tuple[str, ...]
    wrong: tuple[str, ...]
    missed: tuple[str, ...]
    probability: float
    picture: bytes = b""

    @property
    def is_right(self) -> bool:
        """Whether exactly the right labels are said."""
        return not self.wrong and not self.missed


@dataclass(frozen=True)
class Tally:
    """One label's row of the table.

    Attributes:
        figures: As they were measured.
        trained: How many training photos have it.
        right: Of how many test photos it is rightly said.
        wrong: Of how many it is wrongly said.
        missed: How many have it of which it is not said.
    """

    figures: LabelFigures
    trained: int
    right: int
    wrong: int
    missed: int


def render_labels(
    title: str,
    record: Mapping[str, Any],
    answers: Sequence[LabelsPhoto],
    photos: Sequence[LabelsPhoto],
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
    found, names = record.get("evaluation"), record["class_names"]
    evaluation = LabelsEvaluation.from_json(found) if found else None
    tallies = _count(evaluation, record["train_counts"], answers) if evaluation else []
    page = Page(
        title,
        f"{len(names)} labels, of which a photo may have several or none: {', '.join(names)}",
        record,
        _make_headline(evaluation) if evaluation else None,
        _list_cards(record, evaluation, tallies),
    )
    plots = {"labels": plot_labels([_plot_row(tally) for tally in tallies]) if tallies else ""}
    return render_run(
        "labels.html.jinja",
        page,
        plots,
        evaluation=evaluation,
        tallies=tallies,
        photos=photos,
        note=note,
    )


def _count(
    evaluation: LabelsEvaluation, trained: Mapping[str, int], answers: Sequence[LabelsPhoto]
) -> list[Tally]:
    def count(name: str, part: str) -> int:
        return sum(name in getattr(answer, part) for answer in answers)

    return [
        Tally(row, trained.get(row.name, 0), *(count(row.name, p) for p in _PARTS))
        for row in evaluation.per_label
    ]


_PARTS = ("right", "wrong", "missed")


def _plot_row(tally: Tally) -> tuple[str, int, int, int]:
    """Name; photos of which it is rightly said, that have it, of which it is said."""
    right = tally.right
    return tally.figures.name, right, right + tally.missed, right + tally.wrong


def _make_headline(evaluation: LabelsEvaluation) -> Headline:
    base = evaluation.baseline
    always = ", ".join(base.labels) or "no label"
    return Headline(
        f"{100 * evaluation.subset_accuracy.value:.0f}",
        "of 100 photos with exactly the right labels",
        f"Measured on {evaluation.photos:,} photos that were not trained on. Always saying the "
        f"most frequent set of labels ({always}) would be right for "
        f"{100 * base.subset_accuracy:.0f}.",
    )


def _list_cards(
    record: Mapping[str, Any], evaluation: LabelsEvaluation | None, tallies: Sequence[Tally]
) -> list[Card]:
    cards = []
    if evaluation is not None:
        share = evaluation.subset_accuracy
        low, high = round(100 * share.low), round(100 * share.high)
        cards.append(
            Card(
                "How sure is that?",
                [
                    f"With other photos it could have been between {low} and {high} of 100 (95 % "
                    "interval).",
                    f"{say_share(evaluation.hamming_loss)} pairs of photo and label are wrong.",
                ],
            )
        )
        worst = sorted(tallies, key=lambda t: -(t.wrong + t.missed))
        lines = [
            f"{t.figures.name}: missed on {t.missed} of {t.right + t.missed} photos that have it, "
            f"wrongly said of {t.wrong}"
            for t in worst[:_SHOWN_LABELS]
            if t.wrong + t.missed
        ]
        cards.append(Card("Which labels are hard?", lines or ["None: all are right."]))
    return [*cards, Card("What to do next", advise(record, evaluation, tallies), is_ordered=True)]


def advise(
    record: Mapping[str, Any], evaluation: LabelsEvaluation | None, tallies: Sequence[Tally]
) -> list[str]:
    """What would help most, as sentences; never empty."""
    lines = []
    counts = {name: record["train_counts"].get(name, 0) for name in record["class_names"]}
    few = sorted((count, name) for name, count in counts.items() if count < FEW_TRAINED)
    if few:
        shown = ", ".join(f"{name} ({count})" for count, name in few[:5])
        lines.append(f"Add photos with {shown}: a label needs {FEW_TRAINED}, better 50.")
    if evaluation is None:
        lines.append("Set photos aside for a test (--test TABLE), or add photos.")
        return lines
    untested = [t.figures.name for t in tallies if not t.figures.photos]
    if untested:
        lines.append(f"Test photos with {', '.join(untested[:5])}: nothing is known of these yet.")
    worst = max(tallies, key=lambda t: t.wrong + t.missed)
    if worst.wrong + worst.missed > 1:
        lines.append(
            f"Look at the photos where {worst.figures.name} is wrongly said or missed: in tables "
            "of labels, a forgotten one is the most frequent mistake. Correct those that are wrong."
        )
    if evaluation.photos < FEW_TESTED:
        share = evaluation.subset_accuracy
        lines.append(
            f"Test on more photos: {evaluation.photos} leave an interval of "
            f"{100 * (share.high - share.low):.0f} points."
        )
    return lines or ["Nothing stands out: use it, and look at what it says now and then."]
