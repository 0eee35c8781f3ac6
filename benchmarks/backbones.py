"""The contract check over every network of keras.applications, with random weights.

Usage: python benchmarks/backbones.py [NAME ...] [--boundaries N | --all-boundaries]

Each row runs in a process of its own and is written to results/backbones.csv when it is done; a
later run replaces the rows that it computes and keeps the others. Figures (parameters,
multiply-adds) are counted at the network's own photo size, the rest is checked on small photos.
The network's BatchNormalization gets the statistics of random photos first, so that activations
are of the usual size.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from headstart.files import atomic_write
from headstart.models.backbones import BACKBONES

RESULTS = Path(__file__).parent / "results" / "backbones.csv"
COLUMNS = (
    *("backbone", "photo", "parameters", "multiply_adds", "boundaries", "cuts_checked"),
    *("onnx_error", "problem", "seconds", "keras", "tensorflow", "onnxruntime"),
)


def check_row(name: str, most: int) -> dict[str, object]:
    """One row of the results; ``problem`` is empty when every promise is kept."""
    from headstart import list_boundaries, load_backbone
    from headstart.runtimes import TOLERANCE
    from headstart.testing import check_backbone, measure_agreement, settle

    start, spec = time.perf_counter(), BACKBONES[name]
    row: dict[str, object] = {"backbone": name, "problem": ""}
    full = load_backbone(name, weights=None)
    last = list_boundaries(full)[-1]
    row["parameters"], row["multiply_adds"] = full.count_params(), last.multiply_adds_before
    del full
    size = max(spec.min_size, 64)
    model = load_backbone(name, weights=None, image_size=size)
    settle(model)
    boundaries = list_boundaries(model)
    count = min(most, len(boundaries))
    picked = tuple(boundaries[i * (len(boundaries) - 1) // max(count - 1, 1)] for i in range(count))
    row |= {"photo": size, "boundaries": len(boundaries), "cuts_checked": count}
    try:
        check_backbone(model, spec.preprocessing, boundaries=picked, runtimes=())
        error = measure_agreement(model, "onnxruntime")
        row["onnx_error"] = f"{error:.1e}"
        if error > TOLERANCE:
            row["problem"] = f"onnxruntime disagrees: {error:.1e}"
    except Exception as problem:  # whatever it is, it belongs into the table
        row["problem"] = (str(problem).splitlines() or [type(problem).__name__])[0]
    if (row["parameters"], row["multiply_adds"]) != (spec.parameters, spec.multiply_adds):
        row["problem"] = f"the catalogue says {spec.parameters}, {spec.multiply_adds}"
    row["seconds"] = round(time.perf_counter() - start, 1)
    return row | {p: version(p) for p in ("keras", "tensorflow", "onnxruntime")}


def write_row(row: dict[str, object]) -> None:
    rows: dict[str, dict[str, object]] = {}
    if RESULTS.exists():
        with RESULTS.open(newline="") as file:
            rows = {found["backbone"]: dict(found) for found in csv.DictReader(file)}
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
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    most = 10**6 if options.all_boundaries else options.boundaries
    if options.child:
        print(json.dumps(check_row(options.names[0], most)))
        return
    for name in options.names or [n for n, spec in BACKBONES.items() if spec.row]:
        command = [sys.executable, __file__, name, "--child", "--boundaries", str(most)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = done.stdout.strip().splitlines()
        problem = f"exit code {done.returncode}: {done.stderr.strip()[-200:]!r}"
        row = json.loads(lines[-1]) if lines else {"backbone": name, "problem": problem}
        write_row(row)
        print(name, row.get("seconds"), row["problem"] or "ok", flush=True)


if __name__ == "__main__":
    main()
