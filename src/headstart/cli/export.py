"""``headstart export``: a classifier for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headstart.cli.options import BundleArgument, ForceOption, JsonOption

if TYPE_CHECKING:
    from headstart.exports import Export


def export(
    bundle: BundleArgument,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            "-f",
            help="savedmodel, onnx, keras, openvino, litert, litert-float16, litert-int8 or small; "
            "may be given several times.",
            show_default=False,
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every format.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="With litert: in whole numbers.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder; by default NAME-exports.", show_default=False),
    ] = None,
    photos: Annotated[
        Path | None,
        typer.Option(
            help="Labelled photos to compare on; by default the test photos of the training.",
            show_default=False,
        ),
    ] = None,
    keep_faulty: Annotated[
        bool, typer.Option("--keep-faulty", help="Keep exports that differ from the bundle.")
    ] = False,
    as_json: JsonOption = False,
    force: ForceOption = False,
) -> None:
    """Write the classifier for other runtimes; each file is compared with the bundle first.

    Beside each file: class names and thresholds as JSON, and a program of fewer than 20 lines that
    uses it. The folder gets a model card.
    """
    from headstart.cli import output as out
    from headstart.export import EXPORTERS, get_exporter
    from headstart.exports import Exporting

    names = list(EXPORTERS) if every else [_name(each, int8) for each in formats or ()]
    if not names:
        raise typer.BadParameter(
            f"Give --format NAME or --all. Formats: {', '.join(EXPORTERS)}.", param_hint="--format"
        )
    for name in names:
        get_exporter(name)
    exporting = Exporting(bundle, output, photos=photos, force=force, keep_faulty=keep_faulty)
    written: list[Export] = []
    refused: dict[str, str] = {}

    def hear(name: str, found: Export | Exception) -> None:
        if isinstance(found, Exception):
            refused[name] = str(found)
        else:
            written.append(found)

    if every:
        exporting.write_all(hear)
    else:
        for name in names:
            hear(name, exporting.write(name))
    if as_json:
        rows = [found.to_json() for found in written]
        out.print_json({"folder": str(exporting.folder), "exports": rows, "refused": refused})
    else:
        _print_table(written, refused, exporting.folder)
    if not written:
        raise typer.Exit(1)


def _name(name: str, int8: bool) -> str:
    return "litert-int8" if int8 and name == "litert" else name


def _print_table(written: list[Export], refused: dict[str, str], folder: Path) -> None:
    from headstart.cli import output as out
    from headstart.export.decisions import DECISIONS

    header = (
        "file",
        "takes",
        "MB",
        "largest difference",
        "changed",
        "from files",
        "ms",
        "bundle ms",
    )
    out.print_rows((_row(found) for found in written), *header)
    for found in written:
        score = found.parity.score
        if score is not None:
            measure = DECISIONS[found.parity.task.name].measure
            low, value, high = (
                100 * v
                for v in (
                    score.difference.low,
                    score.difference.value,
                    score.difference.high,
                )
            )
            out.stdout().print(
                f"{found.path.name}: {measure} {value:+.1f} points \\[{low:+.1f}, {high:+.1f}] "
                f"against the bundle on {found.parity.pixels.photos} photos",
                soft_wrap=True,
            )
        for fault in found.faults:
            out.stderr().print(f"{found.path.name}: {fault}", markup=False, soft_wrap=True)
    for name, why in refused.items():
        out.stderr().print(f"{name}: {why}", markup=False, soft_wrap=True)
    if written:
        out.stdout().print(f"wrote {folder}", markup=False, soft_wrap=True)


def _row(found: Export) -> tuple[str, ...]:
    parity = found.parity
    return (
        found.path.name,
        found.reads,
        f"{found.size_bytes / 1e6:.1f}",
        f"{parity.pixels.largest:.1g}",
        f"{parity.pixels.changed} of {parity.pixels.photos}",
        f"{parity.files.largest:.1g}, {parity.files.changed} changed",
        f"{parity.milliseconds:.1f}",
        f"{parity.bundle_milliseconds:.1f}",
    )
