"""The commands. Arguments in, library calls, output; no logic of their own."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from headstart.cli.backbones import backbones
from headstart.cli.cache import cache_app
from headstart.cli.doctor import doctor
from headstart.cli.options import (
    AugmentOption,
    EpochsOption,
    LearningRateOption,
    RecipeOption,
    UnfreezeOption,
)


class _Commands(TyperGroup):
    """Ends in one sentence, before typer's own handlers end without one."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            from headstart.cli.output import print_error

            print_error("Interrupted. Photos that were computed are in the cache; run it again.")
            raise typer.Exit(130) from None
        except BrokenPipeError:  # the reader of our output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None


app = typer.Typer(
    name="headstart",
    cls=_Commands,
    help="A folder of labelled photos → an image classifier you can trust and ship.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(cache_app, name="cache")
app.command()(doctor)
app.command()(backbones)

PhotosArgument = Annotated[
    Path, typer.Argument(help="A folder with one folder per class, or a CSV.", show_default=False)
]
BundleArgument = Annotated[
    Path, typer.Argument(help="A bundle made by: headstart train.", show_default=False)
]
BackboneOption = Annotated[
    str,
    typer.Option(
        help="A name of: headstart backbones; or kerashub:PRESET_OR_FOLDER, hub:FOLDER_OR_URL, "
        "local:FILE. See docs/backbones.md."
    ),
]
RuntimeOption = Annotated[
    str, typer.Option(help="auto, onnxruntime, openvino, litert or tensorflow.")
]
SeedOption = Annotated[int, typer.Option(min=0, help="Of everything random.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Overwrite the output.")]


def _print_version(value: bool) -> None:
    if value:
        from headstart import __version__

        typer.echo(f"headstart {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    folder: Annotated[
        Path, typer.Option("--output", "-o", help="Where photos and bundle go.")
    ] = Path("headstart-demo"),
    seed: SeedOption = 0,
) -> None:
    """Train on scikit-learn's handwritten digits: the main job, without any data of yours."""
    from headstart.cli import output as out
    from headstart.cli.demo import write_digits
    from headstart.predictor import Predictor

    console = out.stdout()
    photos, bundle = write_digits(folder / "photos"), folder / "digits.headstart"
    console.print(
        f"Wrote the handwritten digits to {photos}, one folder per class. Now as you would:",
        soft_wrap=True,
    )
    console.print(f"\n[bold]$ headstart train {photos} -o {bundle}[/]", soft_wrap=True)
    train(photos, output=bundle, seed=seed, force=True)
    photo = min((photos / "3").iterdir())
    console.print(f"\n[bold]$ headstart predict {bundle} {photo}[/]", soft_wrap=True)
    predictor = Predictor(bundle)
    out.write_predictions(predictor.predict([photo]), predictor.class_names, "text", 1)


@app.command()
def train(
    photos: PhotosArgument,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The bundle; by default PHOTOS.headstart.", show_default=False
        ),
    ] = None,
    test: Annotated[
        Path | None,
        typer.Option(help="Test photos: a folder or a CSV like PHOTOS.", show_default=False),
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(
            help="Photos that belong together: a regular expression on paths, or a CSV's column.",
            show_default=False,
        ),
    ] = None,
    recipe: RecipeOption = "probe",
    unfreeze: UnfreezeOption = None,
    epochs: EpochsOption = None,
    learning_rate: LearningRateOption = None,
    augment: AugmentOption = None,
    backbone: BackboneOption = "efficientnet-lite0",
    runtime: RuntimeOption = "auto",
    seed: SeedOption = 0,
    as_json: JsonOption = False,
    force: ForceOption = False,
) -> None:
    """Train a classifier on a folder of photos and measure it on photos it has not seen.

    PHOTOS has one folder per class, or train/, validation/ and test/ folders of such; or it is a
    CSV file with the columns path, label, optionally split and group. Without test photos about
    20 % of each class are set aside; a bundle that is overwritten hands its test photos on.
    """
    from headstart.bundle import check_output, find_bundle
    from headstart.classifier import ImageClassifier
    from headstart.cli import output as out
    from headstart.recipe import choose_recipe

    path = output or _name_bundle(photos)
    check_output(path, force)
    settings = {"unfreeze": unfreeze, "epochs": epochs, "learning_rate": learning_rate}
    chosen = choose_recipe(recipe, views=augment, **settings)
    classifier = ImageClassifier(
        backbone, recipe=chosen, seed=seed, runtime=runtime, group_by=group_by
    )
    report_epoch, earlier = [out.print_epoch], find_bundle(path)
    with out.progress("features") as report:
        classifier.fit(photos, test=test, earlier=earlier, progress=report, callbacks=report_epoch)
    classifier.save(path, force=force)
    if as_json:
        out.print_json(describe_training(classifier, path))
        return
    out.print_notes(classifier.warnings, classifier.problems, classifier.flags)
    if classifier.tuning is not None:
        out.print_tuning(classifier.tuning)
    if classifier.evaluation is not None:
        out.print_evaluation(classifier.evaluation)
    out.print_seconds(classifier.seconds)
    out.stdout().print(
        f"saved [bold]{path}[/]; try: headstart predict {shlex.quote(str(path))} PHOTOS",
        soft_wrap=True,
    )


