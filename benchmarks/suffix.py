"""Training the part after the boundary: convolutions beside matrix products.

    python benchmarks/suffix.py

Steps of the product's network on random activations of the built-in backbone, at several depths:
pointwise convolutions computed as matrix products, as the product does, and as TensorFlow's
convolutions. Both are timed in turns; the loss after the same steps from the same start says
whether they compute the same.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

import numpy as np
import photos as photo_sets
from measure import make_parser, save_rows

DEPTHS = ("last_block", "last_2_blocks", "last_4_blocks", "half", "block4a")
BATCH, CLASSES = 32, 10


def build(depth: str, *, as_products: bool) -> Any:
    """A network of the product, started, and its state."""
    from headstart import load_backbone
    from headstart.models.unfreeze import resolve_unfreeze
    from headstart.recipe import FineTune
    from headstart.training import network as networks

    before = networks.multiplying
    if not as_products:
        networks.multiplying = lambda model: contextlib.nullcontext()
    try:
        backbone = load_backbone(photo_sets.BACKBONE)
        unfreeze = resolve_unfreeze(backbone, depth)
        settings = FineTune(mixup=0.0, dropout=0.0)
        network = networks.Network(backbone, unfreeze, CLASSES, settings)
    finally:
        networks.multiplying = before
    kernel = np.random.default_rng(0).normal(size=(1280, CLASSES)).astype(np.float32)
    network.start(network.get(), 0.01 * kernel, np.zeros(CLASSES, np.float32))
    return network


def measure(depth: str, repeats: int) -> dict[str, Any]:
    """One row."""
    ways = {
        "products": build(depth, as_products=True),
        "convolutions": build(depth, as_products=False),
    }
    boundary = ways["products"].unfreeze.boundary
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH, *boundary.shape)).astype(np.float16)
    targets = np.eye(CLASSES, dtype=np.float32)[np.arange(BATCH) % CLASSES]
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    losses: dict[str, float] = {}
    for turn in range(repeats + 2):  # two to warm up
        for name, network in ways.items():
            start = time.perf_counter()
            step = (x, targets, np.ones(BATCH), (1e-4, 1e-4), np.random.default_rng(turn))
            losses[name] = network.train_step(*step)[0]
            seconds[name].append(time.perf_counter() - start)
    ours, theirs = (np.array(seconds[name][2:]) for name in ways)
    return {
        "depth": depth,
        "boundary": boundary.name,
        "share of multiply-adds": 1 - boundary.share_before,
        "photos/s": BATCH / float(np.median(ours)),
        "photos/s, convolutions": BATCH / float(np.median(theirs)),
        "times": float(np.median(theirs / ours)),
        "relative loss difference": abs(losses["products"] / losses["convolutions"] - 1),
        "steps": repeats,
    }


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0])
    parser.set_defaults(repeats=20)
    options = parser.parse_args()
    save_rows("suffix", [measure(depth, options.repeats) for depth in DEPTHS], options)


if __name__ == "__main__":
    main()
