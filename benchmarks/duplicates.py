"""How many planted copies are found, and what else is called a near duplicate.

Among the photos of a folder copies of some of them are planted, made by a seed: resized to 0.5 to
0.9 of their side, recompressed with quality 30 to 70, mirrored, cropped by 2 to 10 % of width and
of height, and all of that at once, mirrored every other time. Besides, as a harder guess at bursts
(nobody promises these): turned by up to 1.5 degrees, zoomed, shifted, of another brightness, noisy.
Every pair that was not planted, and does not follow from a planted one, is listed by its digests
with the verdict of a person who looked at both; a pair nobody has looked at yet says "unseen".

    HEADSTART_TEST_PHOTOS=... python benchmarks/duplicates.py [--limit 5] [--seed 7]
"""

from __future__ import annotations

import argparse
import io
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import photos
from measure import make_parser, save_rows
from PIL import Image, ImageOps

from headstart.data.duplicates import Pair, find_near_duplicates, group_photos, read_thumbnail
from headstart.files import digest_file

COPIES = ("exact", "resized", "recompressed", "mirrored", "cropped", "combined")
KINDS = (*COPIES, "burst, simulated")
# Folder → copies planted of each kind.
FOLDERS = {
    "clothing/train": 40,
    "clothing/test": 10,
    "ants-bees": 10,
    "imagenet-sample": 10,
    "cifar/train": 0,
}

# The beginnings of two digests → what a person saw.
VERDICTS: dict[tuple[str, str], str] = {}


@dataclass(frozen=True)
class Planted:
    """Photos and copies: ``sources[i]`` is the row of what row ``originals + i`` was made of."""

    paths: list[Path]
    originals: int
    sources: list[int]
    kinds: list[str]


def plant(name: str, count: int, seed: int, limit: int | None, scratch: Path) -> Planted:
    """The photos of a folder, and ``count`` copies of each kind in a scratch folder."""
    rng = random.Random(seed)
    paths = photos.list_photos(photos.data_root() / name)
    if limit is not None:
        paths, count = rng.sample(paths, min(len(paths), 20 * limit)), min(count, limit)
    kinds = [kind for kind in KINDS for _ in range(count)]
    # A folder with fewer photos than copies has two of some.
    order = rng.sample(range(len(paths)), len(paths))
    sources = [order[number % len(order)] for number in range(len(kinds))]
    scratch.mkdir(parents=True)
    copies = []
    for number, (row, kind) in enumerate(zip(sources, kinds, strict=True)):
        copies.append(scratch / f"{number}.jpg")
        if kind == "exact":
            shutil.copy(paths[row], copies[-1])
        else:
            image = ImageOps.exif_transpose(Image.open(paths[row])).convert("RGB")
            copies[-1].write_bytes(make_copy(image, kind, rng))
    return Planted([*paths, *copies], len(paths), sources, kinds)


def make_copy(image: Image.Image, kind: str, rng: random.Random) -> bytes:
    """A copy of one kind as JPEG bytes."""
    is_all = kind == "combined"
    if is_all or kind == "cropped":
        image = crop(image, rng)
    if kind == "mirrored" or (is_all and rng.random() < 0.5):
        image = ImageOps.mirror(image)
    if is_all or kind == "resized":
        scale = rng.uniform(0.5, 0.9)
        size = (round(image.width * scale), round(image.height * scale))
        image = image.resize(size, Image.Resampling.LANCZOS)
    if kind.startswith("burst"):
        image = shake(image, rng)
    stream = io.BytesIO()
    quality = rng.randint(30, 70) if is_all or kind == "recompressed" else 90
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def crop(image: Image.Image, rng: random.Random) -> Image.Image:
    """2 to 10 % of width and of height cut off, shared at random between both sides."""
    box: list[float] = []
    for length in image.size:
        cut = rng.uniform(0.02, 0.10) * length
        start = rng.uniform(0, cut)
        box += [start, length - cut + start]
    return image.crop((round(box[0]), round(box[2]), round(box[1]), round(box[3])))


