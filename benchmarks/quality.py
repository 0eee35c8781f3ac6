"""How often are photos called blurred, dark or blank: as they are, blurred, and darkened?

    HEADSTART_TEST_PHOTOS=... python benchmarks/quality.py [--photos 200]

A sample of each set of photos is judged as it is, after a Gaussian blur whose standard deviation is
a share of the shorter side, and with less light. The limit for blur is that of the set as it is.
Where all photos are soft (cifar: 32 pixels), only those that are softer still stand out.
"""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import photos as photo_sets
from measure import make_parser, save_rows
from PIL import Image, ImageFilter

from headstart.data.decode import decode_photo
from headstart.data.quality import measure_quality
from headstart.data.scan import Sample
from headstart.training.examine import find_poor

SETS = {
    "clothing": "clothing/train",
    "ants-bees": "ants-bees/train",
    "imagenet-sample": "imagenet-sample",
    "cifar": "cifar/train",
}
# Side of the pixels that a network sees, and that are measured.
IMAGE_SIZE = 224
BLURS, LIGHTS = (0.005, 0.01, 0.02, 0.04), (0.5, 0.2)


def change(image: Image.Image, blur: float, light: float) -> bytes:
    """The photo as JPEG, blurred and darkened."""
    if blur:
        image = image.filter(ImageFilter.GaussianBlur(blur * min(image.size)))
    if light != 1:
        image = Image.fromarray((np.asarray(image) * light).astype(np.uint8))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90)
    return stream.getvalue()


def judge(figures: Any, usual: Any) -> Counter[str]:
    """Findings by kind among photos, in a set of as many others that are as usual."""
    together = np.concatenate([usual, usual, figures])
    samples = [Sample(Path(str(row)), "", str(row)) for row in range(len(together))]
    first = 2 * len(usual)
    return Counter(
        finding.kind for finding in find_poor(samples, together) if int(str(finding.path)) >= first
    )


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0], has_repeats=False)
    parser.add_argument("--photos", type=int, default=200)
    options = parser.parse_args()
    rows = []
    for name, folder in SETS.items():
        paths = sorted(p for p in (photo_sets.data_root() / folder).rglob("*") if p.is_file())
        order = np.random.default_rng(0).permutation(len(paths))[: options.photos]
        images = [Image.open(paths[number]).convert("RGB") for number in order]
        usual = None
        for blur, light in ((0, 1), *((b, 1) for b in BLURS), *((0, v) for v in LIGHTS)):
            changed = [change(image, blur, light) for image in images]
            pixels = [decode_photo(photo, IMAGE_SIZE) for photo in changed]
            figures = measure_quality(np.stack(pixels))
            usual = figures if usual is None else usual
            found = judge(figures, usual)
            shares = {kind: found[kind] / len(images) for kind in ("blurred", "dark", "blank")}
            rows.append(
                {
                    "photos": name,
                    "blur, share of the side": blur,
                    "light": light,
                    "count": len(images),
                    **shares,
                    "blur measured, median": float(np.median(figures[:, 0])),
                    "99th percentile": float(np.percentile(figures[:, 0], 99)),
                }
            )
    save_rows("quality", rows, options)


if __name__ == "__main__":
    main()
