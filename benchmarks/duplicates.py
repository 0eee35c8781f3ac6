"""How many planted copies are found, what else is called a near duplicate, and what that costs.

Among the photos of a folder copies of some of them are planted, made by a seed: resized to 0.5 to
0.9 of their side, recompressed with quality 30 to 70, mirrored, cropped by 2 to 10 % of width and
of height, and all of that at once, mirrored every other time. Besides, as a harder guess at bursts
(nobody promises these): turned by up to 1.5 degrees, zoomed, shifted, of another brightness, noisy.
Every pair that was not planted, and does not follow from a planted one, is listed by its digests
with the verdict of a person who looked at both: results/duplicates_seen.csv holds these verdicts,
and --sheets shows the pairs. Precision counts the pairs of the photos as they are, and once more
those among photos and copies, where a copy stands for what it was made of. The pairs that line up
best of those that were refused are counted as well, as far as a person has looked at them.

Then the cost of the pass within `headstart train`, and what a split is worth that does not know of
it: half of the photos get a copy (all at once), and the accuracy is measured on test photos chosen
with and without groups.

    HEADSTART_TEST_PHOTOS=... python benchmarks/duplicates.py [--limit 5] [--seed 7] [--sheets DIR]
"""

from __future__ import annotations

import argparse
import csv
import functools
import io
import random
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import photos
from measure import RESULTS, make_parser, run_headstart, save_rows
from PIL import Image, ImageOps

from headstart.data.duplicates import Pair, find_near_duplicates, group_photos, propose_pairs
from headstart.data.registration import compare_photos, read_thumbnail
from headstart.data.scan import Manifest, Sample, scan_folder
from headstart.data.split import split_manifest
from headstart.evaluation.metrics import wilson
from headstart.files import digest_file

COPIES = ("exact", "resized", "recompressed", "mirrored", "cropped", "combined")
KINDS = (*COPIES, "burst, simulated")
# Folder → copies planted of each kind.
FOLDERS = {"clothing": 50, "ants-bees": 20, "imagenet-sample": 10, "cifar": 0}

# What a person says of a true pair; "different" and "cannot tell" are the other verdicts.
TRUE = ("same picture", "same scene")
UNSEEN = "unseen"

# Splits of each kind that the worth of groups is measured on.
SPLITS = 10


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


@functools.cache
def read_verdicts() -> dict[tuple[str, str], str]:
    """The beginnings of two digests → what a person saw."""
    path = RESULTS / "duplicates_seen.csv"
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {(row["one"], row["other"]): row["verdict"] for row in csv.DictReader(file)}


def row_of(**cells: Any) -> dict[str, Any]:
    """A row with all columns, those that are not given empty."""
    columns = ("dataset", "photos", "what", "of", "found", "share", "low", "high", "seconds")
    more = ("correlation", "similarity", "verdict", "one", "other")
    return dict.fromkeys((*columns, *more)) | cells


def share_of(right: int, count: int) -> dict[str, float]:
    """A share with Wilson's 95 % interval."""
    if not count:
        return {}
    estimate = wilson(right, count)
    return {"share": estimate.value, "low": estimate.low, "high": estimate.high}


def measure(name: str, count: int, options: argparse.Namespace, scratch: Path) -> Iterator[Any]:
    """Rows of a folder: found copies by kind, precision, every pair that was not planted."""
    planted = plant(name, count, options.seed, options.limit, scratch / name)
    pixels = photos.decode_all(planted.paths)
    features = photos.run_pass(photos.open_session(), pixels).astype(np.float16)
    digests = [digest_file(path) for path in planted.paths]
    compare = partial(compare_photos, load=lambda row: read_thumbnail(planted.paths[row]))
    looking = lambda pairs, floor: compare(pairs, floor=floor)  # noqa: E731
    pairs = find_near_duplicates(features, looking)
    groups = group_photos(digests, pairs)
    for kind in KINDS if count else ():
        rows = [number for number, k in enumerate(planted.kinds) if k == kind]
        ends = [(planted.sources[row], planted.originals + row) for row in rows]
        found = sum(groups[one] == groups[other] for one, other in ends)
        yield row_of(
            dataset=name,
            photos=len(planted.paths),
            what=f"planted: {kind}",
            of=len(rows),
            found=found,
            **share_of(found, len(rows)),
        )
    if count:
        yield judge_planted(name, planted, pairs, digests)
    features = features[: planted.originals]
    start = time.perf_counter()
    pairs = find_near_duplicates(features, looking)
    seconds = time.perf_counter() - start
    paths = planted.paths[: planted.originals]
    refused = list_refused(features, pairs, looking)
    if options.sheets:
        draw_sheets(options.sheets / name, paths, pairs, refused)
    yield from judge(name, pairs, digests[: planted.originals], seconds)
    verdicts = [find_verdict(digests[pair.row], digests[pair.other]) for pair in refused]
    seen = [verdict for verdict in verdicts if verdict != UNSEEN]
    missed = sum(verdict in TRUE for verdict in seen)
    yield row_of(
        dataset=name, photos=len(paths), what="refused, though true", of=len(seen), found=missed
    )


