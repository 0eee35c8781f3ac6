"""Are suggested photos worth more than photos taken at random, and than other choices?

    HEADSTART_TEST_PHOTOS=... python benchmarks/suggest.py [--draws 20]

A head is trained on a few labelled photos; 50 more are chosen from the others, labelled, and a head
is trained on all. Gains are points of accuracy on the test photos by these 50 labels, means over
draws with their standard errors; in every draw all choices start from the same photos. The peers:
random photos; the smallest margins alone; BADGE (Ash et al. 2020, arXiv:1906.03671), k-means++
on the gradients of the head.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import photos as photo_sets
from measure import make_parser, save_rows
from out_of_fold import Photos

from headstart.evaluation.novelty import normalise_rows
from headstart.evaluation.selection import measure_margins, select_photos
from headstart.training.probe import fit_probe

LABELLED, CHOSEN = (50, 100, 200), 50
OURS, RANDOM = "headstart suggest", "random"


def select_badge(odds: Any, features: Any, count: int, seed: int) -> Any:
    """k-means++ on the outer products of residuals and features, which are never made."""
    rng = np.random.default_rng(seed)
    residuals = odds.copy()
    residuals[np.arange(len(odds)), odds.argmax(1)] -= 1
    sizes = (residuals**2).sum(1) * (features**2).sum(1)
    chosen, nearest = [int(sizes.argmax())], np.full(len(sizes), np.inf)
    while len(chosen) < count:
        last = chosen[-1]
        shared = (residuals @ residuals[last]) * (features @ features[last])
        nearest = np.minimum(nearest, np.maximum(sizes + sizes[last] - 2 * shared, 0))
        nearest[chosen] = 0
        chosen.append(int(rng.choice(len(nearest), p=nearest / nearest.sum())))
    return np.array(chosen)


def measure(train: Photos, test: Photos, labelled: int, seed: int) -> dict[str, float]:
    """Gain in points by choice, for one draw of the first photos."""
    rng, kinds = np.random.default_rng(seed), len(train.names)
    first = np.concatenate(
        [
            rng.permutation(np.flatnonzero(train.labels == number))[: labelled // kinds]
            for number in range(kinds)
        ]
    )
    pool = np.setdiff1d(np.arange(len(train.labels)), first)

    def fit(rows: Any) -> Any:
        return fit_probe(train.features[rows], train.labels[rows], kinds)

    def score(probe: Any) -> float:
        return 100 * float((probe.predict_proba(test.features).argmax(1) == test.labels).mean())

    before = fit(first)
    odds, features = before.predict_proba(train.features[pool]), train.features[pool]
    unit = normalise_rows(features)
    chosen = {
        OURS: select_photos(measure_margins(odds), unit, CHOSEN, seed),
        RANDOM: rng.permutation(len(pool))[:CHOSEN],
        "smallest margins": np.argsort(measure_margins(odds))[:CHOSEN],
        "BADGE": select_badge(odds, unit, CHOSEN, seed),
    }
    start = score(before)
    return {
        "before": start,
        **{
            name: score(fit(np.concatenate([first, pool[rows]]))) - start
            for name, rows in chosen.items()
        },
    }


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0], has_repeats=False)
    parser.add_argument("--draws", type=int, default=20)
    options = parser.parse_args()
    rows = []
    for data in ("clothing", "cifar"):
        folder = photo_sets.data_root() / data
        train, test = Photos(folder / "train"), Photos(folder / "test")
        for labelled in LABELLED:
            draws = [measure(train, test, labelled, seed) for seed in range(options.draws)]
            start = float(np.mean([draw["before"] for draw in draws]))
            for name in draws[0]:
                if name == "before":
                    continue
                gains = np.array([draw[name] for draw in draws])
                over = gains - np.array([draw[RANDOM] for draw in draws])
                error = len(draws) ** -0.5
                rows.append(
                    {
                        "photos": data,
                        "labelled": labelled,
                        "accuracy before": start,
                        "chosen by": name,
                        "gain": float(gains.mean()),
                        "± (standard error)": float(gains.std(ddof=1) * error),
                        "over random": float(over.mean()),
                        "± (standard error of it)": float(over.std(ddof=1) * error),
                        "draws": len(draws),
                    }
                )
    save_rows("suggest", rows, options)


if __name__ == "__main__":
    main()
