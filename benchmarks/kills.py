"""A hundred random kills while scanning, extracting, training and saving; what became of each.

Usage: python benchmarks/kills.py [--kills 100] [--seed 0]

A trial is one to three kills on one cache, then an undisturbed run, which must give the features
and the bundle of a run that was never disturbed, bit for bit. Writes results/kills.csv, one row per
kill, and ends with 1 if anything was damaged or differs.
"""

from __future__ import annotations

import argparse
import csv
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "tests"), str(HERE.parent / "tests" / "features")]

from accidents import Trainer, choose_stop, new_cache, read_features  # noqa: E402
from conftest import write_digits  # noqa: E402

from headstart.features.maintenance import verify_cache  # noqa: E402
from headstart.models.efficientnet_lite.weights import fetch_weights  # noqa: E402

RESULTS = HERE / "results" / "kills.csv"


def run_trials(trainer: Trainer, scratch: Path, kills: int, seed: int) -> Iterator[dict[str, Any]]:
    """One record per kill."""
    chance = random.Random(seed)
    weights, photos = scratch / "weights", scratch / "photos"
    older, bundle = scratch / "older.headstart", scratch / "bundle.headstart"
    for name, path, number in (("other", older, 1), ("whole", bundle, 0)):
        whole = trainer.run(new_cache(scratch / name, weights), path, seed=number)
        assert whole.status == 0, whole.stderr
    expected, features = bundle.read_bytes(), read_features(scratch / "whole", photos)
    states = {None: "none", older.read_bytes(): "older", expected: "new"}
    done = trial = 0
    while done < kills:
        trial += 1
        cache = new_cache(scratch / "cache", weights)
        bundle.unlink()
        if chance.random() < 0.5:
            shutil.copy(older, bundle)
        records = []
        for _ in range(min(chance.randint(1, 3), kills - done)):
            stop = choose_stop(whole, chance)
            run = trainer.run(cache, bundle, stop)
            found = verify_cache(cache)
            data = bundle.read_bytes() if bundle.exists() else None
            records.append(
                {
                    "trial": trial,
                    "phase": stop.phase,
                    "seconds": f"{stop.seconds:.4f}",
                    "status": run.status,
                    "shards": found.shards,
                    "damaged": len(found.damaged),
                    "litter": found.litter,
                    "bundle": states.get(data, "torn"),
                }
            )
        again = trainer.run(cache, bundle)
        same = again.status == 0 and bundle.read_bytes() == expected
        same = same and np.array_equal(read_features(cache, photos), features)
        done += len(records)
        yield from ({**record, "same_after": same} for record in records)
        shutil.rmtree(cache)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    scratch, start = Path(tempfile.mkdtemp()), time.perf_counter()
    photos = write_digits(scratch / "photos", ("0", "1", "2"), 20)
    (scratch / "weights").symlink_to(fetch_weights("efficientnet-lite0").parent)
    try:
        with Trainer(photos, scratch) as trainer:
            records = list(run_trials(trainer, scratch, options.kills, options.seed))
    finally:
        shutil.rmtree(scratch)
    with options.output.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
    print(f"{len(records)} kills in {time.perf_counter() - start:.0f} s")
    for name in ("phase", "status", "bundle", "damaged", "litter", "same_after"):
        print(f"{name}: {dict(Counter(record[name] for record in records))}")
    sound = all(r["same_after"] and not r["damaged"] and r["bundle"] != "torn" for r in records)
    sys.exit(0 if sound else 1)


if __name__ == "__main__":
    main()
