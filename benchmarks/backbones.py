"""The contract check over every network of the catalogue: random weights, the built-in with theirs.

Usage: python benchmarks/backbones.py [NAME ...] [--boundaries N | --all-boundaries] [--again]

Each row runs in a process of its own, the networks with the fewest parameters first, and is written
to results/backbones.csv when it is done. A later run goes on: it leaves out the rows that are there
without a problem and with as many cuts, and made with the same versions; `--again` computes them,
too. The column cuts_checked says at how many of the boundaries, evenly spread, the network was cut;
onnx_error is the relative error per photo beside TensorFlow; where it is above the tolerance,
sensitivity is how far TensorFlow's own features move when pixels move by a rounding, and only an
error of more than ten times that is a problem: a deep network of random weights can be chaotic, and
each of its layers rounds.
bundle_error is the difference in probability between a classifier's Keras model and its bundle
without TensorFlow. Parameters and multiply-adds are counted at the network's own photo size, the
rest is checked on small photos. The network's BatchNormalization gets the statistics of random
photos first, so that activations are of the usual size.
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

from headstart.files import atomic_write
from headstart.models.backbones import BACKBONES

RESULTS = Path(__file__).parent / "results" / "backbones.csv"
PACKAGES = ("keras", "tensorflow", "onnxruntime")
COLUMNS = (
    *("backbone", "photo", "parameters", "multiply_adds", "boundaries", "cuts_checked"),
    *("onnx_error", "sensitivity", "bundle_error", "problem", "seconds", *PACKAGES),
)


# Every layer rounds, not only the pixels: an error up to so many times the sensitivity is chaos.
_LAYERS = 10


def check_row(name: str, most: int) -> dict[str, object]:
    """One row of the results; ``problem`` is empty when every promise is kept."""
    from headstart import list_boundaries, load_backbone
    from headstart.runtimes import TOLERANCE
    from headstart.testing import (
        check_backbone,
        measure_agreement,
        measure_bundle,
        measure_sensitivity,
        settle,
    )

    start, spec = time.perf_counter(), BACKBONES[name]
    row: dict[str, object] = {"backbone": name, "problem": ""}
    weights = None if spec.row else "imagenet"  # the built-in ones come with theirs
    full = load_backbone(name, weights=weights)
    last = list_boundaries(full)[-1]
    row["parameters"], row["multiply_adds"] = full.count_params(), last.multiply_adds_before
    del full
    size = max(spec.min_size, 64)
    model = load_backbone(name, weights=weights, image_size=size)
    if weights is None:
        settle(model)
    boundaries = list_boundaries(model)
    count = min(most, len(boundaries))
    picked = tuple(boundaries[i * (len(boundaries) - 1) // max(count - 1, 1)] for i in range(count))
    row |= {"photo": size, "boundaries": len(boundaries), "cuts_checked": count}
    try:
        check_backbone(model, spec.preprocessing, boundaries=picked, runtimes=(), with_bundle=False)
        error = measure_agreement(model, "onnxruntime")
        row["onnx_error"] = f"{error:.1e}"
        if error > TOLERANCE:
            sensitivity = measure_sensitivity(model)
            row["sensitivity"] = f"{sensitivity:.1e}"
            if error > _LAYERS * sensitivity:
                row["problem"] = f"onnxruntime disagrees: {error:.1e}"
        error = measure_bundle(model)
        row["bundle_error"] = f"{error:.1e}"
        if error > TOLERANCE:
            row["problem"] = f"the bundle disagrees: {error:.1e}"
    except Exception as problem:  # whatever it is, it belongs into the table
        row["problem"] = (str(problem).splitlines() or [type(problem).__name__])[0]
    if (row["parameters"], row["multiply_adds"]) != (spec.parameters, spec.multiply_adds):
        row["problem"] = f"the catalogue says {spec.parameters}, {spec.multiply_adds}"
    row["seconds"] = round(time.perf_counter() - start, 1)
    return row | {package: version(package) for package in PACKAGES}


def read_rows() -> dict[str, dict[str, object]]:
    if not RESULTS.exists():
        return {}
    with RESULTS.open(newline="") as file:
        return {found["backbone"]: dict(found) for found in csv.DictReader(file)}


def is_done(row: dict[str, object], most: int) -> bool:
    """Whether a row of an earlier run need not be computed again."""
    return (
        not row["problem"]
        and bool(row["bundle_error"])
        and int(str(row["cuts_checked"])) >= min(most, int(str(row["boundaries"])))
        and all(row[package] == version(package) for package in PACKAGES)
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
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    most = 10**6 if options.all_boundaries else options.boundaries
    if options.child:
        print(json.dumps(check_row(options.names[0], most)))
        return
    rows = [spec for spec in BACKBONES.values() if spec.name in (options.names or BACKBONES)]
    found = {} if options.again else read_rows()
    with tempfile.TemporaryDirectory() as cache:
        for spec in sorted(rows, key=lambda spec: spec.parameters):
            if spec.name in found and is_done(found[spec.name], most):
                continue
            row = run_row(spec.name, most, cache)
            write_row(row)
            print(spec.name, row.get("seconds"), row["problem"] or "ok", flush=True)


def run_row(name: str, most: int, cache: str) -> dict[str, object]:
    """A row, computed in a process of its own with an empty cache."""
    done = subprocess.run(
        [sys.executable, __file__, name, "--child", "--boundaries", str(most)],
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
