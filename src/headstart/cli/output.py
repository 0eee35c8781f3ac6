"""What people and programs see: tables, progress, CSV and JSON."""

from __future__ import annotations

import contextlib
import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from headstart.errors import say_count

if TYPE_CHECKING:
    from headstart.cli.inputs import Input
    from headstart.data.scan import Problem
    from headstart.evaluation.intervals import Estimate
    from headstart.evaluation.metrics import Evaluation
    from headstart.features.extract import Progress as Report
    from headstart.predictor import Prediction
    from headstart.training.findings import Examination
    from headstart.training.measure import Contrast

_SHOWN_PROBLEMS = 10


def stdout() -> Console:
    """The console of results; lines for programs are not folded at the width of a screen."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 500)


def stderr() -> Console:
    """The console of progress, warnings and errors."""
    return Console(stderr=True, highlight=False)


def print_error(message: str) -> None:
    """An error as one sentence, without a traceback."""
    stderr().print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)


def print_json(data: Any) -> None:
    """One JSON object on stdout."""
    sys.stdout.write(json.dumps(data, ensure_ascii=False, default=_plain) + "\n")


def list_problems(problems: Iterable[Problem]) -> list[dict[str, Any]]:
    """Problems or flags for `print_json`."""
    return [{"path": problem.path, "reason": problem.reason} for problem in problems]


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value.item()


@contextlib.contextmanager
def progress(description: str) -> Iterator[Report]:
    """A progress bar of photos on stderr; silent when stderr is not a terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("photos"),
        TimeRemainingColumn(compact=True),
    )
    console = stderr()
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(description, total=None)
        # What is done makes room for what comes after it.
        yield lambda done, total: bar.update(
            task, completed=done, total=total, visible=done < total
        )


def print_notes(
    warnings: Iterable[str], problems: Sequence[Problem], flags: Sequence[Problem] = ()
) -> None:
    """Warnings, and the first of the files with problems and of those with flags, on stderr."""
    console = stderr()
    for warning in warnings:
        console.print(f"[yellow]note:[/] {escape(warning)}", soft_wrap=True)
    for found, fate in ((flags, "used, but should be looked at"), (problems, "not used")):
        if found:
            files = say_count(len(found), "file was", "files were")
            console.print(f"[yellow]{files} {fate}:[/]")
        for problem in found[:_SHOWN_PROBLEMS]:
            console.print(
                f"  {escape(str(problem.path))}: {escape(problem.reason)}", soft_wrap=True
            )
        if len(found) > _SHOWN_PROBLEMS:
            console.print(f"  … and {len(found) - _SHOWN_PROBLEMS} more; --json lists all of them")


def print_evaluation(evaluation: Evaluation) -> None:
    """The figures, the table of classes, and what is confused most."""
    console = stdout()
    console.print(
        f"[bold]accuracy {percent(evaluation.accuracy)}[/] on {evaluation.photos} photos "
        f"(largest class: {evaluation.majority:.1%})"
    )
    console.print(
        f"balanced accuracy {percent(evaluation.balanced_accuracy)}, log loss "
        f"{evaluation.log_loss.value:.3f}, calibration error {evaluation.ece:.3f}"
        f"{_chance(evaluation)}"
    )
    print_trust(evaluation)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("class", "photos", "precision", "recall", "F1", "mostly confused with"):
        table.add_column(name, justify="left" if name[0] in "cm" else "right")
    for number, row in enumerate(evaluation.per_class):
        values = (row.precision, row.recall, row.f1)
        figures = (f"{value:.1%}" if row.photos else "–" for value in values)
        confused = _confused_with(evaluation, number)
        table.add_row(escape(row.name), str(row.photos), *figures, escape(confused))
    console.print(table)


def _chance(evaluation: Evaluation) -> str:
    found = evaluation.calibration
    return f" (by chance up to {found.by_chance_high:.3f})" if found else ""


def print_trust(evaluation: Evaluation) -> None:
    """How "not sure", the prediction sets and novelty did."""
    from headstart.evaluation.trust import WHY_NEVER_SURE

    console, trust = stdout(), evaluation.trust
    if evaluation.top_k is not None:
        count, share = evaluation.top_k
        console.print(f"truth among the {count} most probable: {percent(share)}")
    if trust is None:
        return
    right = f", {percent(trust.precision)} of them right" if trust.precision else ""
    why = '; the others are "not sure"' if trust.answered.value else f": {WHY_NEVER_SURE}"
    console.print(
        f"sure of {trust.answered.value:.1%}{right} (wanted {trust.precision_asked:.0%}){why}"
    )
    novel = f"; {trust.novel.value:.1%} do not look like the training photos" if trust.novel else ""
    console.print(
        f"sets of {trust.set_size:.2f} classes hold the truth of {percent(trust.coverage)} "
        f"(wanted {trust.coverage_asked:.0%}){novel}"
    )


def print_contrasts(contrasts: Iterable[Contrast], cross_validation: Estimate | None) -> None:
    """The result beside simpler ones, and by cross-validation."""
    shown = "; ".join(map(str, contrasts))
    if shown:
        stdout().print(escape(shown), soft_wrap=True)
    if cross_validation is not None:
        stdout().print(f"the probe, cross-validated over all photos: {percent(cross_validation)}")


