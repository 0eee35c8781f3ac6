"""Would several settings of fine-tuning that share one reading of the cache be faster?

    HEADSTART_TEST_PHOTOS=... python benchmarks/shared_pass.py [--count 500] [--repeats 5]

An epoch from cached activations, per depth: reading alone; training one network; two networks one
after the other, as `--recipe search` does; and two that take turns on each batch of one reading.
All ways take turns; medians are reported.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import photos as photo_sets
from measure import make_parser, save_rows

from headstart.data.scan import scan_folder
from headstart.features.activations import open_activations
from headstart.models.boundary import cut_prefix
from headstart.models.loaders import load_prefix
from headstart.models.unfreeze import resolve_unfreeze
from headstart.recipe import FineTune
from headstart.training.network import Network
from headstart.training.source import Source, read_ahead

BLOCKS = ("last_block", "last_4_blocks", "half")


@dataclass(frozen=True)
class Task:
    """Activations, two networks that go on from them, and the labels."""

    source: Source
    networks: tuple[Network, Network]
    labels: Any
    megabytes: float

    def read(self, networks: Sequence[Network] = ()) -> float:
        """Seconds of an epoch in which each of the networks is trained on each batch."""
        order = np.random.default_rng(0).permutation(len(self.labels))
        parts = np.array_split(order, max(1, len(order) // 32))
        classes = self.networks[0].num_classes
        start = time.perf_counter()
        for number, (rows, activations) in enumerate(
            read_ahead(self.source, [(p, 0) for p in parts])
        ):
            for network in networks:
                network.train_step(
                    activations,
                    np.eye(classes, dtype=np.float32)[self.labels[rows]],
                    np.ones(len(rows), np.float32),
                    (1e-5, 1e-5),
                    np.random.default_rng(number),
                )
        return time.perf_counter() - start


def open_task(block: str, count: int) -> Task:
    """Some photos of clothing, computed up to where the block begins."""
    manifest = scan_folder(photo_sets.data_root() / "clothing" / "train")
    kept = manifest.samples[:: max(1, len(manifest.samples) // count)]
    manifest = type(manifest)(kept)
    names = manifest.class_names
    labels = np.array([names.index(sample.label) for sample in kept])
    prefix = load_prefix(photo_sets.BACKBONE)
    backbones = [prefix.build_model() for _ in range(2)]
    unfreeze = [resolve_unfreeze(backbone, block) for backbone in backbones]
    one, other = (
        Network(backbone, part, len(names), FineTune(views=1))
        for backbone, part in zip(backbones, unfreeze, strict=True)
    )
    source = open_activations(cut_prefix(prefix, unfreeze[0].boundary, backbones[0]), manifest)
    row = source.read(np.arange(1))
    return Task(source, (one, other), labels, 2 * row[0].size * len(labels) / 1e6)


def measure(block: str, task: Task, repeats: int) -> dict[str, Any]:
    """One row."""
    one, other = task.networks
    ways: dict[str, Callable[[], float]] = {
        "reading": task.read,
        "one": lambda: task.read([one]),
        "apart": lambda: task.read([one]) + task.read([other]),
        "together": lambda: task.read([one, other]),
    }
    ways["together"]()  # traces both
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            seconds[name].append(way())
    found = {name: median(values) for name, values in seconds.items()}
    ratios = [a / t for a, t in zip(seconds["apart"], seconds["together"], strict=True)]
    return {
        "trained": block,
        "photos": len(task.labels),
        "MB": task.megabytes,
        "reading s": found["reading"],
        "one network s": found["one"],
        "reading of it": found["reading"] / found["one"],
        "two apart s": found["apart"],
        "two on one reading s": found["together"],
        "times faster together": median(ratios),
        "repeats": repeats,
    }


def main() -> None:
    parser = make_parser((__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=500)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        os.environ["HEADSTART_CACHE"] = cache
        for block in BLOCKS:
            rows.append(measure(block, open_task(block, options.count), options.repeats))
            print(rows[-1], flush=True)
    save_rows("shared_pass", rows, options, is_full=options.count == 500)


if __name__ == "__main__":
    main()
