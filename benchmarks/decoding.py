"""What decoding costs by kind and size of photo, beside what the network costs, and why.

Photos of 12 megapixels are made of ImageNet's: enlarged to 4000 x 3000 with the noise of a sensor,
which gives JPEGs of the size that phones write. Times are processor milliseconds per photo on one
core, medians over photos of the best of some repeats; the runtime computes batches of eight on one
thread. Cores are shared by both, so decoding's part of the work is decode / (decode + network).

    HEADSTART_TEST_PHOTOS=... python benchmarks/decoding.py [--repeats 3] [--photos 3]

Peers: Pillow as it is used by default (the whole photo, then the same resize), and for JPEGs the
decoder of entropy codes alone, which nothing that reads a JPEG can go without.
"""

from __future__ import annotations

import io
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import photos
from measure import make_parser, save_rows
from PIL import Image

from headstart.data import damage, decode

SIZE, BATCH = 224, 8
LARGE = (4000, 3000)


def write_jpeg(image: Image.Image, stream: Any) -> None:
    image.save(stream, "JPEG", quality=88)


def write_progressive(image: Image.Image, stream: Any) -> None:
    image.save(stream, "JPEG", quality=88, progressive=True)


def write_png(image: Image.Image, stream: Any) -> None:
    image.save(stream, "PNG", compress_level=4)


def write_webp(image: Image.Image, stream: Any) -> None:
    image.save(stream, "WEBP", quality=80, method=2)


def write_heic(image: Image.Image, stream: Any) -> None:
    import pillow_heif

    heic = pillow_heif.from_pillow(image)
    heic.save(stream, quality=55, enc_params={"preset": "ultrafast"})


WRITERS: dict[str, Callable[[Image.Image, Any], None]] = {
    "JPEG": write_jpeg,
    "progressive JPEG": write_progressive,
    "HEIC": write_heic,
    "PNG": write_png,
    "WebP": write_webp,
}


def make_large(path: Path, rng: np.random.Generator) -> Image.Image:
    """12 megapixels: the photo enlarged, with noise that is a little correlated, as sensors' is."""
    with Image.open(path) as image:
        large = image.convert("RGB").resize(LARGE, Image.Resampling.BICUBIC)
    grain = rng.normal(0, 9, (LARGE[1] // 2, LARGE[0] // 2)).astype(np.float32)
    fine = rng.normal(0, 2.5, (LARGE[1], LARGE[0])).astype(np.float32)
    noise = np.asarray(Image.fromarray(grain).resize(LARGE, Image.Resampling.BICUBIC)) + fine
    pixels = np.asarray(large, np.float32) + noise[:, :, None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def write_photos(folder: Path, originals: list[Path]) -> dict[str, list[Path]]:
    """Files by kind; the originals are the kind that training sets are made of."""
    found: dict[str, list[Path]] = {"JPEG as in ImageNet": originals}
    rng = np.random.default_rng(0)
    for number, original in enumerate(originals):
        image = make_large(original, rng)
        for kind, write in WRITERS.items():
            path = folder / f"{number} {kind}"
            stream = io.BytesIO()
            write(image, stream)
            path.write_bytes(stream.getvalue())
            found.setdefault(f"{kind}, 12 megapixels", []).append(path)
    return found


def time_best(work: Callable[[], Any], repeats: int) -> float:
    """Processor milliseconds of the fastest of some runs."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append((time.process_time() - start) * 1e3)
    return min(times)


def measure_kind(paths: list[Path], repeats: int) -> dict[str, float | None]:
    rows = [measure_photo(path, repeats) for path in paths]
    return {
        name: float(np.median([row[name] for row in rows])) if rows[0][name] is not None else None
        for name in rows[0]
    }


def measure_photo(path: Path, repeats: int) -> dict[str, float | None]:
    """Milliseconds of the steps of one photo, and of the peers."""
    data = path.read_bytes()
    side = round(SIZE / decode.KEPT_SHARE * 2)

    def load() -> Image.Image:
        return decode._load(decode.open_image(data), data, side)[0]

    loaded = load()
    is_jpeg = data[:2] == b"\xff\xd8"
    return {
        "MB": len(data) / 1e6,
        "read ms": time_best(path.read_bytes, repeats),
        "open ms": time_best(lambda: decode.open_image(data), repeats),
        "load ms": time_best(load, repeats),
        "square ms": time_best(lambda: decode.square_image(loaded, SIZE), repeats),
        "decode ms": time_best(lambda: decode.decode_photo(data, SIZE), repeats),
        "Pillow ms": time_best(lambda: decode_plainly(data), repeats),
        "entropy codes ms": time_best(lambda: damage.find_damage(data), repeats)
        if is_jpeg
        else None,
        "1/8 ms": time_best(lambda: decode_smaller(data), repeats) if is_jpeg else None,
        "1/8 largest difference": compare_smaller(data) if is_jpeg else None,
    }


def decode_plainly(data: bytes) -> Any:
    """The whole photo by Pillow, then the same square."""
    with decode.open_image(data) as image:
        image.load()
        return decode.square_image(image, SIZE)


def decode_smaller(data: bytes) -> Any:
    """As ours, but scaled while loading as far as the needed resolution itself allows."""
    with decode.open_image(data) as image:
        loaded, _ = decode._load(image, data, round(SIZE / decode.KEPT_SHARE))
        return decode.square_image(loaded, SIZE)


def compare_smaller(data: bytes) -> float:
    plain, smaller = decode_plainly(data).astype(float), decode_smaller(data)
    return float(np.abs(plain - smaller).max())


def measure_network(repeats: int) -> float:
    """Milliseconds per photo of the fastest runtime on one thread, in our batches."""
    session = photos.open_session()
    images = np.random.default_rng(0).integers(0, 256, (BATCH, SIZE, SIZE, 3), np.uint8)
    session(images)
    return time_best(lambda: session(images), 3 * repeats) / BATCH


def main() -> None:
    parser = make_parser((__doc__ or "").splitlines()[0])
    parser.add_argument("--photos", type=int, default=3, help="of each kind")
    options = parser.parse_args()
    originals = photos.list_photos(photos.data_root() / "imagenet-sample")
    originals = originals[:: len(originals) // options.photos][: options.photos]
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["HEADSTART_CACHE"] = str(Path(scratch) / "cache")
        network = measure_network(options.repeats)
        rows = []
        for kind, paths in write_photos(Path(scratch), originals).items():
            found = measure_kind(paths, options.repeats)
            spent = found["decode ms"] or 0.0
            rows.append(
                {
                    "kind": kind,
                    **found,
                    "network ms": network,
                    "decoding's part": spent / (spent + network),
                }
            )
            print(rows[-1], flush=True)
    save_rows("decoding", rows, options, is_full=options.photos >= 3)


if __name__ == "__main__":
    main()
