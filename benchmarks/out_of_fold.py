r"""What fine-tuning brings over the probe, out of fold: depth × settings × views × seconds.

    HEADSTART_TEST_PHOTOS=... python benchmarks/out_of_fold.py --data clothing \
        --settings '{"unfreeze": "last_block"}' '{"unfreeze": "half", "views": 6}'

Every photo of a data set, its test photos included, is held out once: five folds that keep near
duplicates together. In each fold the probe chooses its strength on the other four, fine-tuning
starts from it with the given settings (rate and epochs are fixed: nothing is chosen on the photos
that are held out), and the network is taken `share` of the way from the probe to the end. The
difference is paired, its interval is over groups. `--folds 1` holds out one fold only, `--side
train` leaves the test photos alone: so recipes are compared before one of them is measured.
A row is printed when it is there; rows of earlier runs with other settings stay in the file.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import photos as photo_sets
from measure import RESULTS, describe_context, make_parser, print_table, write_csv

from headstart.recipe import FineTune

PATH = RESULTS / "out_of_fold.csv"
KEYS = ("data", "side", "folds", "repeats", "share", "settings")


class Photos:
    """A data set with its features, labels and groups."""

    def __init__(self, folder: Path) -> None:
        from headstart.data.duplicates import group_photos
        from headstart.features.extract import extract_features
        from headstart.features.near_duplicates import find_pairs
        from headstart.models.loaders import load_prefix
        from headstart.training.library import number_labels

        self.prefix = load_prefix(photo_sets.BACKBONE)
        found = extract_features(photo_sets.BACKBONE, folder)
        self.samples, self.features = found.samples, found.array.astype(np.float32)
        self.names = tuple(sorted({sample.label for sample in self.samples}))
        self.labels = number_labels([sample.label for sample in self.samples], self.names)
        digests = [sample.digest for sample in self.samples]
        self.groups = group_photos(digests, find_pairs(found), [None] * len(digests))


class Depth:
    """A network that is trained fold by fold, and the activations that it reads."""

    def __init__(self, photos: Photos, settings: FineTune) -> None:
        from headstart.data.scan import Manifest
        from headstart.features.activations import open_activations
        from headstart.models.boundary import INPUT, cut_prefix
        from headstart.models.unfreeze import resolve_unfreeze
        from headstart.training.network import Network
        from headstart.training.pixels import Pixels

        backbone = photos.prefix.build_model()
        unfreeze = resolve_unfreeze(backbone, settings.unfreeze, settings.batchnorm)
        self.boundary = unfreeze.boundary.name
        start = time.perf_counter()
        if self.boundary == INPUT:
            self.source: Any = Pixels(photos.samples, 224, settings.views, 0)
            self.megabytes = 0.0
        else:
            ends = cut_prefix(photos.prefix, unfreeze.boundary, backbone)
            self.source = open_activations(ends, Manifest(photos.samples), views=settings.views)
            self.megabytes = self.source.bytes / 1e6
        self.seconds = time.perf_counter() - start
        self.network = Network(backbone, unfreeze, len(photos.names), settings)
        self.pretrained = self.network.get()

    def train(self, photos: Photos, fold: tuple[Any, Any], seed: int, share: float) -> Any:
        """Hits on the photos held out: of the probe, and of the tuned network."""
        from headstart.data.split import list_folds
        from headstart.training.loop import Context, Data, Run, Schedule, compute_logits
        from headstart.training.probe import fit_probe

        train, held = fold
        network, settings, labels = self.network, self.network.settings, photos.labels
        inner = list_folds(labels[train], [photos.groups[row] for row in train], 5, seed)
        probe = fit_probe(photos.features[train], labels[train], len(photos.names), inner)
        network.start(self.pretrained, probe.kernel, probe.bias)
        start, rate = network.get(), settings.learning_rate or 0.0
        schedule = Schedule(rate, rate * settings.head_factor, settings.epochs, settings.epochs)
        data = Data(self.source, labels, probe.class_weights, train, held[:0])
        Run("fold", network, data, schedule, Context(seed)).finish()
        end = network.get()
        network.set([(1 - share) * a + share * b for a, b in zip(start, end, strict=True)])
        tuned = compute_logits(network, self.source, held).argmax(1) == labels[held]
        return probe.predict_proba(photos.features[held]).argmax(1) == labels[held], tuned


def measure(photos: Photos, text: str, options: argparse.Namespace) -> dict[str, Any]:
    """One row."""
    from headstart.data.split import list_folds
    from headstart.evaluation.intervals import compare_hits

    settings = FineTune(**{"learning_rate": 5e-4, "views": 1, "epochs": 8, **json.loads(text)})
    depth = Depth(photos, settings)
    start, found, rows = time.perf_counter(), [], []
    for repeat in range(options.repeats):
        folds = list(list_folds(photos.labels, photos.groups, 5, options.seed + repeat))
        for number, fold in enumerate(folds[: options.folds]):
            found.append(depth.train(photos, fold, options.seed, options.share))
            rows.append(fold[1])
            means = [float(np.mean(hits)) for hits in found[-1]]
            print(text, repeat, number, means, file=sys.stderr, flush=True)
    seconds = (time.perf_counter() - start) / len(found)
    probe, tuned = (np.concatenate([pair[side] for pair in found]) for side in (0, 1))
    groups = [photos.groups[row] for row in np.concatenate(rows)]
    gain = compare_hits(tuned, probe, groups, seed=options.seed)
    return {
        "data": options.data,
        "side": options.side,
        "folds": options.folds,
        "repeats": options.repeats,
        "share": options.share,
        "settings": text,
        "boundary": depth.boundary,
        "photos": len(probe) // options.repeats,
        "probe": float(probe.mean()),
        "tuned": float(tuned.mean()),
        "gain": gain.difference.value,
        "gain low": gain.difference.low,
        "gain high": gain.difference.high,
        "probability": gain.probability,
        "MB": depth.megabytes,
        "extraction s": depth.seconds,
        "training s a fold": seconds,
    }


def add_row(path: Path, row: dict[str, Any]) -> None:
    """Write the file again with this row, in place of one with the same question."""
    from measure import show

    rows: list[dict[str, Any]] = []
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    asked = [show(row[key]) for key in KEYS]
    rows = [old for old in rows if [old[key] for key in KEYS] != asked]
    write_csv(path, [*rows, row])


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0], has_repeats=False)
    parser.add_argument("--data", default="clothing")
    parser.add_argument("--side", choices=("all", "train"), default="all")
    parser.add_argument("--folds", type=int, default=5, help="that are held out, of five")
    parser.add_argument("--repeats", type=int, default=1, help="with other folds")
    parser.add_argument("--share", type=float, default=0.75, help="of the way from the probe")
    parser.add_argument("--settings", nargs="+", default=["{}"], help="JSON, of FineTune")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = photo_sets.data_root() / options.data
    photos = Photos(folder if options.side == "all" else folder / "train")
    for text in options.settings:
        row = {**describe_context(), **measure(photos, text, options)}
        print_table([{key: row[key] for key in row if key not in describe_context()}])
        if options.limit is None:
            add_row(options.output or PATH, row)


if __name__ == "__main__":
    main()
