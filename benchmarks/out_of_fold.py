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

Settings after the first are also compared with the first, photo by photo: in hits, and in log loss
after the best temperature, which tells recipes apart on fewer photos. `--keep FOLDER` keeps the
logits of each fold there, and does not train again for those that it has.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import math
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
        """``(2, photo, class)`` logits of the photos held out: of the probe, of the tuned."""
        from headstart.data.split import list_folds
        from headstart.training.loop import Context, Data, Run, compute_logits, make_schedule
        from headstart.training.objective import encode_classes
        from headstart.training.probe import fit_probe

        train, held = fold
        network, settings, labels = self.network, self.network.settings, photos.labels
        inner = list_folds(labels[train], [photos.groups[row] for row in train], 5, seed)
        probe = fit_probe(photos.features[train], labels[train], len(photos.names), inner)
        network.start(self.pretrained, probe.kernel, probe.bias)
        start = network.get()
        schedule = make_schedule(settings, settings.learning_rate or 0.0)
        targets = encode_classes(labels, len(probe.class_weights), probe.class_weights)
        data = Data(self.source, targets, train, held[:0])
        Run("fold", network, data, schedule, Context(seed)).finish()
        end = network.get()
        network.set([(1 - share) * a + share * b for a, b in zip(start, end, strict=True)])
        tuned = compute_logits(network, self.source, held)
        return np.stack([np.log(probe.predict_proba(photos.features[held]) + 1e-12), tuned])


def measure_losses(logits: Any, labels: Any) -> Any:
    """``(photo,)`` log losses after the best temperature."""
    from headstart.evaluation.calibration import fit_temperature
    from headstart.training.probe import softmax

    wide = logits.astype(np.float64)
    best = fit_temperature(wide, labels, spread=math.inf)
    return -np.log(np.maximum(softmax(wide / best)[np.arange(len(labels)), labels], 1e-12))


def compare_with_first(first: Any, logits: Any, labels: Any, groups: Any) -> dict[str, Any]:
    """Differences to the first settings on the same photos, with paired intervals over groups."""
    from headstart.evaluation.intervals import bootstrap, compare_hits

    hits = [each.argmax(1) == labels for each in (logits, first)]
    losses = [measure_losses(each, labels) for each in (logits, first)]
    found = {
        "accuracy": compare_hits(*hits, groups).difference,
        "log loss": bootstrap(
            lambda rows: float((losses[0] - losses[1])[rows].mean()), len(labels), 0, groups
        ),
    }
    return {
        f"{name} over the first{end}": getattr(estimate, field)
        for name, estimate in found.items()
        for end, field in (("", "value"), (", low", "low"), (", high", "high"))
    }


def measure(
    photos: Photos, text: str, options: argparse.Namespace, first: Any
) -> tuple[dict[str, Any], Any]:
    """One row, and the logits of the tuned network; ``first`` are those of the first settings."""
    from headstart.data.split import list_folds
    from headstart.evaluation.intervals import compare_hits

    settings = FineTune(**{"learning_rate": 5e-4, "views": 1, "epochs": 8, **json.loads(text)})
    depth = Depth(photos, settings)
    start, found, rows, kept = time.perf_counter(), [], [], 0
    for repeat in range(options.repeats):
        folds = list(list_folds(photos.labels, photos.groups, 5, options.seed + repeat))
        for number, fold in enumerate(folds[: options.folds]):
            question = [options.data, options.side, options.seed, options.share, text]
            name = hashlib.sha256(json.dumps([*question, repeat, number]).encode()).hexdigest()
            path = (options.keep or Path()) / f"{name[:16]}.npy"
            if options.keep and path.exists():
                found.append(np.load(path))
                kept += 1
            else:
                found.append(depth.train(photos, fold, options.seed, options.share))
            if options.keep:
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, found[-1])
            rows.append(fold[1])
            means = (found[-1].argmax(2) == photos.labels[fold[1]]).mean(1).tolist()
            print(text, repeat, number, means, file=sys.stderr, flush=True)
    seconds = None if kept else (time.perf_counter() - start) / len(found)
    every = np.concatenate(rows)
    labels, groups = photos.labels[every], [photos.groups[row] for row in every]
    logits = np.concatenate(found, axis=1)
    probe, tuned = logits.argmax(2) == labels
    losses = [float(measure_losses(each, labels).mean()) for each in logits]
    gain = compare_hits(tuned, probe, groups, seed=options.seed)
    row = {
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
        "probe log loss": losses[0],
        "tuned log loss": losses[1],
    }
    over = compare_with_first(logits[1] if first is None else first, logits[1], labels, groups)
    return row | {key: None if first is None else value for key, value in over.items()}, logits[1]


def add_row(path: Path, row: dict[str, Any]) -> None:
    """Write the file again with this row, in place of one with the same question."""
    from measure import show

    rows: list[dict[str, Any]] = []
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    asked = [show(row[key]) for key in KEYS]
    rows = [old for old in rows if [old[key] for key in KEYS] != asked]
    # Rows that were measured before a column was there have nothing in it.
    write_csv(path, [*({key: old.get(key, "") for key in row} for old in rows), row])


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0], has_repeats=False)
    parser.add_argument("--data", default="clothing")
    parser.add_argument("--side", choices=("all", "train"), default="all")
    parser.add_argument("--folds", type=int, default=5, help="that are held out, of five")
    parser.add_argument("--repeats", type=int, default=1, help="with other folds")
    parser.add_argument("--share", type=float, default=0.75, help="of the way from the probe")
    parser.add_argument("--settings", nargs="+", default=["{}"], help="JSON, of FineTune")
    parser.add_argument("--keep", type=Path, help="folder for the logits of each fold")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = photo_sets.data_root() / options.data
    photos = Photos(folder if options.side == "all" else folder / "train")
    first = None
    for text in options.settings:
        row, logits = measure(photos, text, options, first)
        first = logits if first is None else first
        row = {**describe_context(), **row}
        print_table([{key: row[key] for key in row if key not in describe_context()}])
        if options.limit is None:
            add_row(options.output or PATH, row)


if __name__ == "__main__":
    main()