def find_verdict(one: str, other: str) -> str:
    """What a person saw in two photos; equal bytes need no person."""
    if one == other:
        return "same picture"
    first, second = sorted((one[:12], other[:12]))
    return read_verdicts().get((first, second), UNSEEN)


def judge_planted(name: str, planted: Planted, pairs: list[Pair], digests: list[str]) -> Any:
    """Precision among photos and copies: a copy stands for what it was made of."""
    roots = [digests[row] for row in (*range(planted.originals), *planted.sources)]
    right = sum(find_verdict(roots[pair.row], roots[pair.other]) in TRUE for pair in pairs)
    return row_of(
        dataset=name,
        photos=len(digests),
        what="precision, with copies",
        of=len(pairs),
        found=right,
        **share_of(right, len(pairs)),
    )


def judge(name: str, pairs: list[Pair], digests: list[str], seconds: float) -> Iterator[Any]:
    """Precision by the verdicts, and a row per pair."""
    listed = []
    for pair in pairs:
        one, other = sorted((digests[pair.row][:12], digests[pair.other][:12]))
        verdict = find_verdict(digests[pair.row], digests[pair.other])
        ends = {"verdict": verdict, "one": one, "other": other}
        listed.append(
            row_of(
                dataset=name,
                photos=len(digests),
                what=f"pair: {pair.kind}",
                correlation=pair.correlation,
                similarity=pair.similarity,
                **ends,
            )
        )
    right = sum(row["verdict"] in TRUE for row in listed)
    yield row_of(
        dataset=name,
        photos=len(digests),
        what="precision",
        of=len(listed),
        found=right,
        seconds=seconds,
        **share_of(right, len(listed)),
    )
    yield from listed


def list_refused(features: Any, pairs: list[Pair], looking: Any) -> list[Pair]:
    """The proposed pairs that were not confirmed, those that line up best first."""
    unit = features.astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    proposed, similarities = propose_pairs(unit)
    correlations = np.nan_to_num(looking(proposed, -1.0), nan=-1).max(1)
    known = {(pair.row, pair.other) for pair in pairs}
    refused = [
        Pair(*rows, float(similarity), float(correlation), "refused")
        for rows, similarity, correlation in zip(
            proposed.tolist(), similarities, correlations, strict=True
        )
        if tuple(rows) not in known
    ]
    return sorted(refused, key=lambda pair: -pair.correlation)[:48]


def draw_sheets(
    folder: Path, paths: Sequence[Path], pairs: Sequence[Pair], refused: Sequence[Pair]
) -> None:
    """Contact sheets of pairs for a person: 24 each, with digests, correlation and cosine."""
    from PIL import ImageDraw

    folder.mkdir(parents=True, exist_ok=True)
    for kind, listed in (("found", pairs), ("refused", refused)):
        for start in range(0, len(listed), 24):
            sheet = Image.new("RGB", (6 * 330, 4 * 200), "white")
            for number, pair in enumerate(listed[start : start + 24]):
                left, top = number % 6 * 330, number // 6 * 200
                for place, row in enumerate((pair.row, pair.other)):
                    photo = ImageOps.exif_transpose(Image.open(paths[row])).convert("RGB")
                    photo.thumbnail((160, 160))
                    sheet.paste(photo, (left + 165 * place, top))
                    text = digest_file(paths[row])[:12]
                    ImageDraw.Draw(sheet).text((left + 165 * place, top + 162), text, "black")
                text = f"{pair.kind} {pair.correlation:.2f} cosine {pair.similarity:.2f}"
                ImageDraw.Draw(sheet).text((left, top + 175), text, "black")
            sheet.save(folder / f"{kind}-{start // 24}.png")


