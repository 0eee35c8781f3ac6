"""The contract check over every network of the catalogue: random weights, the built-in with theirs.

Usage: python benchmarks/backbones.py [NAME ...] [--boundaries N | --all-boundaries] [--again]

Each row runs in a process of its own, the networks with the fewest parameters first, and is written
to results/backbones.csv when it is done. A later run goes on: it leaves out the rows that are there
without a problem and with as many cuts, and made with the same versions, and measures only runtimes
where only these are missing; `--again` computes all. The column cuts_checked says at how many of
the boundaries, evenly spread, the network was cut; onnx_error, openvino_error and litert_error are
the relative errors per photo beside TensorFlow; where one is above the tolerance, sensitivity is
how far TensorFlow's own features move when pixels move by a rounding, and only an error of more
than ten times that is a problem: a deep network of random weights can be chaotic, and each of its
layers rounds. bundle_error is the difference in probability between a classifier's Keras model and
its bundle without TensorFlow. Parameters and multiply-adds are counted at the network's own photo
size, the rest is checked on small photos. The network's BatchNormalization gets the statistics of
random photos first, so that activations are of the usual size.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from headstart.files import atomic_write
from headstart.models.backbones import BACKBONES

RESULTS = Path(__file__).parent / "results" / "backbones.csv"
# A runtime's column, and the package whose version shows in its numbers.
ERRORS = {
    "onnxruntime": ("onnx_error", "onnxruntime"),
    "openvino": ("openvino_error", "openvino"),
    "litert": ("litert_error", "ai-edge-litert"),
}
PACKAGES = ("keras", "tensorflow", *(package for _, package in ERRORS.values()))
COLUMNS = (
    *("backbone", "photo", "parameters", "multiply_adds", "boundaries", "cuts_checked"),
    *(column for column, _ in ERRORS.values()),
    *("sensitivity", "bundle_error", "problem", "seconds", *PACKAGES),
)


# Every layer rounds, not only the pixels: an error up to so many times the sensitivity is chaos.
_LAYERS = 10


def check_row(name: str, most: int, kept: dict[str, object]) -> dict[str, object]:
    """One row of the results; ``problem`` is empty when every promise is kept.

    Args:
        name: Of the backbone.
        most: Number of cuts.
        kept: What is known of its cuts and its bundle; then only runtimes are compared.
    """
    from headstart import load_backbone
    from headstart.testing import settle

    start, spec = time.perf_counter(), BACKBONES[name]
    row: dict[str, object] = kept or {"backbone": name, "problem": "", "seconds": 0.0}
    weights = None if spec.row else "imagenet"  # the built-in ones come with theirs
    try:
        if not kept:
            count_row(row, load_backbone(name, weights=weights))
        row["photo"] = max(spec.min_size, 64)
        model = load_backbone(name, weights=weights, image_size=row["photo"])
        if weights is None:
            settle(model)
        if not kept:
            check_promises(row, model, most)
        compare_runtimes(row, model)
    except Exception as problem:  # whatever it is, it belongs into the table
        row["problem"] = (str(problem).splitlines() or [type(problem).__name__])[0]
    row["seconds"] = round(float(str(row["seconds"])) + time.perf_counter() - start, 1)
    return row | {package: version(package) for package in PACKAGES}


def count_row(row: dict[str, object], model: Any) -> None:
    """Parameters and multiply-adds, which the catalogue must have, too."""
    from headstart import list_boundaries

    spec = BACKBONES[str(row["backbone"])]
    row["parameters"] = model.count_params()
    row["multiply_adds"] = list_boundaries(model)[-1].multiply_adds_before
    if (row["parameters"], row["multiply_adds"]) != (spec.parameters, spec.multiply_adds):
        row["problem"] = f"the catalogue says {spec.parameters}, {spec.multiply_adds}"


def check_promises(row: dict[str, object], model: Any, most: int) -> None:
    """Preprocessing, cuts, stillness, and the round trip of a bundle."""
    from headstart import list_boundaries
    from headstart.runtimes import TOLERANCE
    from headstart.testing import check_backbone, measure_bundle

    boundaries = list_boundaries(model)
    count = min(most, len(boundaries))
    picked = tuple(boundaries[i * (len(boundaries) - 1) // max(count - 1, 1)] for i in range(count))
    row |= {"boundaries": len(boundaries), "cuts_checked": count}
    preprocessing = BACKBONES[str(row["backbone"])].preprocessing
    check_backbone(model, preprocessing, boundaries=picked, runtimes=(), with_bundle=False)
    error = measure_bundle(model)
    row["bundle_error"] = f"{error:.1e}"
    if error > TOLERANCE:
        row["problem"] = f"the bundle disagrees: {error:.1e}"


def compare_runtimes(row: dict[str, object], model: Any) -> None:
    """Each runtime's features beside TensorFlow's, of the same weights."""
    from headstart.runtimes import TOLERANCE
    from headstart.testing import measure_agreement, measure_sensitivity

    errors = {runtime: measure_agreement(model, runtime) for runtime in ERRORS}
    sensitivity = 0.0
    row["sensitivity"] = ""
    if max(errors.values()) > TOLERANCE:
        sensitivity = measure_sensitivity(model)
        row["sensitivity"] = f"{sensitivity:.1e}"
    for runtime, error in errors.items():
        row[ERRORS[runtime][0]] = f"{error:.1e}"
        if error > max(TOLERANCE, _LAYERS * sensitivity):
            row["problem"] = f"{runtime} disagrees: {error:.1e}"


def read_rows() -> dict[str, dict[str, object]]:
    if not RESULTS.exists():
        return {}
    with RESULTS.open(newline="") as file:
        return {found["backbone"]: dict(found) for found in csv.DictReader(file)}


def is_kept(row: dict[str, object], most: int) -> bool:
    """Whether cuts and bundle of an earlier run need not be checked again."""
    return (
        not row["problem"]
        and bool(row["bundle_error"])
        and int(str(row["cuts_checked"])) >= min(most, int(str(row["boundaries"])))
        and all(row[package] == version(package) for package in ("keras", "tensorflow"))
    )


def is_compared(row: dict[str, object]) -> bool:
    """Whether its runtimes need not be compared again."""
    return all(
        row.get(column) and row.get(package) == version(package)
        for column, package in ERRORS.values()
    )


def write_row(row: dict[str, object]) -> None:
    rows = read_rows()
    rows[str(row["backbone"])] = row
    lines = [",".join(COLUMNS)]
    for name in BACKBONES:
        if name in rows:
            cells = (str(rows[name].get(column, "")) for column in COLUMNS)
            lines.append(",".join(cell.replace(",", ";") for cell in cells))
    with atomic_write(RESULTS) as file:
        file.write("\n".join(lines).encode() + b"\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--boundaries", type=int, default=6, help="how many cuts per network")
    parser.add_argument("--all-boundaries", action="store_true")
    parser.add_argument("--again", action="store_true", help="rows that are there, too")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    most = 10**6 if options.all_boundaries else options.boundaries
    if options.child:
        print(json.dumps(check_row(options.names[0], most, json.loads(options.child))))
        return
    rows = [spec for spec in BACKBONES.values() if spec.name in (options.names or BACKBONES)]
    found = {} if options.again else read_rows()
    with tempfile.TemporaryDirectory() as cache:
        for spec in sorted(rows, key=lambda spec: spec.parameters):
            kept = found.get(spec.name, {})
            kept = kept if kept and is_kept(kept, most) else {}
            if kept and is_compared(kept):
                continue
            row = run_row(spec.name, most, cache, kept)
            write_row(row)
            print(spec.name, row.get("seconds"), row["problem"] or "ok", flush=True)


def run_row(name: str, most: int, cache: str, kept: dict[str, object]) -> dict[str, object]:
    """A row, computed in a process of its own with an empty cache."""
    done = subprocess.run(
        [sys.executable, __file__, name, "--child", json.dumps(kept), "--boundaries", str(most)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HEADSTART_CACHE": str(Path(cache) / name.replace(":", "-"))},
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        reason = (done.stderr.strip().splitlines() or [""])[-1]
        return {"backbone": name, "problem": f"exit code {done.returncode}: {reason}"}
    row: dict[str, object] = json.loads(lines[-1])
    return row


if __name__ == "__main__":
    main()
