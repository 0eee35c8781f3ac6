"""``headstart doctor``: what to look at among photos; what is installed on this machine."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headstart.cli.options import (
    AddressOption,
    BackboneOption,
    EngineOption,
    ForceOption,
    GpusOption,
    GroupByOption,
    JsonOption,
    RuntimeOption,
    SeedOption,
)
from headstart.errors import say_count

if TYPE_CHECKING:
    from headstart.runtimes.measure import Choice, Measurement
    from headstart.training.findings import Examination


def doctor(
    photos: Annotated[
        Path | None,
        typer.Argument(
            help="A folder with one folder per class, or a CSV; or its address, such as s3://….",
            show_default=False,
        ),
    ] = None,
    env: Annotated[
        bool, typer.Option("--env", help="The environment: packages, machine, cache, runtimes.")
    ] = False,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", help="Write all findings.", show_default=False)
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option("--html", help="Write a page with the photos.", show_default=False),
    ] = None,
    corrected: Annotated[
        Path | None,
        typer.Option(
            "--apply-suggestions",
            help="Write a new CSV of labels with the suggestions applied; touches no photo.",
            show_default=False,
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=0, help="Findings shown of each kind.")] = 5,
    group_by: GroupByOption = None,
    backbone: BackboneOption = "efficientnet-lite0",
    runtime: RuntimeOption = "auto",
    engine: EngineOption = "local",
    ray_address: AddressOption = None,
    ray_gpus: GpusOption = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
    force: ForceOption = False,
) -> None:
    """Look through labelled photos for what is wrong; or, with --env, at the environment.

    PHOTOS: copies within and across classes, probable wrong labels, outliers, unreadable files.
    About half of the label flags are right in published studies: look before you change.

    --env times every installed runtime, compares it with TensorFlow, and remembers the fastest
    that agrees for the runs with the runtime auto. Takes ten to thirty seconds.
    """
    from headstart.engines import require_engine, use_engine

    if env:
        show_environment(backbone, as_json)
    elif photos is None:
        raise typer.BadParameter(
            "Give a folder of photos to look through, or --env to look at the environment.",
            param_hint="PHOTOS",
        )
    else:
        files = {"csv": csv_file, "html": html, "corrected": corrected}
        settings = {"group_by": group_by, "backbone": backbone, "runtime": runtime, "seed": seed}
        require_engine(engine, ray_address, ray_gpus)
        with use_engine(engine, address=ray_address, gpus=ray_gpus):
            show_photos(photos, settings, files, top, as_json=as_json, force=force)


def show_photos(
    photos: Path,
    settings: dict[str, Any],
    files: dict[str, Path | None],
    top: int,
    *,
    as_json: bool,
    force: bool,
) -> None:
    """Examine photos, write what was asked for, and show the rest."""
    from headstart.bundle import check_output
    from headstart.cli import output as out
    from headstart.training.examine import examine

    for path in files.values():
        if path is not None:
            check_output(path, force)
    with out.progress("features") as report:
        found = examine(photos, progress=report, **settings)
    changes = _write_files(found, files, photos.name, force)
    if as_json:
        out.print_json(_describe_examination(found, files, changes))
        return
    out.print_notes(found.warnings, ())
    out.print_examination(found, top)
    for path, what in ((files["csv"], "all findings"), (files["html"], "a page of the photos")):
        if path is not None:
            out.stdout().print(f"wrote {what} to {path}", markup=False, soft_wrap=True)
    if files["corrected"] is not None:
        out.stdout().print(
            f"wrote {files['corrected']}: {say_count(changes[0], 'label', 'labels')} changed, "
            f"{say_count(changes[1], 'copy', 'copies')} left out; "
            f"try: headstart train {shlex.quote(str(files['corrected']))}",
            markup=False,
            soft_wrap=True,
        )
        if changes[0] and not any(sample.side for sample in found.samples):
            out.stderr().print(
                "note: train sets test photos aside from all photos, some of which have other "
                "labels now; give it --test with photos whose labels a person has seen.",
                soft_wrap=True,
            )


def _write_files(
    found: Examination, files: dict[str, Path | None], title: str, force: bool
) -> tuple[int, int]:
    """Labels changed and photos left out in the new table of labels."""
    table, page, corrected = files["csv"], files["html"], files["corrected"]
    if table is not None:
        found.write_csv(table, force=force)
    if page is not None:
        found.write_html(page, title=title or "photos", force=force)
    return (0, 0) if corrected is None else found.write_corrected(corrected, force=force)


def _describe_examination(
    found: Examination, files: dict[str, Path | None], changes: tuple[int, int]
) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "photos": len(found.samples),
        "counts": found.count(),
        "findings": [asdict(finding) for finding in found.findings],
        **files,
        "labels_changed": changes[0],
        "photos_left_out": changes[1],
        "warnings": list(found.warnings),
    }


def show_environment(backbone: str, as_json: bool) -> None:
    """Measure the runtimes and show them with what is installed."""
    from headstart.cli import output as out
    from headstart.features.choice import measure_prefix
    from headstart.models.loaders import load_prefix

    environment = describe_environment()
    prefix = load_prefix(backbone)
    if not as_json:
        _print_environment(environment)
    choice = measure_prefix(prefix)
    if as_json:
        runtimes = [_describe(measurement, choice) for measurement in choice.measurements]
        chosen = {"backbone": backbone, "runtimes": runtimes, "chosen": choice.chosen}
        out.print_json({**environment, **chosen})
        return
    out.stdout().print(f"\n{backbone}, one batch per core:")
    out.print_rows(
        (_row(measurement, choice) for measurement in choice.measurements),
        *("runtime", "photos per second", "error against TensorFlow", ""),
    )


def describe_environment() -> dict[str, Any]:
    """What is installed, the machine, and the cache; nothing heavy is imported."""
    from headstart.features.maintenance import describe_cache
    from headstart.files import cache_folder
    from headstart.runtimes import environment

    cached = sum(space["bytes"] for space in describe_cache())
    cache = {"folder": str(cache_folder()), "bytes": cached}
    return {**environment.describe_environment(), "cache": cache}


def _print_environment(environment: dict[str, Any]) -> None:
    from headstart.cli import output as out

    memory, cache = environment["memory_bytes"], environment["cache"]
    rows = {
        "Python": environment["python"],
        "headstart": environment["headstart"],
        **{name: version or "not installed" for name, version in environment["packages"].items()},
        "machine": environment["machine"],
        "memory": f"{memory / 1e9:,.1f} GB" if memory else "not known",
        "cache": f"{cache['folder']}, {cache['bytes'] / 1e6:,.1f} MB of activations",
    }
    out.print_rows(rows.items(), "environment", "")


def _describe(measurement: Measurement, choice: Choice) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        **asdict(measurement),
        "agrees": measurement.agrees,
        "is_chosen": measurement.runtime == choice.chosen,
    }


def _row(measurement: Measurement, choice: Choice) -> tuple[str, str, str, str]:
    speed, error = measurement.photos_per_second, measurement.relative_error
    says = "chosen" if measurement.runtime == choice.chosen else ""
    return (
        measurement.runtime,
        "" if speed is None else f"{speed:.0f}" if speed >= 10 else f"{speed:.2g}",
        "" if error is None else f"{error:.1e}",
        ", ".join(filter(None, (says, measurement.problem))),
    )
