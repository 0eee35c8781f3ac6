"""What the pages of all runs say, whatever the task; and how a task's own part comes between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headstart.evaluation.gallery import Section
from headstart.evaluation.intervals import Estimate
from headstart.evaluation.learning_curve import LearningCurve
from headstart.evaluation.pages import render
from headstart.evaluation.pages.plots import plot_history, plot_learning_curve

# With fewer photos the advice is to add some.
FEW_TRAINED, FEW_TESTED = 20, 200


@dataclass(frozen=True)
class Headline:
    """How good it is, in one number.

    Attributes:
        value: The number, as it is shown.
        unit: What it counts, behind it.
        text: On what it was measured, and beside what.
    """

    value: str
    unit: str
    text: str


@dataclass(frozen=True)
class Card:
    """A few sentences at the top of the page.

    Attributes:
        title: Its heading.
        lines: The sentences.
        is_ordered: Whether the first matters most.
    """

    title: str
    lines: Sequence[str]
    is_ordered: bool = False

    @property
    def kind(self) -> str:
        """The list in HTML."""
        return "ol" if self.is_ordered else "ul"


@dataclass(frozen=True)
class Page:
    """What every page has.

    Attributes:
        title: Its heading.
        subtitle: What is told of a photo.
        record: What ``run.json`` holds.
        headline: None without test photos.
        cards: Beside it.
        curve: The learning curve, where it was measured.
        sections: What the photo doctor found.
    """

    title: str
    subtitle: str
    record: Mapping[str, Any]
    headline: Headline | None
    cards: Sequence[Card]
    curve: LearningCurve | None = None
    sections: Sequence[Section] = ()


def render_run(template: str, page: Page, plots: Mapping[str, str], **values: Any) -> str:
    """The page of a run, with a task's own part.

    Args:
        template: Of the task's part; it extends ``run.html.jinja``.
        page: What every page has.
        plots: The task's own, as SVG text.
        values: What else its template needs.

    Raises:
        MissingPackageError: Jinja or Matplotlib is not installed.
    """
    record = page.record
    history_run, history = _choose_history(record.get("fine_tune"))
    drawn = {
        "learning": plot_learning_curve(page.curve) if page.curve else "",
        "history": plot_history(history) if history else "",
    }
    return render(
        template,
        title=page.title,
        page=page,
        record=record,
        plots={**drawn, **plots},
        sections=page.sections,
        level=3,
        history_run=history_run,
        facts=_list_facts(record),
        plan=record.get("plan"),
        choice=record.get("backbone_choice"),
        files=(
            ("were not used", record["problems"]),
            ("were used, but should be looked at", record["flags"]),
        ),
        **values,
    )


def say_share(estimate: Estimate) -> str:
    """A share with its interval, of a hundred.

    >>> say_share(Estimate(0.5, 0.4, 0.6))
    '50.0 of 100 [40.0, 60.0]'
    """
    return (
        f"{100 * estimate.value:.1f} of 100 [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"
    )


def _choose_history(fine_tune: Mapping[str, Any] | None) -> tuple[str, list[dict[str, Any]]]:
    """The longest run whose photos held out were measured, else the longest."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for epoch in (fine_tune or {}).get("history") or ():
        runs.setdefault(epoch["run"], []).append(epoch)
    if not runs:
        return "", []
    best = max(
        runs, key=lambda name: (runs[name][0]["validation_loss"] is not None, len(runs[name]))
    )
    return best, runs[best]


def _describe_recipe(recipe: Mapping[str, Any]) -> str:
    """Its name, its stages, and the settings of fine-tuning.

    >>> _describe_recipe({"name": "probe", "stages": ["probe"], "folds": 5})
    'probe (probe, 5 folds)'
    """
    text = f"{recipe['name']} ({' → '.join(recipe['stages'])}, {recipe['folds']} folds)"
    settings = recipe.get("fine_tune") or {}
    shown = ", ".join(f"{name} {value}" for name, value in settings.items() if value is not None)
    return f"{text}: {shown}" if shown else text


def _list_facts(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    samples, backbone = record["samples"], record["backbone"]
    environment = record["environment"]
    packages = [f"{name} {version}" for name, version in environment["packages"].items() if version]
    seconds = ", ".join(f"{name} {value:.1f}" for name, value in record["seconds"].items() if value)
    return [
        ("photos", record["photos"] or "given by the program"),
        ("sides", ", ".join(f"{side} {count:,}" for side, count in samples.items())),
        ("backbone", backbone["name"]),
        ("recipe", _describe_recipe(record["recipe"])),
        ("seed", str(record["seed"])),
        ("runtime", record["runtime"]),
        ("seconds", seconds),
        ("machine", environment["machine"]),
        ("versions", ", ".join([f"headstart {environment['headstart']}", *packages])),
        ("weights, sha256", record["weights"]),
    ]
