"""``headstart cache``: what it holds, whether it is sound, and how to make it smaller."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from headstart.features.maintenance import Pruned

cache_app = typer.Typer(help="The cache of activations.", no_args_is_help=True)

JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
SizeOption = Annotated[
    str | None,
    typer.Option(
        "--max-size", metavar="SIZE", help="What may stay, such as 5GB.", show_default=False
    ),
]
AgeOption = Annotated[
    str | None,
    typer.Option(
        "--older-than", metavar="AGE", help="Unused for so long, such as 30d.", show_default=False
    ),
]

Number = TypeVar("Number", int, float)


@cache_app.command()
def info(as_json: JsonOption = False) -> None:
    """What the cache holds, and where it is."""
    from headstart.cli import output as out
    from headstart.features.maintenance import describe_cache, get_limit
    from headstart.files import cache_folder, free_bytes

    folder, spaces = cache_folder(), describe_cache()
    total = sum(space["bytes"] for space in spaces)
    if as_json:
        out.print_json({"folder": str(folder), "bytes": total, "spaces": spaces})
        return
    out.stdout().print(
        f"{folder}: {_megabytes(total)} of activations (at most {get_limit() / 1e9:,.1f} GB), "
        f"{free_bytes(folder) / 1e9:,.1f} GB free",
        soft_wrap=True,
        markup=False,
    )
    rows = (
        (s["backbone"], s["boundary"], s["runtime"], str(s["photos"]), _megabytes(s["bytes"]))
        for s in spaces
    )
    if spaces:
        out.print_rows(rows, "backbone", "boundary", "runtime", "photos", "size")


@cache_app.command()
def verify(as_json: JsonOption = False) -> None:
    """Read every shard and compare its checksum; drop the damaged, which are computed again.

    Ends with 1 if anything was damaged.
    """
    from headstart.cli import output as out
    from headstart.features.maintenance import verify_cache
    from headstart.files import cache_folder

    found = verify_cache()
    if as_json:
        out.print_json({"folder": str(cache_folder()), **asdict(found)})
    else:
        console = out.stdout()
        console.print(f"{_count(found.shards, 'shard')} checked, {_megabytes(found.bytes)}")
        for path in found.damaged:
            console.print(f"damaged, removed: {path}", soft_wrap=True, markup=False)
        if found.damaged:
            console.print(
                f"{_count(len(found.damaged), 'shard')} of {found.shards} damaged; "
                f"{_count(found.photos, 'activation')} will be computed again when needed"
            )
        if found.litter:
            console.print(f"{_count(found.litter, 'file')} of interrupted runs removed")
    if found.damaged:
        raise typer.Exit(1)


@cache_app.command()
def prune(
    max_size: SizeOption = None, older_than: AgeOption = None, as_json: JsonOption = False
) -> None:
    """Remove what was not used for longest, down to a size (by default the cache's limit).

    Nothing that a running process uses is removed.
    """
    from headstart.features.maintenance import get_limit, parse_bytes, parse_seconds, prune_cache

    max_bytes = _parse(parse_bytes, max_size, "--max-size")
    max_age_seconds = _parse(parse_seconds, older_than, "--older-than")
    if max_size is None and older_than is None:
        max_bytes = get_limit()
    _report(prune_cache(max_bytes=max_bytes, max_age_seconds=max_age_seconds), as_json)


@cache_app.command()
def clear(yes: YesOption = False, as_json: JsonOption = False) -> None:
    """Remove all activations; the next run computes them again. Photos are not touched."""
    from headstart.errors import HeadstartError
    from headstart.features.maintenance import clear_cache
    from headstart.files import cache_folder

    if not yes:
        if not sys.stdin.isatty():
            raise HeadstartError(
                f"Nothing was removed. To remove all activations in {cache_folder()} without "
                "being asked, add --yes."
            )
        typer.confirm(f"Remove all activations in {cache_folder()}?", abort=True, err=True)
    _report(clear_cache(), as_json)


def _report(pruned: Pruned, as_json: bool) -> None:
    from headstart.cli import output as out
    from headstart.files import cache_folder

    if as_json:
        out.print_json({"folder": str(cache_folder()), **asdict(pruned)})
        return
    console = out.stdout()
    console.print(
        f"{_count(pruned.shards, 'shard')} removed, {_megabytes(pruned.bytes)}; "
        f"{_megabytes(pruned.left_bytes)} left"
    )
    if pruned.held:
        console.print(f"{_count(pruned.held, 'shard')} kept because running processes use them")
    if pruned.litter:
        console.print(f"{_count(pruned.litter, 'file')} of interrupted runs removed")


def _parse(parse: Callable[[str], Number], text: str | None, option: str) -> Number | None:
    try:
        return None if text is None else parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
