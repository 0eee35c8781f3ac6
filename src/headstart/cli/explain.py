"""``headstart explain``: pictures of what answers rest on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headstart.cli.options import BundleArgument, ForceOption, JsonOption

if TYPE_CHECKING:
    from headstart.cli.inputs import Input
    from headstart.explain import Explanation


def explain(
    bundle: BundleArgument,
    paths: Annotated[
        list[str], typer.Argument(help="Photos, folders or patterns.", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the pictures; made if needed.")
    ] = Path("explained"),
    label: Annotated[
        str | None,
        typer.Option(
            "--class", help="The class to explain; by default the answer.", show_default=False
        ),
    ] = None,
    method: Annotated[
        str, typer.Option(help="grad-cam, occlusion (slower, for any network), or auto.")
    ] = "auto",
    as_json: JsonOption = False,
    force: ForceOption = False,
) -> None:
    """Draw what answers rest on: each photo with a heat map on it, as PNG.

    Bright places spoke for the class; the darkened border is not seen by the network. A classifier
    that looks at the background instead of the thing has learnt the wrong lesson.
    """
    from headstart.cli import output as out
    from headstart.cli.inputs import Input, list_inputs
    from headstart.explain import Explainer
    from headstart.files import make_folder

    explainer = Explainer(bundle, method=method)
    make_folder(output)
    found = explainer.explain(list_inputs(paths), label, Input.check)
    rows = list(_draw(found, output, force))
    if as_json:
        out.print_json({"method": explainer.method, "pictures": rows})
    else:
        shown = [row for row in rows if row["problem"] is None]
        cells = ((r["path"], r["label"], f"{r['probability']:.1%}", r["picture"]) for r in shown)
        if shown:
            out.print_rows(cells, "photo", "class", "probability", f"drawn by {explainer.method}")
    for row in rows:
        if row["problem"] is not None:
            out.stderr().print(f"{row['path']}: {row['problem']}", markup=False, soft_wrap=True)
    if all(row["problem"] is not None for row in rows):
        raise typer.Exit(1)


def _draw(
    found: Iterator[Explanation[Input]], folder: Path, force: bool
) -> Iterator[dict[str, Any]]:
    from headstart.bundle import check_output
    from headstart.files import write_bytes

    taken: set[str] = set()
    for explanation in found:
        path = explanation.item.path
        row = {
            "path": str(path),
            "label": explanation.label or None,
            "probability": explanation.probability,
            "picture": None,
            "problem": explanation.problem,
        }
        if explanation.problem is None:
            target = folder / _name_picture(path, taken)
            check_output(target, force)
            write_bytes(target, explanation.draw(path))
            row["picture"] = str(target)
        yield row


def _name_picture(path: Path, taken: set[str]) -> str:
    """Of the photo, with a number where two photos have the same name; no case tells them apart."""
    name, number = f"{path.stem}.png", 1
    while name.casefold() in taken:
        number += 1
        name = f"{path.stem}-{number}.png"
    taken.add(name.casefold())
    return name
