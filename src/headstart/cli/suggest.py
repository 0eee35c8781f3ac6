"""``headstart suggest``: which unlabelled photos are most worth a label."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from headstart.cli.options import ForceOption, JsonOption, SeedOption


def suggest(
    unlabelled: Annotated[
        list[str], typer.Argument(help="Photos, folders or patterns.", show_default=False)
    ],
    bundle: Annotated[
        Path,
        typer.Option("--bundle", help="Of the classifier that shall learn.", show_default=False),
    ],
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Photos to suggest.")] = 20,
    csv_file: Annotated[
        Path | None,
        typer.Option("--csv", help="Write a table to fill labels in.", show_default=False),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option("--html", help="Write a page with the photos.", show_default=False),
    ] = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
    force: ForceOption = False,
) -> None:
    """Suggest the unlabelled photos most worth a label: unsure answers, unlike one another.

    Photos that the classifier was trained or tested on are passed over. Label what is suggested,
    add it to the training photos, and train again.
    """
    from headstart.bundle import check_output
    from headstart.cli import output as out
    from headstart.cli.inputs import expand_patterns
    from headstart.suggestions import suggest_photos

    for path in (csv_file, html):
        if path is not None:
            check_output(path, force)
    with out.progress("photos") as report:
        found = suggest_photos(
            expand_patterns(unlabelled), bundle, count, seed=seed, progress=report
        )
    if csv_file is not None:
        found.write_csv(csv_file, force=force)
    if html is not None:
        found.write_html(html, force=force)
    if as_json:
        rows = [{**asdict(row), "says": row.says} for row in found.rows]
        problems = out.list_problems(found.problems)
        counts = {"photos": found.photos, "known": found.known}
        out.print_json({"suggestions": rows, **counts, "problems": problems})
        return
    out.print_notes((), found.problems)
    out.print_rows(((str(row.path), row.says) for row in found.rows), "photo", "why")
    known = f", {found.known} known already" if found.known else ""
    out.stdout().print(f"{len(found.rows)} of {found.photos} photos{known}")
    for path in (csv_file, html):
        if path is not None:
            out.stdout().print(f"wrote {path}", markup=False, soft_wrap=True)
