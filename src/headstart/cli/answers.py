"""What people and programs see of several labels and of numbers: answers and figures."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from headstart.cli.output import percent, print_evaluation, print_json, stdout, write_all
from headstart.task import MULTILABEL, Task

if TYPE_CHECKING:
    from headstart.evaluation.intervals import Estimate
    from headstart.evaluation.labels import LabelsEvaluation
    from headstart.evaluation.tasks import AnyEvaluation
    from headstart.evaluation.values import ValueEvaluation
    from headstart.predictor import Prediction

_Write = Callable[["Prediction[Path]"], None]


def print_figures(evaluation: AnyEvaluation) -> None:
    """The figures of any task."""
    from headstart.evaluation.labels import LabelsEvaluation
    from headstart.evaluation.values import ValueEvaluation

    if isinstance(evaluation, LabelsEvaluation):
        _print_labels(evaluation)
    elif isinstance(evaluation, ValueEvaluation):
        _print_values(evaluation)
    else:
        print_evaluation(evaluation)


def _print_labels(found: LabelsEvaluation) -> None:
    console, base = stdout(), found.baseline
    console.print(
        f"[bold]mean average precision {percent(found.mean_average_precision)}[/] on "
        f"{found.photos} photos (labels by their frequency: {base.mean_average_precision:.1%})"
    )
    console.print(
        f"macro F1 {percent(found.macro_f1)}, micro F1 {percent(found.micro_f1)}; exactly right "
        f"{percent(found.subset_accuracy)}, wrong labels {percent(found.hamming_loss)}"
    )
    often = ";".join(base.labels) or "no label"
    console.print(
        f"always answering {escape(often)}: micro F1 {base.micro_f1:.1%}, exactly right "
        f"{base.subset_accuracy:.1%}, wrong labels {base.hamming_loss:.1%}"
    )
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("label", "photos", "from", "precision", "recall", "F1", "average precision"):
        table.add_column(name, justify="left" if name == "label" else "right")
    for row in found.per_label:
        values = (row.precision, row.recall, row.f1, row.average_precision)
        figures = (f"{value:.1%}" if row.photos else "–" for value in values)
        table.add_row(escape(row.name), str(row.photos), f"{row.threshold:.1%}", *figures)
    console.print(table)


def _print_values(found: ValueEvaluation) -> None:
    console, base = stdout(), found.baseline
    console.print(
        f"[bold]mean absolute error {_number(found.mae)}[/] on {found.photos} photos "
        f"(always answering the median {base.median:.4g}: {base.median_mae:.4g})"
    )
    console.print(
        f"root mean squared error {_number(found.rmse)} (always the mean {base.mean:.4g}: "
        f"{base.mean_rmse:.4g}), R² {_number(found.r2)}, rank correlation "
        f"{_number(found.spearman)}"
    )
    if found.coverage is not None:
        console.print(
            f"intervals hold the truth of {percent(found.coverage)} "
            f"(wanted {found.coverage_asked:.0%})"
        )


def _number(found: Estimate) -> str:
    return f"{found.value:.4g} \\[{found.low:.4g}, {found.high:.4g}]"


def write_answers(
    predictions: Iterable[Prediction[Path]], names: Sequence[str], style: str, task: Task
) -> tuple[int, int]:
    """Stream labels or numbers to stdout as csv, json lines or text; counts of read and unread."""
    kind = _Labels(names) if task is MULTILABEL else _Values()
    styles: dict[str, Callable[[_Labels | _Values], _Write]]
    styles = {"csv": _write_csv, "json": _write_json, "text": _write_text}
    return write_all(predictions, styles[style](kind))


class _Labels:
    columns = ("labels", "probabilities")

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def list_cells(self, said: Prediction[Path]) -> tuple[str, ...]:
        odds = self._list_odds(said)
        return said.label, ";".join(f"{odds[name]:.6f}" for name in said.labels or ())

    def describe(self, said: Prediction[Path]) -> dict[str, Any]:
        return {"labels": said.labels, "probabilities": self._list_odds(said)}

    def say(self, said: Prediction[Path]) -> str:
        odds = self._list_odds(said)
        shown = (f"[bold]{escape(name)}[/] {odds[name]:.1%}" for name in said.labels or ())
        return "  ".join(shown) or "no label"

    def _list_odds(self, said: Prediction[Path]) -> dict[str, float]:
        return dict(zip(self._names, map(float, said.probabilities), strict=True))


class _Values:
    columns = ("value", "low", "high")

    def list_cells(self, said: Prediction[Path]) -> tuple[str, ...]:
        return tuple(f"{value:.6g}" for value in (said.value, *(said.interval or ())))

    def describe(self, said: Prediction[Path]) -> dict[str, Any]:
        return {"value": said.value, "interval": said.interval}

    def say(self, said: Prediction[Path]) -> str:
        value, *ends = self.list_cells(said)
        return f"[bold]{value}[/]" + (f"  {ends[0]} to {ends[1]}" if ends else "")


def _write_csv(kind: _Labels | _Values) -> _Write:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["path", *kind.columns, "problem"])

    def write(said: Prediction[Path]) -> None:
        cells = [] if said.problem is not None else list(kind.list_cells(said))
        cells += [""] * (len(kind.columns) - len(cells))
        writer.writerow([said.item, *cells, said.problem or ""])

    return write


def _write_json(kind: _Labels | _Values) -> _Write:
    def write(said: Prediction[Path]) -> None:
        found = {"problem": said.problem} if said.problem is not None else kind.describe(said)
        print_json({"path": said.item, **found})

    return write


def _write_text(kind: _Labels | _Values) -> _Write:
    console = stdout()

    def write(said: Prediction[Path]) -> None:
        answer = f"[red]{escape(said.problem)}[/]" if said.problem is not None else kind.say(said)
        console.print(f"{escape(str(said.item))}  {answer}", soft_wrap=True)

    return write
