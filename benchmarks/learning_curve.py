"""Does the forecast of the learning curve come true?

    HEADSTART_TEST_PHOTOS=... python benchmarks/learning_curve.py [--draws 40]

Of all photos of a set, near duplicates together, two fifths are the photos that somebody has, two
fifths are what might be added, and one fifth is kept to measure by. The forecast is made from the
first part alone, as the report makes it; then photos are added, and heads trained on 1.5 and 2
times as many are measured. Errors are in points of accuracy, means over the draws; the interval
is the forecast's own 95 % interval. The accuracies of the measured heads have an error of their
own: the fifth has 274 photos of clothing, or 400 of cifar.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import photos as photo_sets
from measure import make_parser, save_rows
from out_of_fold import Photos

from headstart.data.split import list_folds
from headstart.training.learning import measure_learning_curve
from headstart.training.probe import fit_probe


def measure(photos: Photos, seed: int) -> dict[str, float]:
    """The figures of one draw."""
    parts = [held for _, held in list_folds(photos.labels, photos.groups, 5, seed)]
    own, more, kept = np.concatenate(parts[:2]), np.concatenate(parts[2:4]), parts[4]
    more = np.random.default_rng(seed).permutation(more)
    x, labels, kinds = photos.features, photos.labels, len(photos.names)
    folds = list_folds(labels[own], [photos.groups[row] for row in own], 5, seed)
    strength = fit_probe(x[own], labels[own], kinds, folds).strength
    groups = [photos.groups[row] for row in own]
    curve = measure_learning_curve(x[own], labels[own], groups, strength, len(own), seed)
    assert curve is not None
    assert curve.gain is not None

    def score(count: int) -> float:
        rows = np.concatenate([own, more[: count - len(own)]])
        probe = fit_probe(x[rows], labels[rows], kinds, strengths=(strength,))
        return 100 * float((probe.predict_proba(x[kept]).argmax(1) == labels[kept]).mean())

    now = score(len(own))
    figures = {"now": now}
    for point, times in zip(curve.forecast, (1.25, 1.5, 2.0), strict=True):
        if times == 1.25:
            continue
        came, said = score(round(times * len(own))), point.accuracy
        figures |= {
            f"accuracy at {times:g} times: forecast": 100 * said.value,
            f"accuracy at {times:g} times: measured": came,
            f"accuracy at {times:g} times: absolute error": abs(100 * said.value - came),
            f"accuracy at {times:g} times: in the interval": float(
                100 * said.low <= came <= 100 * said.high
            ),
        }
        if times == 1.5:
            figures |= {
                "gain by half as many again: forecast": 100 * curve.gain.value,
                "gain by half as many again: measured": came - now,
                "gain by half as many again: absolute error": abs(
                    100 * curve.gain.value - came + now
                ),
            }
    return figures


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0], has_repeats=False)
    parser.add_argument("--draws", type=int, default=40)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in ("clothing", "cifar"):
        photos = Photos(photo_sets.data_root() / name)
        draws = [measure(photos, seed) for seed in range(options.draws)]
        for figure in draws[0]:
            values = np.array([draw[figure] for draw in draws])
            error = float(values.std(ddof=1) / len(values) ** 0.5)
            mean = float(values.mean())
            rows.append(
                {"photos": name, "figure": figure, "mean": mean, "±": error, "draws": len(draws)}
            )
    save_rows("learning_curve", rows, options, is_full=options.draws >= 40)


if __name__ == "__main__":
    main()
