"""What first_light.py measures inside one process; it starts this file once per figure.

python inside.py MEASUREMENT PHOTOS [...]      prints one JSON object as its last line
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import photos

Json = dict[str, Any]


def limit(folder: str) -> Json:
    """Seconds of one pass of the runtime over all photos, decoded and in memory beforehand."""
    pixels = photos.decode_all(photos.list_photos(Path(folder)))
    session = photos.open_session()
    photos.run_pass(session, pixels[:64])  # allocations of the first calls are not the limit
    return {"seconds": _time(lambda: photos.run_pass(session, pixels)), "photos": len(pixels)}


def imports() -> Json:
    """Import what `headstart train` needs; the caller measures the whole process."""
    import onnx
    import onnxruntime
    import safetensors.numpy
    import scipy.optimize
    import threadpoolctl

    import headstart.classifier
    import headstart.cli.commands
    import headstart.cli.output
    import headstart.models.loaders
    import headstart.training.fit

    needed = (onnx, onnxruntime, safetensors.numpy, scipy.optimize, threadpoolctl, headstart)
    return {"modules": len(needed), "tensorflow": "tensorflow" in sys.modules}


def traced(*arguments: str) -> Json:
    """Run a headstart command; was TensorFlow imported?"""
    from headstart.cli.commands import app

    app(list(arguments), standalone_mode=False)
    return {"tensorflow": "tensorflow" in sys.modules, "keras": "keras" in sys.modules}


def extraction(folder: str, repeats: str) -> Json:
    """Photos per second: ours from files, and from arrays in memory the runtime and Keras.

    Ours is the whole call of `extract_features`: scan, opening the session, decoding, computing,
    writing the cache. The others are warm: session open, `predict` traced, photos decoded and, for
    Keras, already float32. They alternate within each repeat.
    """
    files = photos.list_photos(Path(folder))
    pixels = photos.decode_all(files)
    runners: dict[str, Callable[[], Any]] = {
        "headstart": lambda: _extract(folder, len(files)),
        "runtime": _time_runtime(pixels),
        "runtime_default": _time_default_runtime(pixels),
        "keras": _time_keras(pixels),
    }
    rates: dict[str, list[float]] = defaultdict(list)
    for _ in range(int(repeats)):
        for name, run in runners.items():
            rates[name].append(len(files) / run())
    return dict(rates)


def _extract(folder: str, expected: int) -> float:
    from headstart import extract_features
    from headstart.models.efficientnet_lite.weights import fetch_weights

    with tempfile.TemporaryDirectory() as cache:
        os.environ["HEADSTART_CACHE"] = cache
        fetch_weights(photos.BACKBONE)  # converted once per machine; measured by `train`
        start = time.perf_counter()
        found = extract_features(photos.BACKBONE, folder)
        seconds = time.perf_counter() - start
    copies = len(found.samples) - len({sample.digest for sample in found.samples})
    if found.forwarded + copies != expected:
        raise RuntimeError(f"{found.forwarded} of {expected} photos were computed")
    return seconds


def _time_runtime(pixels: np.ndarray) -> Callable[[], float]:
    session = photos.open_session()
    photos.run_pass(session, pixels[:64])
    return lambda: _time(lambda: photos.run_pass(session, pixels))


def _time_default_runtime(pixels: np.ndarray) -> Callable[[], float]:
    """The runtime as it comes: each batch of 32 spread over all cores."""
    import onnxruntime

    from headstart.models.loaders import load_prefix

    write_graph = load_prefix(photos.BACKBONE).write_graph
    graph = write_graph() if write_graph else b""

    def run() -> float:
        # Opened anew: threads of a session that is kept spin for a while and slow the others.
        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        session.run(None, {name: pixels[:32]})
        starts = range(0, len(pixels), 32)
        return _time(lambda: [session.run(None, {name: pixels[s : s + 32]}) for s in starts])

    return run


def _time_keras(pixels: np.ndarray) -> Callable[[], float]:
    from headstart.models.boundary import build_prefix_model
    from headstart.models.loaders import load_prefix

    model = build_prefix_model(load_prefix(photos.BACKBONE))
    single = pixels.astype(np.float32)
    model.predict(single[:64], verbose=0)
    return lambda: _time(lambda: model.predict(single, batch_size=32, verbose=0))


def probe(folder: str, bundle: str) -> Json:
    """Test accuracy of the bundle's head and of scikit-learn's on the same cached features."""
    from predict_then_sklearn import choose_with_sklearn, solve_with_sklearn

    from headstart.bundle import WEIGHTS, load_bundle, parse_arrays
    from headstart.data.scan import Manifest
    from headstart.features.extract import extract_features
    from headstart.training.probe import STRENGTHS, balance_classes

    trained = load_bundle(Path(bundle))
    strength = trained.manifest["head"]["strength"]
    sides = photos.load_sides(Path(folder), trained.manifest["seed"])
    found = extract_features(photos.BACKBONE, Manifest((*sides.train, *sides.test)))
    rows = found.array.astype(np.float32)
    x, tested = rows[: len(sides.train)], rows[len(sides.train) :]
    y, truth = sides.labels(sides.train), sides.labels(sides.test)
    head = parse_arrays(trained.members[WEIGHTS])
    answers = (tested @ head["head/kernel"] + head["head/bias"]).argmax(1)
    weights = dict(enumerate(balance_classes(y, len(sides.class_names)).tolist()))
    same = solve_with_sklearn(x, y, strength, class_weight=weights, tol=1e-8, max_iter=10_000)
    own = choose_with_sklearn(x, y, STRENGTHS, class_weight=weights)
    return {
        "strength": strength,
        "photos": len(truth),
        "computed": found.forwarded,
        "right": int((answers == truth).sum()),
        "sklearn_right": int((same.predict(tested) == truth).sum()),
        "sklearn_own_right": int((own.predict(tested) == truth).sum()),
        "sklearn_own_strength": float(own[-1].C_),
    }


def _time(action: Callable[[], Any]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


MEASUREMENTS: dict[str, Callable[..., Json]] = {
    "limit": limit,
    "imports": imports,
    "traced": traced,
    "extraction": extraction,
    "probe": probe,
}

if __name__ == "__main__":
    print(json.dumps(MEASUREMENTS[sys.argv[1]](*sys.argv[2:])))
