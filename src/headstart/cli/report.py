"""``headstart report`` and ``headstart compare``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headstart.cli.options import JsonOption

if TYPE_CHECKING:
    from headstart.evaluation.intervals import Comparison
    from headstart.runs import Run


def report(
    bundle: Annotated[
        Path, typer.Argument(help="A bundle with its .run folder beside it, or that folder.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="By default report.html in the folder.", show_default=False
        ),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(
            help="Also what more photos would bring, and photos to look at; takes seconds."
        ),
    ] = True,
    show: Annotated[
        bool | None,
        typer.Option(
            "--open/--no-open", help="By default where stdout is a terminal.", show_default=False
        ),
    ] = None,
) -> None:
    """Write the report of a training as one HTML file, and open it in the browser.

    How good, how sure, what is confused with what (with the photos), what to do next.
    """
    import webbrowser

    from rich.markup import escape

    from headstart.cli import output as out
    from headstart.cli.tuning import show_log
    from headstart.report import write_report

    with show_log(), out.progress("features") as progress:
        path = write_report(bundle, output, measure=measure, progress=progress)
    out.stdout().print(f"wrote [bold]{escape(str(path))}[/]", soft_wrap=True)
    if sys.stdout.isatty() if show is None else show:
        webbrowser.open(path.resolve().as_uri())


def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Bundles with their .run folders, or these folders.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Trainings side by side, and each against the first on the test photos that both have."""
    from headstart.cli import output as out
    from headstart.runs import load_run
    from headstart.task import read_task, require_task

    found = [load_run(path) for path in runs]
    for run in found:
        require_task(read_task(run.record), f"The comparison of {run.name} with others")
    gains = [compare_runs(found[0], run) for run in found]
    if as_json:
        described = [_describe(run, gain) for run, gain in zip(found, gains, strict=True)]
        out.print_json({"runs": described})
        return
    rows = [_row(run, gain) for run, gain in zip(found, gains, strict=True)]
    header = ("run", "backbone", "recipe", "trained on", "tested on", "accuracy", "log loss")
    out.print_rows(rows, *header, "seconds", f"points over {found[0].name}")
    if any(gain is None for gain in gains[1:]):
        out.stdout().print("–: no test photos in common with the first")


def compare_runs(first: Run, other: Run) -> tuple[int, Comparison] | None:
    """Shared test photos, and the accuracy of the other run minus that of the first on them."""
    from headstart.evaluation.intervals import compare_hits

    before = {answer.digest: answer for answer in first.answers}
    shared = [answer for answer in other.answers if answer.digest in before]
    if first is other or not shared:
        return None
    hits = [answer.is_right for answer in shared]
    theirs = [before[answer.digest].is_right for answer in shared]
    groups = [before[answer.digest].group for answer in shared]
    return len(shared), compare_hits(hits, theirs, groups, seed=int(first.record["seed"]))


def _describe(run: Run, gain: tuple[int, Comparison] | None) -> dict[str, Any]:
    from dataclasses import asdict

    keys = ("created", "backbone", "recipe", "seed", "samples", "evaluation", "seconds", "weights")
    against = None if gain is None else {"photos": gain[0], **asdict(gain[1])}
    return {
        "run": str(run.folder),
        **{key: run.record[key] for key in keys},
        "against_first": against,
    }


def _row(run: Run, gain: tuple[int, Comparison] | None) -> tuple[str, ...]:
    from headstart.evaluation.metrics import Evaluation

    record, accuracy, loss = run.record, "–", "–"
    if record["evaluation"]:
        evaluation = Evaluation.from_json(record["evaluation"])
        share = evaluation.accuracy
        accuracy = f"{share.value:.1%} [{share.low:.1%}, {share.high:.1%}]"
        loss = f"{evaluation.log_loss.value:.3f}"
    recipe = record["recipe"]["name"]
    if record["fine_tune"]:
        kept = "" if record["fine_tune"]["share"] else ", the probe was kept"
        recipe += f" ({record['fine_tune']['unfreeze']}{kept})"
    elif "fine_tune" in record["recipe"]:
        recipe += " (not finished: the probe)"
    says = "–"
    if gain is not None:
        photos, found = gain
        low, value, high = (
            100 * v for v in (found.difference.low, found.difference.value, found.difference.high)
        )
        says = f"{value:+.1f} [{low:+.1f}, {high:+.1f}] on {photos} photos"
    samples = record["samples"]
    counts = (f"{samples['train']:,}", f"{samples['test']:,}")
    total = f"{record['seconds']['total']:.1f}"
    return (run.name, record["backbone"]["name"], recipe, *counts, accuracy, loss, total, says)
