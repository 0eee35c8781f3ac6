"""A Keras network as an ONNX graph: seconds and memory, beside tf2onnx as it is usually called.

    python benchmarks/converting.py

tf2onnx gets a function whose weights are constants; Headstart keeps large weights from it and puts
them in at the end. Networks of keras.applications with random weights, each conversion in a process
of its own; memory is what it takes at most besides the network that is already loaded.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from measure import make_parser, run_python, save_rows

from headstart.runtimes import TOLERANCE

NETWORKS = ("keras:mobilenet_v2", "keras:resnet50", "keras:vgg16", "keras:resnet152")
SIZE = 64


def convert_usually(model: Any) -> bytes:
    """The peer."""
    import tensorflow as tf
    import tf2onnx

    specification = [tf.TensorSpec((None, *model.input_shape[1:]), tf.uint8, name="photos")]
    function = tf.function(
        lambda photos: model(tf.cast(photos, tf.float32), training=False),
        input_signature=specification,
    )
    converted, _ = tf2onnx.convert.from_function(function, input_signature=specification, opset=17)
    return bytes(converted.SerializeToString())


def read_memory(field: str) -> float:
    """MB of this process: ``VmRSS`` now, ``VmHWM`` at most since that was reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def run(name: str, way: str) -> None:
    """In a process of its own: print what it took, and how far the features are from Keras's."""
    from headstart import load_backbone
    from headstart.runtimes import onnx_runtime
    from headstart.runtimes.onnx_convert import convert
    from headstart.testing import settle

    model = load_backbone(name, weights=None, image_size=SIZE)
    settle(model)
    Path("/proc/self/clear_refs").write_text("5")  # forget the most so far
    before, start = read_memory("VmRSS"), time.perf_counter()
    graph = (convert if way == "headstart" else convert_usually)(model)
    seconds, most = time.perf_counter() - start, read_memory("VmHWM")
    photos = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3)).astype(np.uint8)
    expected = np.asarray(model(photos.astype(np.float32), training=False))
    found = onnx_runtime.open_graph(graph)(photos)
    record = {
        "seconds": seconds,
        "MB": most - before,
        "MB of weights": model.count_params() * 4 / 2**20,
        "error": float(np.linalg.norm(found - expected) / np.linalg.norm(expected)),
    }
    print(json.dumps(record))


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        run(*sys.argv[2:])
        return
    options = make_parser(__doc__.splitlines()[0], has_repeats=False).parse_args()
    rows = []
    for name in NETWORKS:
        found = {}
        for way in ("headstart", "tf2onnx"):
            with tempfile.TemporaryDirectory() as cache:
                child = run_python(__file__, "--child", name, way, cache=Path(cache))
            found[way] = json.loads(child.stdout.strip().splitlines()[-1])
        ours, theirs = found["headstart"], found["tf2onnx"]
        row = {"network": name, "MB of weights": ours["MB of weights"]}
        for what in ("seconds", "MB"):
            times = theirs[what] / ours[what]
            row |= {what: ours[what], f"{what}, tf2onnx": theirs[what], f"{what}, times": times}
        row["agrees with TensorFlow"] = ours["error"] < TOLERANCE
        rows.append(row)
    save_rows("converting", rows, options)


if __name__ == "__main__":
    main()
