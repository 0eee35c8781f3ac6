"""Extraction from files beside the runtime alone on arrays, as the number of photos grows.

    HEADSTART_TEST_PHOTOS=... python benchmarks/extraction.py [--copies 1 4]

The photos of clothing, and the same several times under other names with a few bytes after the end
of the picture, so that to the cache each is another photo. Ours is the whole call of
`extract_features` on an empty cache: scan, start of the decoding processes, opening the session,
decoding, computing, writing. The runtime alone computes as many photos from memory, warm. Both
alternate. What is missing to the runtime alone is decoding on the same cores (docs/performance.md)
and the start, whose part falls with the number of photos. So the decoding is timed by itself, too:
the same processes and threads, with nothing to compute. Both works fill the same cores, hence of D
photos/s decoded and R computed at most D / (D + R) of R remain: the column bound.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import inside
import numpy as np
import photos as photo_sets
from measure import make_parser, save_rows


def write_copies(folder: Path, copies: int) -> int:
    """Fill a folder; returns the number of photos."""
    files = photo_sets.list_photos(photo_sets.data_root() / "clothing")
    for path in files:
        for number in range(copies):
            target = folder / path.parent.name / f"{path.parent.parent.name}-{number}-{path.name}"
            target.parent.mkdir(exist_ok=True)
            shutil.copy(path, target)
            with target.open("ab") as file:  # whatever reads a JPEG stops before
                file.write(bytes([number]) * number)
    return copies * len(files)


def time_decoding(files: list[Path]) -> float:
    """Seconds of the product's pipeline around a network that does nothing."""
    from headstart.data.decode_pool import DecodePool
    from headstart.data.quality import measure_quality
    from headstart.data.stream import map_photos

    def run(paths: list[Path]) -> None:
        empty = np.zeros((len(paths), 1), np.float16)
        batches = map_photos(
            paths, Path, pool, lambda pixels: empty[: len(pixels)], measure_quality
        )
        if sum(len(batch.order) for batch in batches) != len(paths):
            raise RuntimeError("not all photos came back")

    with DecodePool(224) as pool:
        run(files[:64])  # the processes have started
        start = time.perf_counter()
        run(files)
        return time.perf_counter() - start


def measure(copies: int, repeats: int) -> dict[str, Any]:
    """One row."""
    with tempfile.TemporaryDirectory() as scratch:
        count = write_copies(Path(scratch), copies)
        files = photo_sets.list_photos(photo_sets.data_root() / "clothing")
        alone = inside._time_runtime(photo_sets.decode_all(files))
        ours, theirs, decoded = [], [], []
        for _ in range(repeats):
            decoded.append(len(files) / time_decoding(files))
            ours.append(count / inside._extract(scratch, count))
            theirs.append(count / sum(alone() for _ in range(copies)))
    return {
        "photos": count,
        "photos/s": float(np.median(ours)),
        "runtime alone, photos/s": float(np.median(theirs)),
        "decoding alone, photos/s": float(np.median(decoded)),
        "ratio": float(np.median(np.array(ours) / np.array(theirs))),
        "bound": float(np.median(np.array(decoded) / (np.array(decoded) + np.array(theirs)))),
        "target": "0.85",
        "reached": bool(np.median(np.array(ours) / np.array(theirs)) >= 0.85),
        "repeats": repeats,
    }


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument("--copies", type=int, nargs="+", default=[1, 4])
    options = parser.parse_args()
    save_rows("extraction", [measure(each, options.repeats) for each in options.copies], options)


if __name__ == "__main__":
    main()
