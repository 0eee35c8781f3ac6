"""What training gave → the bundle."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

import numpy as np

from headstart.album import Album
from headstart.bundle import (
    BACKBONE,
    GRAPH,
    REFERENCES,
    THUMBNAILS,
    WEIGHTS,
    Bundle,
    dump_arrays,
    parse_arrays,
)
from headstart.data.decode import DECODE_VERSION
from headstart.data.thumbnails import try_thumbnail
from headstart.models.boundary import Prefix, build_prefix_model
from headstart.runtimes import onnx_runtime
from headstart.runtimes.graphs import get_converted
from headstart.training.fit import Training
from headstart.training.graph import tuned_prefix
from headstart.training.tuning import Tuning


def make_bundle(
    prefix: Prefix,
    training: Training,
    seed: int,
    keep_thumbnails: bool = False,
) -> Bundle:
    """The bundle of a training: its graph, its weights, and the record of how it came about."""
    head, graph = training.probe, training.graph
    kernel, bias = head.kernel, head.bias
    if training.tuning is not None and training.tuning.share:
        prefix = tuned_prefix(prefix, training.tuning)
        kernel, bias = training.tuning.kernel, training.tuning.bias
    if not graph:
        features_graph = onnx_runtime.get_graph(prefix, lambda: build_prefix_model(prefix))
        graph = onnx_runtime.append_head(features_graph, kernel, bias, training.task)
    arrays = {"head/kernel": kernel, "head/bias": bias}
    for key, array in _get_weights(prefix).items():
        if not key.startswith("classifier/"):
            arrays[BACKBONE + key] = array
    manifest = _describe(prefix, training, seed)
    members = {GRAPH: graph, WEIGHTS: dump_arrays(arrays)}
    if training.references is not None:
        found = training.references
        rows = np.asarray(found.rows, np.int32)
        members[REFERENCES] = dump_arrays({"features": found.features, "rows": rows})
        if keep_thumbnails:
            members[THUMBNAILS] = _make_album(training, rows.tolist()).dump()
    return Bundle(manifest, members)


def _make_album(training: Training, rows: list[int]) -> Album:
    samples = [training.split.train[row] for row in rows]
    pictures = [try_thumbnail(s.path if s.content is None else s.content) for s in samples]
    return Album(pictures, [training.class_names.index(sample.label) for sample in samples])


def _get_weights(prefix: Prefix) -> dict[str, Any]:
    """The backbone's arrays, if the bundle holds them.

    What only Keras can read is kept like a converted graph, so that a second run on photos in the
    cache imports no TensorFlow.
    """
    load = prefix.load_weights
    if load is None or prefix.write_graph:
        return load() if load else {}
    packages = ("tensorflow", "keras")
    data = get_converted(prefix, ".safetensors", packages, lambda: dump_arrays(load()))
    return parse_arrays(data)


def _describe(prefix: Prefix, training: Training, seed: int) -> dict[str, Any]:
    split, probe = training.split, training.probe
    return {
        "task": training.task.name,
        "class_names": list(training.class_names),
        "image_size": prefix.image_size,
        "decode_version": DECODE_VERSION,
        "backbone": {
            "name": prefix.backbone,
            "weights_digest": prefix.weights_digest,
            "boundary": prefix.boundary,
            "is_in_catalogue": prefix.load_weights is not None,
        },
        "backbone_choice": training.backbone_choice.to_json() if training.backbone_choice else None,
        "head": {"kind": "linear", "strength": probe.strength},
        "recipe": training.recipe.to_json(),
        "plan": training.plan.to_json() if training.plan else None,
        "strengths": [vars(step) for step in probe.path],
        "fine_tune": _describe_tuning(training.tuning),
        "seed": seed,
        "samples": {side: len(getattr(split, side)) for side in ("train", "validation", "test")},
        "evaluation": training.evaluation.to_json() if training.evaluation else None,
        "validation": training.validation.to_json() if training.validation else None,
        "comparison": [contrast.to_json() for contrast in training.comparison],
        "cross_validation": vars(training.cross_validation) if training.cross_validation else None,
        "trust": training.trust.to_json() if training.trust else None,
        "split": split.to_json(),
        "runtime": training.features.runtime,
        "versions": _versions(),
    }


def _describe_tuning(tuning: Tuning | None) -> dict[str, Any] | None:
    if tuning is None:
        return None
    return {
        "unfreeze": tuning.unfreeze.setting,
        "boundary": tuning.unfreeze.boundary.name,
        "layers": list(tuning.unfreeze.layers),
        "share": tuning.share,
        "learning_rate": tuning.learning_rate,
        "epochs": tuning.epochs,
        "gain": tuning.gain.to_json() if tuning.gain else None,
        "says": tuning.says,
        "parameters": [vars(row) for row in tuning.parameters],
        "cached_bytes": tuning.cached_bytes,
        # Without the time it took: equal runs make equal bundles.
        "history": [{k: v for k, v in e.items() if k != "seconds"} for e in tuning.history],
    }


def _versions() -> dict[str, str]:
    packages = ("headstart", "numpy", "pillow", "onnxruntime", "scipy")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}
