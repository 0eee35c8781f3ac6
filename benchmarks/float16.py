"""What it costs that features are cached as float16.

The same float32 features, straight from the runtime, are used twice: as they are, and rounded to
float16 and back, for training and for the test photos alike. Each gets its own cross-validated
probe; a third probe is the rounded one at the float32 probe's strength, which tells what rounding
costs apart from another choice of the strength. Differences are over the test photos.

    HEADSTART_TEST_PHOTOS=... python benchmarks/float16.py [--limit 5]
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import photos
from measure import make_parser, save_rows

from headstart.data.split import list_folds
from headstart.evaluation.intervals import estimate_share
from headstart.training.probe import STRENGTHS, Probe, fit_probe


def measure(name: str, folder: Path) -> list[dict[str, Any]]:
    """Three rows: float32, float16, and float16 at the strength of float32."""
    sides = photos.load_sides(folder)
    exact = photos.compute_features((*sides.train, *sides.test))
    rounded = exact.astype(np.float16).astype(np.float32)
    reference, strength = None, None
    rows = []
    for label, features in (
        ("float32", exact),
        ("float16", rounded),
        ("float16 at float32's strength", rounded),
    ):
        strengths = (strength,) if strength and "strength" in label else STRENGTHS
        probe = fit(features[: len(sides.train)], sides, strengths)
        probabilities = probe.predict_proba(features[len(sides.train) :])
        if reference is None:
            reference, strength = probabilities, probe.strength
        rows.append(
            {
                "dataset": name,
                "features": label,
                "test photos": len(sides.test),
                **describe(probabilities, sides.labels(sides.test), reference),
                "chosen C": probe.strength,
                "largest relative feature error": relative_error(features, exact),
            }
        )
    return rows


def fit(features: Any, sides: photos.Sides, strengths: tuple[float, ...]) -> Probe:
    """The probe with the folds of `headstart train`."""
    labels = sides.labels(sides.train)
    folds = list_folds(labels, [sample.digest for sample in sides.train], 5, seed=0)
    return fit_probe(features, labels, len(sides.class_names), folds, strengths)


def describe(probabilities: Any, truth: Any, reference: Any) -> dict[str, Any]:
    """Accuracy with its interval, and the differences from the float32 probe."""
    answers = probabilities.argmax(1)
    accuracy = estimate_share(answers == truth)
    difference = np.abs(probabilities - reference)
    return {
        "accuracy": accuracy.value,
        "low": accuracy.low,
        "high": accuracy.high,
        "decisions changed": int((answers != reference.argmax(1)).sum()),
        "max probability difference": float(difference.max()),
        "mean probability difference": float(difference.mean()),
    }


def relative_error(features: Any, exact: Any) -> float:
    """The largest over the photos: norm of the difference over norm of the float32 features."""
    errors = np.linalg.norm(features - exact, axis=1) / np.linalg.norm(exact, axis=1)
    return float(errors.max())


def main() -> None:
    options = make_parser((__doc__ or "").splitlines()[0], has_repeats=False).parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["HEADSTART_CACHE"] = str(Path(scratch) / "cache")
        for name in photos.DATASETS:
            rows += measure(name, photos.dataset_folder(name, options.limit, Path(scratch)))
    save_rows("float16", rows, options)


if __name__ == "__main__":
    main()
