"""``headstart predict`` and ``headstart evaluate``: what a bundle says, and how often rightly."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import Annotated

import typer

from headstart.cli.options import (
    COVERAGE,
    PRECISION,
    AddressOption,
    BundleArgument,
    CoverageOption,
    EngineOption,
    JsonOption,
    PhotosArgument,
    PrecisionOption,
    ViewsOption,
)


def predict(
    bundle: BundleArgument,
    paths: Annotated[
        list[str], typer.Argument(help="Photos, folders or patterns.", show_default=False)
    ],
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV on stdout.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines on stdout.")] = False,
    top_k: Annotated[int, typer.Option(min=1, help="How many classes per photo.")] = 1,
    coverage: CoverageOption = COVERAGE,
    precision: PrecisionOption = PRECISION,
    views: ViewsOption = 1,
    engine: EngineOption = "local",
    ray_address: AddressOption = None,
) -> None:
    """Predict the class (or labels, or number) of photos; needs no TensorFlow.

    A photo that cannot be read is a row with the reason; if none can, the exit code is 1. Without
    --csv or --json, a terminal gets lines to read and anything else gets CSV.
    """
    from rich.markup import escape

    from headstart.cli import output as out
    from headstart.cli.answers import write_answers
    from headstart.cli.inputs import Input, list_inputs
    from headstart.engines import require_engine, use_engine
    from headstart.predictor import Predictor
    from headstart.task import CLASSIFICATION, require_task

    require_engine(engine, ray_address)
    predictor = Predictor(bundle, views=views, coverage=coverage, precision=precision)
    if top_k > 1:
        require_task(predictor.task, "A list of the most probable classes (--top-k)")
    style = "json" if as_json else "csv" if as_csv or not sys.stdout.isatty() else "text"
    inputs = list_inputs(paths)
    with (
        use_engine(engine, address=ray_address),
        # Also where the reader of the rows has seen enough: the engine ends after its work.
        closing(predictor.predict(inputs, Input.check)) as predictions,
    ):
        rows = (out.with_path(prediction) for prediction in predictions)
        if predictor.task is CLASSIFICATION:
            read, unread = out.write_predictions(rows, predictor.class_names, style, top_k)
        else:
            read, unread = write_answers(rows, predictor.class_names, style, predictor.task)
    if not read + unread:
        out.stderr().print(f"no photos were found in {escape(', '.join(paths))}")
    if unread:
        noun = "photo" if read + unread == 1 else "photos"
        out.stderr().print(f"{unread} of {read + unread} {noun} could not be read")
        if not read:
            raise typer.Exit(1)


def evaluate(
    bundle: BundleArgument,
    photos: PhotosArgument,
    coverage: CoverageOption = COVERAGE,
    precision: PrecisionOption = PRECISION,
    views: ViewsOption = 1,
    engine: EngineOption = "local",
    ray_address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a bundle on labelled photos: one folder per class, or a CSV."""
    from headstart.cli import output as out
    from headstart.cli.answers import print_figures
    from headstart.data.table import scan_source
    from headstart.engines import require_engine, use_engine
    from headstart.measuring import describe_trained, evaluate_manifest
    from headstart.predictor import Predictor
    from headstart.stopwatch import Stopwatch

    stopwatch = Stopwatch()
    require_engine(engine, ray_address)
    predictor = Predictor(bundle, views=views, coverage=coverage, precision=precision)
    with stopwatch.step("scan"):
        manifest = scan_source(photos, task=predictor.task)
    with use_engine(engine, address=ray_address):
        evaluation, problems = evaluate_manifest(predictor, manifest, stopwatch=stopwatch)
    warnings = (*manifest.warnings, *describe_trained(predictor.bundle, manifest))
    if as_json:
        record = predictor.bundle.manifest
        out.print_json(
            {
                "bundle": str(bundle),
                "task": predictor.task.name,
                "backbone": record["backbone"]["name"],
                "recipe": record["recipe"],
                "runtime": record["runtime"],
                "samples": {"train": 0, "validation": 0, "test": evaluation.photos},
                "problems": out.list_problems(problems),
                "evaluation": evaluation.to_json(),
                "seconds": stopwatch.report(),
                "warnings": list(warnings),
            }
        )
        return
    out.print_notes(warnings, problems)
    print_figures(evaluation)
    out.print_seconds(stopwatch.report())
