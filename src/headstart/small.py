"""The small variant of a bundle: what training made, without the backbone that everybody has.

It holds the head, and those arrays of the backbone that fine-tuning changed; everything else is the
catalogue's, which two checks tie it to: the digest of all arrays together, and answers for drawn
photos, which a graph that was written by other versions of the converters has to repeat. The first
load makes the whole bundle again, and keeps it in the user's cache.

Novelty is left out: the features it needs are larger than all the rest.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.bundle import (
    BACKBONE,
    GRAPH,
    SMALL,
    WEIGHTS,
    Bundle,
    digest_manifest,
    dump_arrays,
    parse_arrays,
    parse_bundle,
    write_archive,
)
from headstart.errors import BackboneError, BundleError, require_package
from headstart.models.backbones import get_backbone, parse_name
from headstart.models.boundary import Prefix, build_prefix_model, digest_arrays
from headstart.models.loaders import load_backbone, load_prefix
from headstart.runtimes import onnx_convert, onnx_runtime
from headstart.runtimes.graphs import get_converted
from headstart.task import require_task

Arrays = dict[str, npt.NDArray[Any]]

_HEAD = ("head/kernel", "head/bias")
# Photos whose answers are recorded, and how far a rebuilt graph's may be from them.
_DRAWN, _TOLERANCE = 4, 1e-3


def shrink(bundle: Bundle) -> Bundle:
    """The small variant of a bundle, to be saved.

    Raises:
        BundleError: The backbone is not in the catalogue, or not as it is here.
        HeadstartError: It is no classification.
        MissingPackageError: Its weights are not installed.
    """
    require_task(bundle.task, "The small variant of a bundle")
    prefix = _load_prefix(bundle, "making the small variant of a bundle")
    arrays = parse_arrays(bundle.members[WEIGHTS])
    base, own = _load_arrays(prefix), _list_own(arrays)
    if own.keys() != base.keys():
        raise BundleError(
            f"{bundle.path or 'The classifier'} holds other arrays than {prefix.backbone} has. "
            "Use the whole bundle."
        )
    kept = {key: arrays[key] for key in _HEAD}
    for key, array in own.items():
        if not np.array_equal(array, base[key]):
            kept[BACKBONE + key] = array
    answers = _answer(bundle.members[GRAPH], bundle.image_size)
    trust = bundle.manifest.get("trust")
    manifest = {
        **bundle.manifest,
        "trust": {**trust, "novelty_limit": None, "neighbours": 0} if trust else None,
        SMALL: {
            "catalogue": prefix.weights_digest,
            "arrays": digest_arrays(own),
            "answers": answers.astype(float).tolist(),
        },
    }
    return Bundle(manifest, {WEIGHTS: dump_arrays(kept)})


def expand(bundle: Bundle) -> Bundle:
    """The whole bundle of a small one: from the cache, or made now and written to it.

    Raises:
        BundleError: It is damaged, or does not fit the catalogue's backbone.
        MissingPackageError: It is not in the cache, and what makes it is not installed.
    """
    require_task(bundle.task, "The small variant of a bundle")
    key = _Key(digest_manifest(bundle.manifest), SMALL, bundle.image_size)
    data = get_converted(key, ".headstart", (), lambda: _rebuild(bundle))
    return parse_bundle(data, bundle.path)


@dataclass(frozen=True)
class _Key:
    """What the whole bundle is kept under; see `headstart.runtimes.Computable`."""

    weights_digest: str
    boundary: str
    image_size: int
    write_graph: None = None


def _rebuild(bundle: Bundle) -> bytes:
    record = _read_record(bundle)
    prefix = _load_prefix(bundle, f"the first load of the small variant {bundle.path}")
    if prefix.weights_digest != record["catalogue"] or prefix.image_size != bundle.image_size:
        raise _no_fit(bundle, prefix.backbone)
    arrays, base = parse_arrays(bundle.members[WEIGHTS]), _load_arrays(prefix)
    _check_arrays(bundle, arrays, base, prefix)
    own = {**base, **_list_own(arrays)}
    if digest_arrays(own) != record["arrays"]:
        raise _no_fit(bundle, prefix.backbone)
    graph = onnx_runtime.append_head(_make_graph(prefix, own), *(arrays[key] for key in _HEAD))
    found, expected = _answer(graph, bundle.image_size), np.asarray(record["answers"])
    if not (found.shape == expected.shape and abs(found - expected).max() <= _TOLERANCE):
        raise _no_fit(bundle, prefix.backbone)
    whole = {**arrays, **{BACKBONE + key: array for key, array in own.items()}}
    manifest = {key: value for key, value in bundle.manifest.items() if key != SMALL}
    stream = io.BytesIO()
    write_archive(stream, manifest, {GRAPH: graph, WEIGHTS: dump_arrays(whole)})
    return stream.getvalue()


def _load_prefix(bundle: Bundle, purpose: str) -> Prefix:
    """The catalogue's backbone of a bundle; whatever else a stranger named is not touched."""
    name = bundle.manifest["backbone"]["name"]
    try:
        spec = get_backbone(name.partition("?")[0])
        options = parse_name(name).options
    except BackboneError:
        spec, options = None, {}
    if spec is None or not bundle.manifest["backbone"]["is_in_catalogue"]:
        raise BundleError(
            f"The small variant needs a backbone of the catalogue (headstart backbones); "
            f"{bundle.path or 'this classifier'} has {name!r}. Use the whole bundle."
        )
    if options.get("weights", "none") != "none":
        raise BundleError(f"The backbone {name!r} has weights of its own. Use the whole bundle.")
    is_written_here = spec.row is None and not options
    needed = ("onnx", spec.package) if is_written_here else ("tensorflow", "keras", "tf2onnx")
    require_package(*needed, purpose=purpose)
    try:
        return load_prefix(name)
    except BackboneError as error:
        raise BundleError(f"{bundle.path or 'The classifier'} cannot be used: {error}") from error


