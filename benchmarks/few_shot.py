"""How good is the probe from a few photos of each class, and what does it cost?

    HEADSTART_TEST_PHOTOS=... python benchmarks/few_shot.py [--draws 10] [--limit 25]
    HEADSTART_TEST_PHOTOS=... python benchmarks/few_shot.py --scaling

Photos of each class are drawn from the training photos; the head is chosen and solved on them as
`headstart train --recipe probe` does; it is measured on all test photos. CPU seconds are those of
all threads: the pass of the drawn photos through the network (its mean over all photos), and the
choice of the strength with the final fit.

``--scaling`` compares what a feature is divided by at least, as a share of the median deviation:
0 is plain standardisation. All shares see the same draws.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any
from unittest import mock

import numpy as np
import photos
from measure import make_parser, save_rows

from headstart import extract_features
from headstart.data.split import list_folds
from headstart.training import logistic
from headstart.training.probe import Probe, fit_probe

NETWORKS = ("efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2")
DATASETS = ("clothing", "ants-bees", "cifar")
SIZES, SCALED_SIZES = (1, 5, 10, 20), (5, 20, None)
SHARES = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Task:
    """Features of one set of photos by one network; a row per photo.

    Attributes:
        name: Of the set.
        network: The backbone.
        train, test: ``(photo, feature)``.
        labels, truth: Class numbers of the two.
        digests: Of the training photos: copies stay together.
        pace: CPU seconds of a photo's pass.
    """

    name: str
    network: str
    train: Any
    labels: Any
    digests: list[str]
    test: Any
    truth: Any
    pace: float

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return int(self.labels.max()) + 1


def load_task(name: str, network: str, folder: Path) -> Task:
    """The features, computed anew, so that the pass can be timed."""
    sides = photos.load_sides(folder)
    before = time.process_time()
    found = extract_features(network, folder)
    pace = (time.process_time() - before) / len(found.samples)
    rows = {sample.digest: row for sample, row in zip(found.samples, found.array, strict=True)}
    train, test = (
        np.stack([rows[sample.digest] for sample in side]) for side in (sides.train, sides.test)
    )
    digests = [sample.digest for sample in sides.train]
    labels, truth = sides.labels(sides.train), sides.labels(sides.test)
    return Task(name, network, train, labels, digests, test, truth, pace)


def draw(task: Task, size: int, draws: int) -> Iterator[Any]:
    """Rows of so many photos a class (or all, where there are fewer); another set per draw."""
    for number in range(draws):
        rng = np.random.default_rng(number)
        order = rng.permutation(len(task.labels))
        chosen = [order[task.labels[order] == label][:size] for label in range(task.num_classes)]
        yield np.sort(np.concatenate(chosen))


def fit(task: Task, rows: Any) -> Probe:
    """As `headstart.training.fit` does."""
    labels, groups = task.labels[rows], [task.digests[row] for row in rows]
    sizes = np.bincount(labels, minlength=task.num_classes)
    count = min([5, *(int(size) for size in sizes if size > 1)])
    folds = list_folds(labels, groups, count, seed=0) if sizes.max() > 1 else ()
    return fit_probe(task.train[rows], labels, task.num_classes, folds)


def judge(task: Task, probe: Probe) -> tuple[float, float]:
    """Accuracy and log loss (nats) on the test photos."""
    probabilities = probe.predict_proba(task.test)
    chosen = np.maximum(probabilities[np.arange(len(task.truth)), task.truth], 1e-12)
    hits = probabilities.argmax(1) == task.truth
    return float(hits.mean()), float(-np.log(chosen).mean())


def measure(task: Task, draws: int) -> list[dict[str, Any]]:
    """A row per number of photos a class."""
    rows = []
    for size in SIZES:
        found, seconds = [], []
        for chosen in draw(task, size, draws):
            before = time.process_time()
            probe = fit(task, chosen)
            seconds.append(time.process_time() - before + task.pace * len(chosen))
            found.append(judge(task, probe))
        accuracies = [accuracy for accuracy, _ in found]
        rows.append(
            {
                "dataset": task.name,
                "network": task.network,
                "photos a class": size,
                "classes": task.num_classes,
                "draws": draws,
                "accuracy": mean(accuracies),
                "spread": stdev(accuracies) if draws > 1 else None,
                "log loss": mean(loss for _, loss in found),
                "CPU seconds": mean(seconds),
                "test photos": len(task.truth),
            }
        )
        print(rows[-1], flush=True)
    return rows


def compare_shares(task: Task, draws: int) -> list[dict[str, Any]]:
    """A row per number of photos a class and share."""
    rows = []
    for size in SCALED_SIZES:
        chosen = list(draw(task, size, draws)) if size else [np.arange(len(task.labels))]
        for share in SHARES:
            with mock.patch.object(logistic, "LEAST", share):
                found = [judge(task, fit(task, each)) for each in chosen]
            rows.append(
                {
                    "dataset": task.name,
                    "network": task.network,
                    "photos a class": size or "all",
                    "draws": len(chosen),
                    "share": share,
                    "ours": "yes" if share == logistic.LEAST else "",
                    "accuracy": mean(accuracy for accuracy, _ in found),
                    "log loss": mean(loss for _, loss in found),
                }
            )
        print(*rows[-len(SHARES) :], sep="\n", flush=True)
    return rows


def load_tasks(
    networks: Iterable[str], names: Sequence[str], options: argparse.Namespace
) -> Iterator[Task]:
    """One after the other, with a cache of their own."""
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["HEADSTART_CACHE"] = str(Path(scratch) / "cache")
        for name in names:
            folder = photos.dataset_folder(name, options.limit, Path(scratch))
            for network in networks:
                yield load_task(name, network, folder)


def main() -> None:
    parser = make_parser((__doc__ or "").splitlines()[0], has_repeats=False)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--scaling", action="store_true", help="compare floors of the deviation")
    options = parser.parse_args()
    work, networks = (compare_shares, NETWORKS[:2]) if options.scaling else (measure, NETWORKS)
    rows = []
    for task in load_tasks(networks, DATASETS, options):
        rows += work(task, options.draws)
    save_rows("scaling" if options.scaling else "few_shot", rows, options)


if __name__ == "__main__":
    main()
