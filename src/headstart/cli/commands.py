"""The commands. Arguments in, library calls, output; no logic of their own."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from headstart.cli.backbones import backbones
from headstart.cli.cache import cache_app
from headstart.cli.doctor import doctor
from headstart.cli.explain import explain
from headstart.cli.export import export
from headstart.cli.options import (
    AddressOption,
    BackboneOption,
    EngineOption,
    ForceOption,
    GpusOption,
    JsonOption,
    PhotosArgument,
    RuntimeOption,
    SeedOption,
)
from headstart.cli.plan import plan
from headstart.cli.predict import evaluate, predict
from headstart.cli.report import compare, report
from headstart.cli.serve import serve
from headstart.cli.suggest import suggest
from headstart.cli.train import train


class _Commands(TyperGroup):
    """Ends in one sentence, before typer's own handlers end without one."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            from headstart.cli.output import print_error

            print_error("Interrupted. What was computed is kept; run it again to go on.")
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
    command = f"headstart train {photos} -o {bundle} --recipe probe"
    console.print(f"\n[bold]$ {command}[/]", soft_wrap=True)
    train(photos, output=bundle, recipe="probe", seed=seed, force=True)
    photo = min((photos / "3").iterdir())
    console.print(f"\n[bold]$ headstart predict {bundle} {photo}[/]", soft_wrap=True)
    predictor = Predictor(bundle)
    out.write_predictions(predictor.predict([photo]), predictor.class_names, "text", 1)


def features(
    photos: PhotosArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="The .npy file.")] = Path(
        "features.npy"
    ),
    backbone: BackboneOption = "efficientnet-lite0",
    runtime: RuntimeOption = "auto",
    engine: EngineOption = "local",
    ray_address: AddressOption = None,
    ray_gpus: GpusOption = None,
    as_json: JsonOption = False,
    force: ForceOption = False,
) -> None:
    """Write the backbone's features of photos: an array (.npy) and its rows' paths (.csv)."""
    from rich.markup import escape

    from headstart.cli import output as out
    from headstart.engines import require_engine, use_engine
    from headstart.errors import DatasetError, say_count
    from headstart.features.extract import open_features, scan_photos
    from headstart.features.table import check_features_output, save_features
    from headstart.models.loaders import load_prefix
    from headstart.runtimes import require_runtime

    check_features_output(output, force)
    require_runtime(runtime)
    require_engine(engine, ray_address, ray_gpus)
    prefix, manifest = load_prefix(backbone), scan_photos(photos)
    with (
        use_engine(engine, address=ray_address, gpus=ray_gpus),
        out.progress("features") as report,
        open_features(prefix, manifest, runtime=runtime, progress=report) as found,
    ):
        if not found.samples:
            raise DatasetError(
                f"No photo in {photos} could be used; "
                f"{say_count(len(found.problems), 'problem', 'problems')}."
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
        f"saved [bold]{escape(str(output))}[/] ({rows} × {columns} float16) and "
        f"{escape(str(table))}; "
        f"{found.forwarded} photos were computed, {rows - found.forwarded} came from the cache",
        soft_wrap=True,
    )


for command in (
    *(demo, plan, train, predict, evaluate, explain, report, compare, export, serve),
    *(doctor, suggest, features, backbones),
):
    app.command()(command)