def print_examination(found: Examination, top: int) -> None:
    """How many findings of each kind, then the highest of each."""
    from headstart.training.findings import KINDS

    console, counts = stdout(), found.count()
    if not counts:
        console.print(f"{say_count(len(found.samples), 'photo', 'photos')}, nothing to look at.")
        return
    print_rows(
        ((KINDS[kind], str(count)) for kind, count in counts.items()),
        *(f"of {len(found.samples)} photos", "found"),
    )
    for kind in counts:
        if top:
            console.print(f"\n[bold]{KINDS[kind]}[/]")
        for finding in [f for f in found.findings if f.kind == kind][:top]:
            says = f"{finding.score:.2f}  {finding.path}: {finding.says}"
            console.print(f"  {escape(says)}", soft_wrap=True)
    if counts.get("label"):
        console.print(
            "\nIn published studies about half of such label flags are right: look before you "
            "change.",
            soft_wrap=True,
        )


def percent(estimate: Estimate) -> str:
    """A share with its interval, for rich."""
    return f"{estimate.value:.1%} [{estimate.low:.1%}, {estimate.high:.1%}]".replace("[", "\\[")


def _confused_with(evaluation: Evaluation, number: int) -> str:
    row = list(evaluation.confusion[number])
    row[number] = 0
    most = max(range(len(row)), key=row.__getitem__)
    return f"{evaluation.class_names[most]} ({row[most]})" if row[most] else ""


def print_seconds(seconds: dict[str, float]) -> None:
    """Where the time went, in one line."""
    parts = [f"{name} {value:.1f}" for name, value in seconds.items() if value and name != "total"]
    stdout().print(f"{seconds['total']:.1f} s: {', '.join(parts)}", style="dim")


def print_rows(rows: Iterable[Sequence[str]], *header: str) -> None:
    """A plain table on stdout."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in header:
        table.add_column(name, no_wrap=name != "ready", overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    stdout().print(table)


def with_path(prediction: Prediction[Input]) -> Prediction[Path]:
    """The prediction of an input, with its path as the item."""
    return replace(prediction, item=prediction.item.path)  # type: ignore[return-value,arg-type]


def write_predictions(
    predictions: Iterable[Prediction[Path]], class_names: Sequence[str], style: str, top_k: int
) -> tuple[int, int]:
    """Stream predictions to stdout as csv, json lines or text; counts of read and unread."""
    styles: dict[str, type[_CsvRows | _JsonRows | _TextRows]]
    styles = {"csv": _CsvRows, "json": _JsonRows, "text": _TextRows}
    return write_all(predictions, styles[style](class_names, top_k).write)


def write_all(
    predictions: Iterable[Prediction[Path]], write: Callable[[Prediction[Path]], None]
) -> tuple[int, int]:
    """Write one after the other; counts of read and unread."""
    read = unread = 0
    for prediction in predictions:
        write(prediction)
        read, unread = (read + 1, unread) if prediction.problem is None else (read, unread + 1)
    sys.stdout.flush()
    return read, unread


def _ranked(
    prediction: Prediction[Path], class_names: Sequence[str], top_k: int
) -> list[tuple[str, float]]:
    order = prediction.probabilities.argsort(kind="stable")[::-1][:top_k]
    return [(class_names[number], float(prediction.probabilities[number])) for number in order]


def _word(value: bool | None) -> str:
    return "" if value is None else "yes" if value else "no"


class _CsvRows:
    def __init__(self, class_names: Sequence[str], top_k: int) -> None:
        self._names, self._top_k = class_names, min(top_k, len(class_names))
        self._writer = csv.writer(sys.stdout, lineterminator="\n")
        more = [
            f"{column}_{k}"
            for k in range(2, self._top_k + 1)
            for column in ("label", "probability")
        ]
        judged = ("set", "sure", "novel")
        self._writer.writerow(["path", "label", "probability", *more, *judged, "problem"])

    def write(self, prediction: Prediction[Path]) -> None:
        ranked = _ranked(prediction, self._names, self._top_k)
        cells = [cell for name, p in ranked for cell in (name, f"{p:.6f}")]
        cells += [""] * (2 * (self._top_k - len(ranked)))
        names = ";".join(prediction.prediction_set or ())
        judged = (names, _word(prediction.is_sure), _word(prediction.is_novel))
        self._writer.writerow([prediction.item, *cells, *judged, prediction.problem or ""])


class _JsonRows:
    def __init__(self, class_names: Sequence[str], top_k: int) -> None:
        self._names, self._top_k = class_names, top_k

    def write(self, prediction: Prediction[Path]) -> None:
        if prediction.problem is not None:
            print_json({"path": prediction.item, "problem": prediction.problem})
            return
        ranked = _ranked(prediction, self._names, len(self._names))
        data: dict[str, Any] = {
            "path": prediction.item,
            "label": prediction.label,
            "probability": prediction.probability,
            "probabilities": dict(ranked),
            "set": prediction.prediction_set,
            "sure": prediction.is_sure,
            "novelty": prediction.novelty,
            "novel": prediction.is_novel,
        }
        if self._top_k > 1:
            data["top"] = [{"label": n, "probability": p} for n, p in ranked[: self._top_k]]
        print_json(data)


class _TextRows:
    def __init__(self, class_names: Sequence[str], top_k: int) -> None:
        self._names, self._top_k, self._console = class_names, top_k, stdout()

    def write(self, prediction: Prediction[Path]) -> None:
        # Who is not sure says between what.
        count = max(self._top_k, 1 if prediction.is_sure in (True, None) else 2)
        ranked = _ranked(prediction, self._names, count)
        answer = "  ".join(f"[bold]{escape(name)}[/] {p:.1%}" for name, p in ranked)
        if prediction.is_sure is False:
            answer = f"[yellow]not sure:[/] {answer}"
        if prediction.is_novel:
            answer += "  [yellow](does not look like the training photos)[/]"
        if prediction.problem is not None:
            answer = f"[red]{escape(prediction.problem)}[/]"
        self._console.print(f"{escape(str(prediction.item))}  {answer}", soft_wrap=True)
