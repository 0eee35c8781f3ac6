"""The backbone of an earlier training: as a Keras model, or to go on from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.bundle import BACKBONE, WEIGHTS, Bundle, parse_arrays
from headstart.errors import BundleError
from headstart.models.backbones import parse_name
from headstart.models.boundary import Prefix, build_copy, change_weights
from headstart.models.heads import attach_head
from headstart.models.loaders import load_backbone, load_prefix
from headstart.task import read_task

if TYPE_CHECKING:
    import keras


def rebuild_backbone(bundle: Bundle, known: keras.Model | None = None) -> keras.Model:
    """The backbone of a bundle with its weights.

    Args:
        bundle: The bundle.
        known: The backbone itself, where it was given as an object and is still in memory.

    Raises:
        BundleError: Neither the bundle holds it nor this machine, or it has changed.
    """
    record = bundle.manifest["backbone"]
    if record["is_in_catalogue"]:
        from headstart.models.keras_graph import set_arrays

        backbone = load_backbone(record["name"], weights=None)
        set_arrays(backbone, _read_arrays(bundle))
        return backbone
    found = known if known is not None else _load_named(bundle)
    if found is None:
        raise BundleError(
            f"This classifier was trained on the Keras model {record['name']!r}, of which the "
            "bundle holds only the graph, and which is not here as it was. Predict with it, or "
            "attach the head to your model: "
            "headstart.attach_head(model, num_classes, kernel=..., bias=...)."
        )
    return found


def _load_named(bundle: Bundle) -> keras.Model | None:
    record = bundle.manifest["backbone"]
    parsed = parse_name(record["name"])
    # Whoever wrote a bundle file may have named any address: only what is on this disk is opened.
    is_here = Path(parsed.name.partition("#")[0]).exists()
    if not parsed.source or not (is_here or bundle.path is None):
        return None
    prefix = load_prefix(record["name"])
    return build_copy(prefix) if prefix.weights_digest == record["weights_digest"] else None


def rebuild_classifier(bundle: Bundle, known: keras.Model | None = None) -> keras.Model:
    """The whole classifier of a bundle as one Keras model: 0-255 RGB photos → probabilities.

    Of a regression it gives the numbers.

    Raises:
        BundleError: As `rebuild_backbone`, or the bundle holds no head.
    """
    arrays = parse_arrays(bundle.members[WEIGHTS])
    kernel, bias = arrays.get("head/kernel"), arrays.get("head/bias")
    if kernel is None or bias is None:
        raise BundleError(f"{bundle.path} is damaged: {WEIGHTS} holds no head.")
    backbone = rebuild_backbone(bundle, known)
    task = read_task(bundle.manifest).name
    return attach_head(backbone, len(bundle.class_names), kernel=kernel, bias=bias, task=task)


def continue_from(prefix: Prefix, bundle: Bundle, known: keras.Model | None = None) -> Prefix:
    """The prefix of a backbone with the weights that an earlier training gave it.

    Raises:
        BundleError: It has another backbone, or one that is not in the bundle.
    """
    record = bundle.manifest["backbone"]
    if record["name"] != prefix.backbone:
        raise BundleError(
            f"The training to go on from has the backbone {record['name']}, this one has "
            f"{prefix.backbone}. Use the same: ImageClassifier({record['name']!r}, …)."
        )
    if record["weights_digest"] == prefix.weights_digest:
        return prefix
    backbone = rebuild_backbone(bundle, known)
    if not record["is_in_catalogue"]:
        return load_prefix(backbone)
    return change_weights(prefix, backbone, _read_arrays(bundle))


def _read_arrays(bundle: Bundle) -> dict[str, Any]:
    arrays = parse_arrays(bundle.members[WEIGHTS])
    return {k.removeprefix(BACKBONE): a for k, a in arrays.items() if k.startswith(BACKBONE)}
