"""The contract check over every network of the catalogue: random weights, the built-in with theirs.

Usage: python benchmarks/backbones.py [NAME ...] [--boundaries N | --all-boundaries] [--again]
                                      [--apart]

Each row runs in a process of its own, the networks with the fewest parameters first, and is
written to results/backbones.csv when it is done. A later run goes on: it leaves out the rows
that are there without a problem and with as many cuts, and made with the same versions, and
measures only runtimes where only these are missing; `--again` computes all. `--apart` gives
each step of a row a process of its own, for networks of which not all copies fit into memory.
The column cuts_checked says at how many of the boundaries, evenly spread, the network was cut;
onnx_error, openvino_error and litert_error are the relative errors per photo beside TensorFlow;
where one is above the tolerance, sensitivity is how far TensorFlow's own features move when
pixels move by a rounding, and only an error of more than ten times that is a problem: a deep
network of random weights can be chaotic, and each of its layers rounds. bundle_error is the
difference in probability between a classifier's Keras model and its bundle without TensorFlow.
Parameters and multiply-adds are counted at the network's own photo size, the rest is checked on
small photos. The network's BatchNormalization gets the statistics of random photos first, so
that activations are of the usual size.
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
from collections.abc import Sequence
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


# What is checked of a row, in this order.
PROMISES = ("count", "cuts", "bundle")

# Every layer rounds, not only the pixels: an error up to so many times the sensitivity is chaos.
_LAYERS = 10


def check_row(row: dict[str, object], most: int, steps: Sequence[str]) -> dict[str, object]:
    """More of a row of the results; ``problem`` is empty when every promise is kept.

    Args:
        row: What is known, and the backbone's name.
        most: Number of cuts.
        steps: Some of `PROMISES` and runtimes.
    """
    from headstart import load_backbone
    from headstart.testing import settle

    start, spec = time.perf_counter(), BACKBONES[str(row["backbone"])]
    weights = None if spec.row else "imagenet"  # the built-in ones come with theirs
    try:
        if "count" in steps:
            count_row(row, load_backbone(spec.name, weights=weights))
        row["photo"] = max(spec.min_size, 64)
        if steps != ["count"]:
            model = load_backbone(spec.name, weights=weights, image_size=row["photo"])
            if weights is None:
                settle(model)
            if "cuts" in steps:
                check_cuts(row, model, most)
            if "bundle" in steps:
                check_bundle(row, model)
            compare_runtimes(row, model, [step for step in steps if step in ERRORS])
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


def check_cuts(row: dict[str, object], model: Any, most: int) -> None:
    """Preprocessing, cuts and stillness."""
    from headstart import list_boundaries
    from headstart.testing import check_backbone

    boundaries = list_boundaries(model)
    count = min(most, len(boundaries))
    picked = tuple(boundaries[i * (len(boundaries) - 1) // max(count - 1, 1)] for i in range(count))
    row |= {"boundaries": len(boundaries), "cuts_checked": count}
    preprocessing = BACKBONES[str(row["backbone"])].preprocessing
    check_backbone(model, preprocessing, boundaries=picked, runtimes=(), with_bundle=False)


def check_bundle(row: dict[str, object], model: Any) -> None:
    """The round trip of a bundle."""
    from headstart.runtimes import TOLERANCE
    from headstart.testing import measure_bundle

    error = measure_bundle(model)
    row["bundle_error"] = f"{error:.1e}"
    if error > TOLERANCE:
        row["problem"] = f"the bundle disagrees: {error:.1e}"


def compare_runtimes(row: dict[str, object], model: Any, runtimes: Sequence[str]) -> None:
    """Each runtime's features beside TensorFlow's, of the same weights."""
    from headstart.runtimes import TOLERANCE
    from headstart.testing import measure_agreement, measure_sensitivity

    errors = {runtime: measure_agreement(model, runtime) for runtime in runtimes}
    sensitivity = 0.0
    row.setdefault("sensitivity", "")
    if max(errors.values(), default=0.0) > TOLERANCE:
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
    parser.add_argument("--apart", action="store_true", help="a process for each step of a row")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    most = 10**6 if options.all_boundaries else options.boundaries
    if options.child:
        print(json.dumps(check_row(json.loads(options.child), most, options.names)))
        return
    rows = [spec for spec in BACKBONES.values() if spec.name in (options.names or BACKBONES)]
    found = {} if options.again else read_rows()
    with tempfile.TemporaryDirectory() as cache:
        for spec in sorted(rows, key=lambda spec: spec.parameters):
            kept = found.get(spec.name, {})
            kept = kept if kept and is_kept(kept, most) else {}
            if kept and is_compared(kept):
                continue
            row = kept or {"backbone": spec.name, "problem": "", "seconds": 0.0}
            row.pop("sensitivity", None)
            steps = [*(() if kept else PROMISES), *ERRORS]
            for part in [[step] for step in steps] if options.apart else [steps]:
                row = run_steps(row, most, cache, part)
            write_row(row)
            print(spec.name, row.get("seconds"), row["problem"] or "ok", flush=True)


def run_steps(
    row: dict[str, object], most: int, cache: str, steps: Sequence[str]
) -> dict[str, object]:
    """The row with these steps done, in a process of its own with the row's cache."""
    if row["problem"]:
        return row
    known = json.dumps(row)
    done = subprocess.run(
        [sys.executable, __file__, *steps, "--child", known, "--boundaries", str(most)],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "HEADSTART_CACHE": str(Path(cache) / str(row["backbone"]).replace(":", "-")),
        },
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        reason = (done.stderr.strip().splitlines() or [""])[-1]
        return {**row, "problem": f"{steps[0]}: exit code {done.returncode}: {reason}"}
    found: dict[str, object] = json.loads(lines[-1])
    return found


if __name__ == "__main__":
    main()
