"""Photos at addresses: what a network's delay costs, beside the same photos in files.

Usage: python benchmarks/addresses.py [--repeats 1] [--output FILE]

The storage is in memory and answers each question after 50 ms, as one far away does; bandwidth is
not limited. The photos are generated (`memory.write_photos`), the network is the default one, on
onnxruntime. `one at a time` is what waiting for each answer would take. Writes
results/addresses.csv.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
from fsspec.implementations.memory import MemoryFileSystem
from measure import make_parser, save_rows
from memory import write_photos

PHOTOS, DELAY_SECONDS = 400, 0.05


class Far(MemoryFileSystem):
    """A storage whose answers take their time."""

    protocol = "far"
    asked = 0

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return MemoryFileSystem._strip_protocol(path.replace("far://", "memory://"))

    def cat_file(self, *arguments: Any, **named: Any) -> bytes:
        """The bytes of a file, after a while."""
        Far.asked += 1
        time.sleep(DELAY_SECONDS)
        return super().cat_file(*arguments, **named)


def run(place: str, cache: Path) -> dict[str, float]:
    """Seconds of the scan, photos per second of the pass, and questions for each photo."""
    from headstart.data.scan import scan_folder
    from headstart.features.extract import extract_features

    os.environ["HEADSTART_CACHE"] = str(cache)
    Far.asked, start = 0, time.perf_counter()
    manifest = scan_folder(place)
    scanned, marks = time.perf_counter(), []
    extract_features(
        "efficientnet-lite0",
        manifest,
        runtime="onnxruntime",
        progress=lambda done, total: marks.append((time.perf_counter(), done)),
    )
    (begin, first), (end, last) = marks[len(marks) // 10], marks[-1]
    return {
        "scan, seconds": scanned - start,
        "photos/s, warm": (last - first) / (end - begin),
        "reads of a photo": Far.asked / len(manifest.samples),
    }


def main() -> None:
    options = make_parser(__doc__ or "").parse_args()
    fsspec.register_implementation("far", Far, clobber=True)
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        folder = write_photos(scratch / "photos", options.limit or PHOTOS)
        for path in folder.rglob("*.jpg"):
            Far().pipe_file(f"/photos/{path.relative_to(folder)}", path.read_bytes())
        kept = os.environ.get("HEADSTART_CACHE")
        places = {"files": str(folder), "addresses": "far://photos"}
        found: dict[str, list[dict[str, float]]] = {place: [] for place in places}
        for turn in range(options.repeats):
            for name, place in places.items():
                found[name].append(run(place, scratch / f"cache-{name}-{turn}"))
        if kept is not None:
            os.environ["HEADSTART_CACHE"] = kept
    count = options.limit or PHOTOS
    alone = {"scan, seconds": count * DELAY_SECONDS, "photos/s, warm": 1 / DELAY_SECONDS}
    rows = [
        {
            "what": what,
            **{
                place: float(np.median([run[what] for run in runs]))
                for place, runs in found.items()
            },
            "one at a time": alone.get(what),
        }
        for what in found["files"][0]
    ]
    save_rows("addresses", rows, options)


if __name__ == "__main__":
    main()
