"""Peak memory of the commands on 2,000 and on 20,000 photos.

Usage: python benchmarks/memory.py [--photos 2000 20000]

The photos are generated: gradients with noise, all different, JPEG of 320 x 240, two classes.
`features` and `predict` hold the names of the photos and nothing else that grows with their number.
`train` also holds the pooled features, because the solver needs them; its row says how much that
may be. Writes results/memory.csv.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from measure import print_table, run_headstart, save_rows

TARGET = 1.15
# Not "auto": on a slow machine it would measure the runtimes first, which loads TensorFlow.
RUNTIME = ("--runtime", "onnxruntime")
CLASSES = ("dusk", "noon")


def write_photo(path: Path, number: int) -> None:
    """One generated JPEG; the class is its brightness."""
    from PIL import Image

    random = np.random.default_rng(number)
    slope = random.uniform(-0.2, 0.2, (2, 3))
    y, x = np.mgrid[:240, :320]
    pixels = 80 + 60 * (number % 2) + x[..., None] * slope[0] + y[..., None] * slope[1]
    pixels = pixels + random.normal(0, 12, (240, 320, 1))
    stream = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(stream, "JPEG", quality=80)
    path.write_bytes(stream.getvalue())


def write_photos(folder: Path, count: int) -> Path:
    """A folder with ``count`` photos in two classes."""
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
    paths = [folder / CLASSES[number % 2] / f"{number:06d}.jpg" for number in range(count)]
    with ProcessPoolExecutor() as pool:
        list(pool.map(write_photo, paths, range(count), chunksize=100))
    return folder


def measure(folder: Path, scratch: Path) -> dict[str, tuple[float, float]]:
    """Peak MB and seconds by command, each from an empty cache but `train`, which finds it full."""
    cache, bundle = scratch / "cache", scratch / "photos.headstart"
    runs = {
        "features": run_headstart(
            "features", folder, "-o", scratch / "f.npy", *RUNTIME, cache=cache
        ),
        "train": run_headstart(
            "train", folder, "--recipe", "probe", "-o", bundle, *RUNTIME, cache=cache
        ),
        "predict": run_headstart("predict", bundle, folder, "--csv", cache=cache),
    }
    return {name: (run.peak_mb, run.seconds) for name, run in runs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, nargs=2, default=(2_000, 20_000))
    parser.add_argument("--output", type=Path, help="the CSV; by default in results/, if full")
    options = parser.parse_args()
    few, many = options.photos
    found = []
    for count in (few, many):
        with tempfile.TemporaryDirectory() as name:
            scratch = Path(name)
            found.append(measure(write_photos(scratch / "photos", count), scratch))
            print_table(
                [{"photos": count, "command": c, "MB": m} for c, (m, _) in found[-1].items()]
            )
    rows: list[dict[str, Any]] = []
    for command in found[0]:
        (small, _), (large, seconds) = (run[command] for run in found)
        rows.append(
            {
                "command": command,
                f"MB, {few} photos": small,
                f"MB, {many} photos": large,
                "ratio": large / small,
                "target": f"at most {TARGET}" if command != "train" else "",
                "reached": large / small <= TARGET if command != "train" else None,
                "seconds": seconds,
            }
        )
    options.limit = None
    save_rows("memory", rows, options, is_full=(few, many) == (2_000, 20_000))


if __name__ == "__main__":
    main()
