"""Which way of making a photo square, and which resize filter, serves the probe best.

Judged on the TRAINING photos of two datasets, by the cross-validated log loss and accuracy of the
probe at its best strength (2 repeats of 5 folds; choosing the strength on the same folds flatters
every way alike), and by the answers of the 1000-class network on ImageNet photos. One thing is
varied at a time: the ways with the product's filter, then the filters with the product's way. The
row "headstart" goes through the product's own decoder, and should equal its own choice here but
for the order of rotation and for photos of fewer than 256 pixels. All ways start from the same
loaded image (JPEGs scaled while loading as in the product); where a photo is enlarged the filter
is bicubic, as in the product.

`--small` asks how much of a photo to keep that has fewer pixels than the network takes: the same
photos made smaller, and those of CIFAR-10 as they are, with shares of the shorter side.

    HEADSTART_TEST_PHOTOS=... python benchmarks/squaring.py [--small] [--limit 5]
"""

from __future__ import annotations

import itertools
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import photos
from measure import make_parser, save_rows
from PIL import Image, ImageOps

from headstart.data.decode import KEPT_SHARE, measure_square
from headstart.data.scan import Sample, scan_folder
from headstart.data.split import list_folds
from headstart.training.probe import fit_probe

SIZE = 224
FILTERS = {name: Image.Resampling[name.upper()] for name in ("bicubic", "hamming", "bilinear")}
OURS = ("central 0.875 of the shorter side", "hamming")
_GREY = 127
# Of small photos: the shorter side in pixels, and the shares of it that are kept.
SMALL, SHARES = (32, 64, 128, 200), (KEPT_SHARE, 0.9375, 1.0)

Way = Callable[[Image.Image, Image.Resampling], Image.Image]


def load_image(path: Path) -> Image.Image:
    """RGB, upright; a JPEG is scaled while loading to no less than the product would."""
    with Image.open(path) as image:
        if image.format == "JPEG":
            side = round(SIZE / KEPT_SHARE * 2)
            image.draft(None, (side, side))
        return ImageOps.exif_transpose(image).convert("RGB")


def central(image: Image.Image, width: float, height: float, kind: Image.Resampling) -> Image.Image:
    """The central rectangle, squashed to the square."""
    left, top = (image.width - width) / 2, (image.height - height) / 2
    kind = Image.Resampling.BICUBIC if min(width, height) < SIZE else kind
    box = (left, top, left + width, top + height)
    return image.resize((SIZE, SIZE), kind, box=box, reducing_gap=3.0)


def crop_share(share: float) -> Way:
    """The central square of a share of the shorter side."""

    def crop(image: Image.Image, kind: Image.Resampling) -> Image.Image:
        side = min(image.size) * share
        return central(image, side, side, kind)

    return crop


def crop_longer(limit: Callable[[float, float], float]) -> Way:
    """The longer side cropped to ``limit(longer, shorter)``, the rest squashed."""

    def crop(image: Image.Image, kind: Image.Resampling) -> Image.Image:
        most = limit(max(image.size), min(image.size))
        return central(image, min(image.width, most), min(image.height, most), kind)

    return crop