def shake(image: Image.Image, rng: random.Random) -> Image.Image:
    """The same scene a second later, with a hand-held camera."""
    turned = image.rotate(rng.uniform(-1.5, 1.5), Image.Resampling.BICUBIC)
    width, height = image.size
    left, top = rng.uniform(0.02, 0.05) * width, rng.uniform(0.02, 0.05) * height
    keep = rng.uniform(0.92, 0.94)
    cut = turned.crop(
        (round(left), round(top), round(left + keep * width), round(top + keep * height))
    )
    noise = np.random.default_rng(rng.randrange(2**32)).normal(0, 4, (cut.height, cut.width, 3))
    brighter = np.asarray(cut, float) * rng.uniform(0.85, 1.15) + noise
    return Image.fromarray(np.clip(brighter, 0, 255).astype(np.uint8))


def measure(name: str, count: int, options: argparse.Namespace, scratch: Path) -> Iterator[Any]:
    """Rows of a folder: found copies by kind, then every pair that was not planted."""
    planted = plant(name, count, options.seed, options.limit, scratch / name.replace("/", "-"))
    pixels = photos.decode_all(planted.paths)
    features = photos.run_pass(photos.open_session(), pixels).astype(np.float16)
    digests = [digest_file(path) for path in planted.paths]
    start = time.perf_counter()
    pairs = find_near_duplicates(features, lambda row: read_thumbnail(planted.paths[row]))
    seconds = time.perf_counter() - start
    groups = group_photos(digests, pairs)
    correlation_of = {(pair.row, pair.other): pair.correlation for pair in pairs}
    for kind in KINDS if count else ():
        rows = [number for number, k in enumerate(planted.kinds) if k == kind]
        ends = [(planted.sources[row], planted.originals + row) for row in rows]
        reached = [correlation_of[end] for end in ends if end in correlation_of]
        found = sum(groups[one] == groups[other] for one, other in ends)
        blank = {"verdict": "", "one": "", "other": ""}
        yield {
            "dataset": name,
            "photos": len(planted.paths),
            "seconds": seconds,
            "what": kind,
            "planted": len(rows),
            "found": found,
            "lowest correlation": min(reached, default=None),
            "similarity": None,
            **blank,
        }
    yield from list_others(name, planted, pairs, digests, seconds)


def list_others(
    name: str, planted: Planted, pairs: list[Pair], digests: list[str], seconds: float
) -> Iterator[Any]:
    """A row per pair of originals that was found; copies stand for what they were made of."""
    roots = [*range(planted.originals), *planted.sources]
    best: dict[tuple[int, int], Pair] = {}
    for pair in pairs:
        one, other = sorted((roots[pair.row], roots[pair.other]))
        if digests[one] != digests[other]:
            known = best.get((one, other))
            if known is None or pair.correlation > known.correlation:
                best[one, other] = pair
    for (one, other), pair in sorted(best.items()):
        ends = sorted((digests[one][:12], digests[other][:12]))
        yield {
            "dataset": name,
            "photos": len(planted.paths),
            "seconds": seconds,
            "what": f"not planted: {pair.kind}",
            "planted": None,
            "found": None,
            "lowest correlation": pair.correlation,
            "similarity": pair.similarity,
            "verdict": VERDICTS.get((ends[0], ends[1]), "unseen"),
            "one": ends[0],
            "other": ends[1],
        }


def main() -> None:
    parser = make_parser((__doc__ or "").splitlines()[0], has_repeats=False)
    parser.add_argument("--seed", type=int, default=7, help="of the planted copies")
    options = parser.parse_args()
    rows: list[Any] = []
    with tempfile.TemporaryDirectory() as scratch:
        for name, count in FOLDERS.items():
            rows += measure(name, count, options, Path(scratch))
    save_rows("duplicates", rows, options)


if __name__ == "__main__":
    main()
