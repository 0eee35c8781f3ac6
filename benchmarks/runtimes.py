"""Photos per second of every installed runtime, beside `keras.Model.predict` in the same run.

The photos are in memory, so that nothing but the network is timed: batches of 8, one per core at
once, as an extraction sends them. Turns alternate between the runtimes; figures are medians.

    HEADSTART_TEST_PHOTOS=... python benchmarks/runtimes.py [--limit 5] [--repeats 5]
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import photos
from measure import make_parser, save_rows

DATASET, PER_CLASS = "clothing", 20

Pass = Callable[[Any], Any]


def load_mobilenet() -> Any:
    """MobileNetV2 with random weights: the same work as with trained ones."""
    import keras

    keras.utils.set_random_seed(0)
    photo = keras.Input((224, 224, 3))
    scaled = keras.layers.Rescaling(1 / 127.5, offset=-1)(photo)
    network = keras.applications.MobileNetV2((224, 224, 3), include_top=False, weights=None)
    return keras.Model(photo, network(scaled), name="mobilenet-v2")


BACKBONES: dict[str, Callable[[], Any]] = {
    photos.BACKBONE: lambda: photos.BACKBONE,
    "mobilenet-v2": load_mobilenet,
}


def measure(name: str, pixels: Any, repeats: int) -> list[dict[str, Any]]:
    """One row for keras.predict and one per runtime, on one backbone."""
    from headstart.features.forward import padded
    from headstart.models.boundary import build_prefix_model
    from headstart.models.loaders import load_prefix
    from headstart.runtimes import RUNTIMES, get_version
    from headstart.runtimes.measure import relative_errors

    prefix = load_prefix(BACKBONES[name]())
    model = build_prefix_model(prefix)
    ways: dict[str, Pass] = {"keras.predict": lambda images: model.predict(images, verbose=0)}
    opening = {"keras.predict": 0.0}
    for runtime in RUNTIMES.values():
        start = time.perf_counter()
        session = padded(runtime.open(prefix, lambda: model))
        session(pixels[:8])
        opening[runtime.name] = time.perf_counter() - start
        ways[runtime.name] = lambda images, session=session: photos.run_pass(session, images)
    rows = {way: run(pixels) for way, run in ways.items()}  # a warm-up of all
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, run in ways.items():
            start = time.perf_counter()
            run(pixels)
            seconds[way].append(time.perf_counter() - start)
    peers = seconds["keras.predict"]
    return [
        {
            "backbone": name,
            "runtime": way,
            "version": get_version(RUNTIMES[way].packages[0] if way in RUNTIMES else "keras"),
            "photos": len(pixels),
            "photos per second": len(pixels) / statistics.median(seconds[way]),
            "times keras.predict": statistics.median(
                peer / own for peer, own in zip(peers, seconds[way], strict=True)
            ),
            "slowest turn": len(pixels) / max(seconds[way]),
            "fastest turn": len(pixels) / min(seconds[way]),
            "seconds to open": opening[way],
            "largest relative error": float(relative_errors(rows[way], rows["tensorflow"]).max()),
            "repeats": repeats,
        }
        for way in ways
    ]


def main() -> None:
    options = make_parser((__doc__ or "").splitlines()[0]).parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["HEADSTART_CACHE"] = str(Path(scratch) / "cache")
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        folder = photos.dataset_folder(DATASET, options.limit or PER_CLASS, Path(scratch))
        pixels = photos.decode_all(photos.list_photos(folder / "train"))
        pixels = np.ascontiguousarray(pixels[: len(pixels) // 16 * 16])
        for name in BACKBONES:
            rows += measure(name, pixels, options.repeats)
    save_rows("runtimes", rows, options)


if __name__ == "__main__":
    main()