def measure_cost(name: str, options: argparse.Namespace, scratch: Path) -> Iterator[Any]:
    """Seconds of the pass within `headstart train`, in a first run and in one that is cached."""
    scratch.mkdir()
    folder = photos.dataset_folder(name, options.limit, scratch)
    cache, bundle = scratch / "cache", scratch / "a.headstart"
    run_headstart("backbones", cache=cache)
    command = ("train", folder, "--recipe", "probe")
    for what in ("first run", "second run"):
        found = run_headstart(*command, "-o", bundle, "--force", "--json", cache=cache).json
        seconds = found["seconds"]
        yield row_of(
            dataset=name,
            photos=sum(found["samples"].values()),
            what=f"groups: {what}",
            share=seconds["groups"] / seconds["total"],
            seconds=seconds["groups"],
        )


def measure_worth(name: str, options: argparse.Namespace, scratch: Path) -> Iterator[Any]:
    """Mean accuracy on test photos chosen with and without groups, half of the photos copied."""
    from headstart.training.probe import fit_probe

    rng = random.Random(options.seed)
    samples = [replace_side(s) for s in scan_folder(photos.data_root() / name).samples]
    samples = list({s.digest: s for s in samples}.values())
    if options.limit is not None:
        samples = rng.sample(samples, min(len(samples), 30 * options.limit))
    originals = len(samples)
    scratch.mkdir(parents=True)
    for number, sample in enumerate(rng.sample(samples, originals // 2)):
        image = ImageOps.exif_transpose(Image.open(sample.path)).convert("RGB")
        path = scratch / f"{number}.jpg"
        path.write_bytes(make_copy(image, "combined", rng))
        samples.append(Sample(path, sample.label, digest_file(path)))
    features = photos.compute_features(samples).astype(np.float16)
    looking = lambda pairs, floor: compare_photos(  # noqa: E731
        pairs, lambda row: read_thumbnail(samples[row].path), floor
    )
    digests = [sample.digest for sample in samples]
    found = group_photos(digests, find_near_duplicates(features, looking))
    groups = dict(zip(digests, found, strict=True))
    row_at = {digest: row for row, digest in enumerate(digests)}
    names = sorted({sample.label for sample in samples})
    for what, count, known in (
        ("no copies", originals, {}),
        ("copies, split by photo", len(samples), {}),
        ("copies, split by group", len(samples), groups),
    ):
        right = tested = 0
        for seed in range(SPLITS):
            split = split_manifest(Manifest(tuple(samples[:count])), seed, groups=known)
            sides = [[row_at[s.digest] for s in side] for side in (split.train, split.test)]
            labels = [np.array([names.index(samples[row].label) for row in side]) for side in sides]
            probe = fit_probe(features[sides[0]].astype(np.float32), labels[0], len(names))
            answers = probe.predict_proba(features[sides[1]]).argmax(1)
            right, tested = right + int((answers == labels[1]).sum()), tested + len(answers)
        yield row_of(
            dataset=name,
            photos=count,
            what=f"accuracy: {what}",
            of=tested,
            found=right,
            share=right / tested,
        )


def replace_side(sample: Sample) -> Sample:
    """The sample without its folder's side: the split is to decide."""
    return Sample(sample.path, sample.label, sample.digest)


def main() -> None:
    parser = make_parser((__doc__ or "").splitlines()[0], has_repeats=False)
    parser.add_argument("--seed", type=int, default=7, help="of the planted copies")
    parser.add_argument("--sheets", type=Path, help="write contact sheets of the pairs there")
    options = parser.parse_args()
    rows: list[Any] = []
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        for name, count in FOLDERS.items():
            rows += measure(name, count, options, scratch)
        rows += measure_worth("clothing", options, scratch / "worth")
        rows += measure_cost("clothing", options, scratch / "cost")
    save_rows("duplicates", rows, options)


if __name__ == "__main__":
    main()
