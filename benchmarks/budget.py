"""Is a time budget kept, with a usable model at its end?

    HEADSTART_TEST_PHOTOS=... python benchmarks/budget.py [--runs 21] [--first 0]

Each run is `headstart train PHOTOS --budget B` in a process of its own with an empty cache, on a
random part of a set of photos (50 to 1,000). In every other run a second process keeps one core
busy. Wall time is that of the whole process, from its start to its end. What a run leaves is then
loaded and measured on the set's test photos, which takes no part in the time.

A budget below the least that is needed must be refused with that least; the run is then done again
with it, and both are in the table: the last run is one of these. With ``--first`` the rows of the
runs before it stay as they are in the results.
"""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import photos as photo_sets
from measure import RESULTS, describe_context, make_parser, save_rows

# Budget in seconds and number of photos; the sets and the load take turns.
RUNS = (
    *((30, 50), (30, 100), (30, 200), (30, 300), (30, 500)),
    *((60, 100), (60, 200), (60, 400), (60, 800), (60, 1000)),
    *((120, 150), (120, 400), (120, 800), (120, 1000)),
    *((180, 400), (180, 1000), (300, 400), (300, 1000), (600, 400), (600, 1000)),
    (2, 1000),
)
SETS = ("clothing", "cifar", "ants-bees")


def link_part(name: str, count: int, folder: Path, seed: int) -> int:
    """A random part of the training photos of a set, as links; how many there are."""
    paths = sorted((photo_sets.data_root() / name / "train").glob("*/*"))
    order = np.random.default_rng(seed).permutation(len(paths))[:count]
    for number in order:
        target = folder / paths[number].parent.name / paths[number].name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(paths[number].resolve())
    return len(order)


def train(photos: Path, bundle: Path, cache: Path, budget: int) -> tuple[float, int, str, str]:
    """Seconds, exit code, and what was said."""
    import os

    command = ["train", str(photos), "--budget", f"{budget}s", "--json", "-o", str(bundle)]
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "headstart", *command],
        capture_output=True,
        text=True,
        env={**os.environ, "HEADSTART_CACHE": str(cache), "TF_CPP_MIN_LOG_LEVEL": "3"},
        check=False,
    )
    return time.perf_counter() - start, done.returncode, done.stdout, done.stderr


def measure(number: int, budget: int, count: int, scratch: Path) -> list[dict[str, Any]]:
    """One run; two rows where the budget had to be raised."""
    import headstart

    name, is_loaded = SETS[number % len(SETS)], number % 2 == 1
    folder, bundle = scratch / "photos", scratch / "a.headstart"
    count = link_part(name, count, folder, number)
    burner = None
    if is_loaded:
        burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    rows = []
    try:
        for turn in range(2):
            seconds, code, said, complaint = train(folder, bundle, scratch / f"c{turn}", budget)
            row: dict[str, Any] = {
                "run": number,
                "photos": name,
                "count": count,
                "one core busy": is_loaded,
                "budget": budget,
                "seconds": seconds,
                "of the budget": seconds / budget,
                "usable": bundle.exists(),
                "outcome": "",
                "kept": "",
                "accuracy on the test photos": None,
            }
            rows.append(row)
            least = re.search(r"Give --budget (\d+)s", complaint)
            if code == 0 or least is None:
                break
            row["outcome"], budget = f"refused: needs {least[1]} s", int(least[1])
        if code != 0:
            row["outcome"] = row["outcome"] or f"exit code {code}"
            return rows
    finally:
        if burner is not None:
            burner.kill()
            burner.wait()
    found = json.loads(said)
    taken = [step for step in found["plan"]["steps"] if step["outcome"]]
    row["outcome"] = "; ".join(f"{step['name']}: {step['outcome']}" for step in taken) or "probe"
    row["kept"] = (
        found["recipe"]["fine_tune"]["unfreeze"]
        if found["fine_tune"] and ("fine_tune" in found["recipe"])
        else "probe"
    )
    test = photo_sets.data_root() / name / "test"
    row["accuracy on the test photos"] = headstart.load(bundle).evaluate(test).accuracy.value
    return rows


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0], has_repeats=False)
    parser.add_argument("--runs", type=int, default=len(RUNS), help="the first so many")
    parser.add_argument("--first", type=int, default=0, help="number of the first that is made")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    context = describe_context() if options.first else {}
    if options.first:
        with (RESULTS / "budget.csv").open(encoding="utf-8", newline="") as file:
            rows = [dict(row) for row in csv.DictReader(file) if int(row["run"]) < options.first]
        for row in rows:
            del row["limit"]
    for number, (budget, count) in list(enumerate(RUNS[: options.runs]))[options.first :]:
        with tempfile.TemporaryDirectory() as scratch:
            found = measure(number, budget, count, Path(scratch))
            rows += [{**context, **row} for row in found]
        print(rows[-1], file=sys.stderr)
        save_rows("budget", rows, options)


if __name__ == "__main__":
    main()