def pad(mode: str) -> Way:
    """The whole photo with bars: grey, or repeating its edge pixels."""
    settings: dict[str, Any] = {"constant_values": _GREY} if mode == "constant" else {}

    def fit(image: Image.Image, kind: Image.Resampling) -> Image.Image:
        scale = SIZE / max(image.size)
        width, height = (max(1, round(side * scale)) for side in image.size)
        kind = Image.Resampling.BICUBIC if scale > 1 else kind
        small = np.asarray(image.resize((width, height), kind, reducing_gap=3.0))
        bars = [((SIZE - side) // 2, SIZE - side - (SIZE - side) // 2) for side in (height, width)]
        return Image.fromarray(np.pad(small, [*bars, (0, 0)], mode, **settings))  # type: ignore[call-overload]

    return fit


WAYS: dict[str, Way] = {
    OURS[0]: crop_share(KEPT_SHARE),
    "central whole shorter side": crop_share(1.0),
    "squash": crop_longer(max),
    "pad with grey": pad("constant"),
    "pad with edge pixels": pad("edge"),
    "crop to at most 4:3, then squash": crop_longer(lambda longer, shorter: shorter * 4 / 3),
    # The longer side becomes the geometric mean of both: half of the ratio is cropped away.
    "half crop, half squash": crop_longer(lambda longer, shorter: math.sqrt(longer * shorter)),
}


def list_choices() -> Iterator[tuple[str, str]]:
    """What is compared: ``(way, filter)``; the product's own decoder last."""
    yield from ((way, OURS[1]) for way in WAYS)
    yield from ((OURS[0], name) for name in FILTERS if name != OURS[1])
    yield ("headstart", "")


def make_decode(way: str, kind: str, spent: list[float]) -> photos.Decode:
    """A decoder that appends the processor seconds of each resize to ``spent``."""
    if way == "headstart":
        return photos.decode_file

    def decode(path: Path) -> Any:
        image = load_image(path)
        start = time.thread_time()
        square = WAYS[way](image, FILTERS[kind])
        spent.append(time.thread_time() - start)
        return np.asarray(square)

    return decode


def cross_validate(features: Any, samples: tuple[Sample, ...]) -> tuple[float, float]:
    """Log loss and accuracy of the probe, mean of two repeats of 5 folds."""
    names = sorted({sample.label for sample in samples})
    labels = np.array([names.index(sample.label) for sample in samples])
    digests = [sample.digest for sample in samples]
    best = []
    for seed in range(2):
        folds = list_folds(labels, digests, 5, seed)
        path = fit_probe(features, labels, len(names), folds).path
        best.append(min(path, key=lambda step: step.log_loss))
    return tuple(  # type: ignore[return-value]
        float(np.mean([getattr(step, name) for step in best])) for name in ("log_loss", "accuracy")
    )


def count_right(features: Any, samples: tuple[Any, ...]) -> int:
    """ImageNet photos whose class, the start of the file's name, the full network gives."""
    from headstart.models.efficientnet_lite.weights import load_weights

    weights = load_weights(photos.BACKBONE)
    answers = (features @ weights["classifier/kernel"] + weights["classifier/bias"]).argmax(1)
    truth = np.array([int(sample.path.name[:4]) for sample in samples])
    return int((answers == truth).sum())


def measure(way: str, kind: str, sets: dict[str, tuple[Any, ...]]) -> dict[str, Any]:
    """One row."""
    row: dict[str, Any] = {"way": way, "filter": kind, "ours": (way, kind) == OURS}
    spent: list[float] = []
    for name, samples in sets.items():
        features = photos.compute_features(samples, make_decode(way, kind, spent))
        if name == "imagenet":
            row["imagenet right"] = count_right(features, samples)
            row["imagenet photos"] = len(samples)
        else:
            loss, accuracy = cross_validate(features, samples)
            row |= {f"{name} log loss": loss, f"{name} accuracy": accuracy}
    row["resize ms"] = float(np.mean(spent) * 1000) if spent else None
    return row


def measure_small(
    shorter: int, share: float, sets: dict[str, tuple[Any, ...]]
) -> Iterator[dict[str, Any]]:
    """One row for each data set that has or gets photos of this size."""

    def decode(path: Path) -> Any:
        image = load_image(path)
        if (scale := shorter / min(image.size)) < 1:
            size = [max(shorter, round(side * scale)) for side in image.size]
            image = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
        return np.asarray(crop_share(share)(image, FILTERS[OURS[1]]))

    kept = measure_square(shorter, shorter, SIZE) / shorter
    for name, samples in sets.items():
        if name == "cifar" and shorter != SMALL[0]:
            continue
        features = photos.compute_features(samples, decode)
        row = {"shorter side": shorter, "share": share, "ours": share == kept, "photos": name}
        if name == "imagenet":
            found: tuple[Any, Any] = (None, count_right(features, samples) / len(samples))
        else:
            found = cross_validate(features, samples)
        yield row | {"log loss": found[0], "accuracy": found[1]}


def load_sets(
    names: tuple[str, ...], limit: int | None, scratch: Path
) -> dict[str, tuple[Any, ...]]:
    """The training photos of datasets, and the ImageNet photos."""
    sets: dict[str, tuple[Any, ...]] = {
        name: scan_folder(photos.dataset_folder(name, limit, scratch) / "train").samples
        for name in names
    }
    found = photos.list_photos(photos.data_root() / "imagenet-sample")
    shown = found[: 10 * limit] if limit else found
    sets["imagenet"] = tuple(Sample(path, "", "") for path in shown)
    return sets


def main() -> None:
    parser = make_parser((__doc__ or "").splitlines()[0], has_repeats=False)
    parser.add_argument("--small", action="store_true", help="photos with few pixels instead")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["HEADSTART_CACHE"] = str(Path(scratch) / "cache")
        names = (*photos.DATASETS, "cifar") if options.small else photos.DATASETS
        sets = load_sets(names, options.limit, Path(scratch))
        for shorter, share in itertools.product(SMALL, SHARES) if options.small else ():
            print(f"{shorter} pixels, {share:g} of them", file=sys.stderr, flush=True)
            rows += measure_small(shorter, share, sets)
        for way, kind in () if options.small else list_choices():
            print(f"{way} {kind}", file=sys.stderr, flush=True)
            rows.append(measure(way, kind, sets))
    save_rows("squaring_small" if options.small else "squaring", rows, options)


if __name__ == "__main__":
    main()
