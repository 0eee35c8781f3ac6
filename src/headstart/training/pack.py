"""What training gave → the bundle."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

from headstart.bundle import GRAPH, WEIGHTS, Bundle, dump_arrays
from headstart.data.decode import DECODE_VERSION
from headstart.models.boundary import Prefix, build_prefix_model
from headstart.recipe import Recipe
from headstart.runtimes import onnx_runtime
from headstart.training.fit import Training


def make_bundle(prefix: Prefix, training: Training, recipe: Recipe, seed: int) -> Bundle:
    """The bundle of a training: its graph, its weights, and the record of how it came about."""
    probe = training.probe
    features_graph = onnx_runtime.get_graph(prefix, lambda: build_prefix_model(prefix))
    graph = onnx_runtime.append_head(features_graph, probe.kernel, probe.bias)
    arrays = {"head/kernel": probe.kernel, "head/bias": probe.bias}
    if prefix.load_weights:
        for key, array in prefix.load_weights().items():
            if not key.startswith("classifier/"):
                arrays[f"backbone/{key}"] = array
    manifest = _describe(prefix, training, recipe, seed)
    return Bundle(manifest, {GRAPH: graph, WEIGHTS: dump_arrays(arrays)})


def _describe(prefix: Prefix, training: Training, recipe: Recipe, seed: int) -> dict[str, Any]:
    split, probe = training.split, training.probe
    return {
        "task": "single-label",
        "class_names": list(training.class_names),
        "image_size": prefix.image_size,
        "decode_version": DECODE_VERSION,
        "backbone": {
            "name": prefix.backbone,
            "weights_digest": prefix.weights_digest,
            "boundary": prefix.boundary,
            "is_in_catalogue": prefix.load_weights is not None,
        },
        "head": {"kind": "linear", "strength": probe.strength},
        "recipe": recipe.to_json(),
        "strengths": [vars(step) for step in probe.path],
        "seed": seed,
        "samples": {side: len(getattr(split, side)) for side in ("train", "validation", "test")},
        "evaluation": training.evaluation.to_json() if training.evaluation else None,
        "validation": training.validation.to_json() if training.validation else None,
        "split": split.to_json(),
        "runtime": training.features.runtime,
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    packages = ("headstart", "numpy", "pillow", "onnxruntime", "scipy")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}
