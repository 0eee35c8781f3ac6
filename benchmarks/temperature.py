"""How much do few photos say of the temperature? Priors of several widths beside none and beside 1.

    HEADSTART_TEST_PHOTOS=... python benchmarks/temperature.py [--draws 20]

Of the photos of some classes a few are drawn to train on, as many of each class; the head, its
strength and the logits of photos held out come as in a training, and each temperature is judged by
all other photos of these classes that are no near duplicates of those. The widths are standard
deviations of the temperature's logarithm.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import photos as photo_sets
from measure import make_parser, save_rows
from out_of_fold import Photos

from headstart.data.split import list_folds
from headstart.evaluation.calibration import SPREAD, fit_temperature, measure_calibration
from headstart.training.probe import fit_probe, softmax

# Classes that are told apart with ease, with some effort, and hardly.
CASES = (
    ("clothing", ("pants", "shoes"), (40, 100)),
    ("clothing", ("hat", "pants", "shoes"), (60,)),
    ("clothing", ("shirt", "t-shirt"), (40,)),
    ("ants-bees", (), (30, 60, 200)),
    ("clothing", (), (50, 100, 600)),
)
SPREADS = (0.0, 0.15, 0.2, 0.3, 0.4, 0.5, 1.0, math.inf)


def measure_draw(
    photos: Photos, names: tuple[str, ...], count: int, draw: int
) -> tuple[float, list[tuple[float, float, float]]]:
    """Share of those held out that is right; by width temperature, log loss and calibration error.

    The latter two are of new photos.
    """
    numbers = [photos.names.index(name) for name in names or photos.names]
    rows = np.random.default_rng(draw).permutation(np.flatnonzero(np.isin(photos.labels, numbers)))
    labels, groups = np.searchsorted(numbers, photos.labels), np.array(photos.groups)
    each = count // len(numbers)
    train = np.concatenate([rows[labels[rows] == number][:each] for number in range(len(numbers))])
    new = rows[~np.isin(groups[rows], groups[train])]
    folds = list(list_folds(labels[train], groups[train].tolist(), 5, draw))
    probe = fit_probe(photos.features[train], labels[train], len(numbers), folds)
    outputs = (photos.features[new] @ probe.kernel + probe.bias).astype(np.float64)
    held = (probe.held_out, labels[train], groups[train])
    found = []
    for spread in SPREADS:
        heat = fit_temperature(*held, spread=spread) if spread else 1.0
        odds = softmax(outputs / heat)
        chosen = odds[np.arange(len(new)), labels[new]]
        loss = float(-np.log(np.maximum(chosen, 1e-12)).mean())
        found.append((heat, loss, measure_calibration(odds, labels[new], draw).ece))
    return float((probe.held_out.argmax(1) == labels[train]).mean()), found


def measure_case(
    photos: Photos, data: str, names: tuple[str, ...], count: int, draws: int
) -> list[dict[str, Any]]:
    """A row per width."""
    rights, found = zip(
        *(measure_draw(photos, names, count, draw) for draw in range(draws)), strict=True
    )
    rows = []
    for spread, figures in zip(SPREADS, zip(*found, strict=True), strict=True):
        heats, losses, errors = zip(*figures, strict=True)
        rows.append(
            {
                "data": f"{data}: {', '.join(names) or 'all classes'}",
                "photos": count,
                "draws": draws,
                "right of those held out": float(np.mean(rights)),
                "spread": spread,
                "ours": "yes" if spread == SPREAD else "no",
                "temperature": float(np.mean(heats)),
                "lowest": min(heats),
                "log loss": float(np.mean(losses)),
                "largest": max(losses),
                "calibration error": float(np.mean(errors)),
            }
        )
    print(data, names, count, flush=True)
    return rows


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0], has_repeats=False)
    parser.add_argument("--draws", type=int, default=20, help="of each case")
    options = parser.parse_args()
    photos = {name: Photos(photo_sets.data_root() / name) for name in ("clothing", "ants-bees")}
    rows = [
        row
        for data, names, counts in CASES
        for count in counts
        for row in measure_case(photos[data], data, names, count, options.draws)
    ]
    save_rows("temperature", rows, options, is_full=options.draws >= 20)


if __name__ == "__main__":
    main()