def _load_arrays(prefix: Prefix) -> Arrays:
    load = prefix.load_weights
    found = load() if load else {}
    return {key: array for key, array in found.items() if not key.startswith("classifier/")}


def _list_own(arrays: Arrays) -> Arrays:
    """The arrays of the backbone in a bundle, by the backbone's names."""
    return {k.removeprefix(BACKBONE): a for k, a in arrays.items() if k.startswith(BACKBONE)}


def _make_graph(prefix: Prefix, arrays: Arrays) -> bytes:
    if prefix.emit_graph is not None:
        return prefix.emit_graph(arrays, None)
    from headstart.models.keras_graph import set_arrays

    model = load_backbone(prefix.backbone, weights=None)
    set_arrays(model, arrays)
    return onnx_convert.convert(build_prefix_model(replace(prefix, build_model=lambda: model)))


def _answer(graph: bytes, image_size: int) -> npt.NDArray[np.float64]:
    """``(photo, class)`` probabilities for photos that every machine draws alike."""
    # Rings of all sizes and colours: smooth in one corner, noise in the other.
    number, row, column, colour = np.indices((_DRAWN, image_size, image_size, 3), np.int64)
    squares = ((number + row + 1) * (column + 1) * (colour + 1) // 7 % 256).astype(np.uint8)
    run = onnx_runtime.open_outputs(graph, ("probabilities",))
    return np.concatenate([run(square[None])[0] for square in squares]).astype(np.float64)


# ---- small bundles of strangers


def _read_record(bundle: Bundle) -> Mapping[str, Any]:
    record = bundle.manifest[SMALL]
    answers = record.get("answers") if isinstance(record, dict) else None
    is_sound = (
        isinstance(record, dict)
        and isinstance(record.get("catalogue"), str)
        and isinstance(record.get("arrays"), str)
        and isinstance(answers, list)
        and len(answers) == _DRAWN
        and all(isinstance(row, list) and _is_answer(row, bundle) for row in answers)
    )
    if not is_sound:
        raise BundleError(f"{bundle.path} is damaged: its manifest has no valid {SMALL!r}.")
    return dict(record)


def _is_answer(row: list[Any], bundle: Bundle) -> bool:
    return len(row) == len(bundle.class_names) and all(
        isinstance(value, float) and math.isfinite(value) for value in row
    )


def _check_arrays(bundle: Bundle, arrays: Arrays, base: Arrays, prefix: Prefix) -> None:
    """The head fits features and classes; of the backbone there is only what it has."""
    features, classes = prefix.shape[-1], len(bundle.class_names)
    expected = {_HEAD[0]: (features, classes), _HEAD[1]: (classes,)}
    known = {**expected, **{BACKBONE + key: array.shape for key, array in base.items()}}
    for name in _HEAD:
        if name not in arrays:
            raise BundleError(f"{bundle.path} is damaged: {WEIGHTS} holds no {name}.")
    for name, array in arrays.items():
        if name not in known:
            raise BundleError(
                f"{bundle.path} is refused: {WEIGHTS} holds {name!r}, which {prefix.backbone} does "
                "not have."
            )
        if array.shape != known[name] or array.dtype != np.float32:
            raise BundleError(
                f"{bundle.path} is damaged: {name} in {WEIGHTS} is {array.shape} {array.dtype}; "
                f"needed is {known[name]} float32."
            )


def _no_fit(bundle: Bundle, backbone: str) -> BundleError:
    return BundleError(
        f"{bundle.path} does not fit the backbone {backbone} of this machine, whose weights or "
        "answers differ from those it was trained with. Install the Headstart it was trained with "
        "(manifest.json, versions), or use the whole bundle."
    )
