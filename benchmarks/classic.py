"""The classic script of transfer learning in plain Keras, beside the same in Headstart.

    HEADSTART_TEST_PHOTOS=... python benchmarks/classic.py [--image-size 64]

VGG16 with random weights (times do not depend on them), the 244 training photos of ants-bees, whole
processes, imports included. The classic script is examples/classic_keras.py: the last four layers
unfrozen, 10 epochs. Headstart: a head on the frozen backbone (the three lines of the
documentation), again with its cache, and the last four layers trained for 10 epochs, one view,
nothing held out. Small photos, because VGG16 on large ones takes the classic script an hour.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import photos as photo_sets
from measure import make_parser, run_python, save_rows

CLASSIC = Path(__file__).parent.parent / "examples" / "classic_keras.py"

FROZEN = """
import sys
import headstart as hs
print(hs.ImageClassifier(sys.argv[2]).fit(sys.argv[1]).seconds)
"""

UNFROZEN = """
import sys
import headstart as hs
from headstart.recipe import choose_recipe
recipe = choose_recipe(
    "tune", unfreeze=4, epochs=10, views=1, learning_rate=1e-5, holdout=0.0, mixup=0.0
)
print(hs.ImageClassifier(sys.argv[2], recipe=recipe).fit(sys.argv[1]).seconds)
"""


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0], has_repeats=False)
    parser.add_argument("--image-size", type=int, default=64)
    options = parser.parse_args()
    photos = photo_sets.data_root() / "ants-bees" / "train"
    name = f"keras:vgg16?weights=none&image_size={options.image_size}"
    with tempfile.TemporaryDirectory() as scratch:
        cache = Path(scratch)
        size = ("--image-size", str(options.image_size))
        classic = run_python(CLASSIC, photos, "--weights", "none", *size, cache=cache / "classic")
        runs = {
            "Headstart, frozen backbone": ("-c", FROZEN, cache / "a"),
            "the same again": ("-c", FROZEN, cache / "a"),
            "Headstart, last 4 layers, 10 epochs": ("-c", UNFROZEN, cache / "b"),
        }
        rows = [{"what": "classic script, 10 epochs", "seconds": classic.seconds, "times": 1.0}]
        for what, (flag, script, folder) in runs.items():
            seconds = run_python(flag, script, photos, name, cache=folder).seconds
            rows.append({"what": what, "seconds": seconds, "times": classic.seconds / seconds})
    shared = {"photos": 244, "image size": options.image_size}
    save_rows("classic", [{**row, **shared} for row in rows], options)


if __name__ == "__main__":
    main()