def _name_bundle(photos: Path) -> Path:
    name = photos.name.strip(".") or photos.resolve().name
    return Path(f"{name.removesuffix('.csv')}.headstart")


def describe_training(classifier: Any, path: Path) -> dict[str, Any]:
    """The object of ``train --json``; its schema is in docs/json.md."""
    from headstart.cli.output import list_problems

    manifest = classifier.bundle.manifest
    return {
        "bundle": str(path),
        "backbone": manifest["backbone"]["name"],
        "recipe": manifest["recipe"],
        "runtime": manifest["runtime"],
        "samples": manifest["samples"],
        "problems": list_problems(classifier.problems),
        "flags": list_problems(classifier.flags),
        "evaluation": manifest["evaluation"],
        "validation": manifest["validation"],
        "fine_tune": manifest["fine_tune"],
        "seconds": classifier.seconds,
        "warnings": list(classifier.warnings),
    }


@app.command()
def predict(
    bundle: BundleArgument,
    paths: Annotated[
        list[str], typer.Argument(help="Photos, folders or patterns.", show_default=False)
    ],
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV on stdout.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines on stdout.")] = False,
    top_k: Annotated[int, typer.Option(min=1, help="How many classes per photo.")] = 1,
) -> None:
    """Predict the class of photos; needs no TensorFlow.

    A photo that cannot be read is a row with the reason; if none can, the exit code is 1. Without
    --csv or --json, a terminal gets lines to read and anything else gets CSV.
    """
    from headstart.cli import output as out
    from headstart.cli.inputs import Input, list_inputs
    from headstart.predictor import Predictor

    predictor = Predictor(bundle)
    style = "json" if as_json else "csv" if as_csv or not sys.stdout.isatty() else "text"
    inputs = list_inputs(paths)
    predictions = predictor.predict(inputs, Input.check)
    rows = (out.with_path(prediction) for prediction in predictions)
    read, unread = out.write_predictions(rows, predictor.class_names, style, top_k)
    if unread:
        noun = "photo" if unread == 1 else "photos"
        out.stderr().print(f"{unread} of {read + unread} {noun} could not be read")
        if not read:
            raise typer.Exit(1)


@app.command()
def evaluate(bundle: BundleArgument, photos: PhotosArgument, as_json: JsonOption = False) -> None:
    """Measure a bundle on labelled photos, one folder per class."""
    import time

    from headstart.cli import output as out
    from headstart.data.table import scan_source
    from headstart.predictor import Predictor, describe_trained, evaluate_manifest

    start = time.perf_counter()
    predictor = Predictor(bundle)
    manifest = scan_source(photos)
    evaluation, problems = evaluate_manifest(predictor, manifest)
    warnings = (*manifest.warnings, *describe_trained(predictor.bundle, manifest))
    if as_json:
        record = predictor.bundle.manifest
        out.print_json(
            {
                "bundle": str(bundle),
                "backbone": record["backbone"]["name"],
                "recipe": record["recipe"],
                "runtime": record["runtime"],
                "samples": {"train": 0, "validation": 0, "test": evaluation.photos},
                "problems": out.list_problems(problems),
                "evaluation": evaluation.to_json(),
                "seconds": {"total": round(time.perf_counter() - start, 3)},
                "warnings": list(warnings),
            }
        )
        return
    out.print_notes(warnings, problems)
    out.print_evaluation(evaluation)


@app.command()
def features(
    photos: PhotosArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="The .npy file.")] = Path(
        "features.npy"
    ),
    backbone: BackboneOption = "efficientnet-lite0",
    runtime: RuntimeOption = "auto",
    as_json: JsonOption = False,
    force: ForceOption = False,
) -> None:
    """Write the backbone's features of photos: an array (.npy) and its rows' paths (.csv)."""
    from headstart.cli import output as out
    from headstart.errors import DatasetError
    from headstart.features.extract import open_features, scan_photos
    from headstart.features.table import check_features_output, save_features
    from headstart.models.loaders import load_prefix
    from headstart.runtimes import require_runtime

    check_features_output(output, force)
    require_runtime(runtime)
    prefix, manifest = load_prefix(backbone), scan_photos(photos)
    with (
        out.progress("features") as report,
        open_features(prefix, manifest, runtime=runtime, progress=report) as found,
    ):
        if not found.samples:
            raise DatasetError(
                f"No photo in {photos} could be used; {len(found.problems)} problems."
            )
        table = save_features(found, output, force=force)
    if as_json:
        out.print_json(
            {
                "features": str(output),
                "rows": str(table),
                "shape": [len(found.samples), *found.shape],
                "dtype": "float16",
                "backbone": backbone,
                "runtime": found.runtime,
                "forwarded": found.forwarded,
                "problems": out.list_problems(found.problems),
                "flags": out.list_problems(found.flags),
                "seconds": {name: round(s, 3) for name, s in found.seconds.items()},
            }
        )
        return
    out.print_notes((), found.problems, found.flags)
    rows, columns = len(found.samples), found.shape[-1]
    out.stdout().print(
        f"saved [bold]{output}[/] ({rows} × {columns} float16) and {table}; "
        f"{found.forwarded} photos were computed, {rows - found.forwarded} came from the cache",
        soft_wrap=True,
    )
