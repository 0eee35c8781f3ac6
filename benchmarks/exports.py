"""Do exports predict what their bundle does, on photos of odd sizes, kinds and orientations?

    HEADSTART_TEST_PHOTOS=... python benchmarks/exports.py [--networks efficientnet-lite0 ...]

Heads are fitted on 30 photos of each kind of clothes, and on the photos to compare on, until at
least 90 % of the former are answered rightly: a flat softmax would prove nothing.
EfficientNet-Lite0 is fine-tuned, and also comes as a SavedModel of Hub's kind. The networks of
Keras have random weights, of which the product's own head answers little; then one with a weaker
penalty takes its place, which is also fitted to the same photos resized in three other ways: with
random weights small differences of pixels decide, and two good ways to decode and resize never
give the same pixels. VGG16 sees 112 pixels, to be done in minutes. The photos to compare on are
test photos of clothing, cut to odd sizes from 60 to 900 pixels and stored in the eight EXIF
orientations, and the examples of EXIF orientations, so that the first 100 of all in random order
are compared. Beside each export, three twins with a usual mistake are judged by the same check:
colours in the wrong order, the whole photo squashed without a filter, the temperature left out.
"""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import photos as photo_sets
from measure import make_parser, save_rows
from PIL import Image, ImageOps

from headstart import ImageClassifier
from headstart.bundle import GRAPH, WEIGHTS, Bundle, dump_arrays, parse_arrays
from headstart.data.decode import decode_photo
from headstart.errors import HeadstartError
from headstart.export import EXPORTERS, get_exporter
from headstart.export.parity import find_faults, measure_parity
from headstart.exports import Exporting
from headstart.recipe import choose_recipe
from headstart.runtimes.onnx_runtime import open_outputs

NETWORKS = ("efficientnet-lite0", "keras:mobilenet_v2", "keras:vgg16", "hub")
PER_CLASS, TWINS = 30, 20
# Least accuracy on the training photos; sides of the photos in pixels.
FITTED, SIZES = 0.9, {"keras:vgg16": 112}


def train(name: str, folder: Path, photos: Path) -> tuple[ImageClassifier, float]:
    """A classifier whose head fits its training photos, and its accuracy on them."""
    root = photo_sets.data_root() / "clothing" / "train"
    paths = [p for folder in sorted(root.iterdir()) for p in sorted(folder.iterdir())[:PER_CLASS]]
    labels = [path.parent.name for path in paths]
    recipe: Any = "probe"
    if name == "efficientnet-lite0":
        # Nothing held out: what is judged is the export, not whether tuning helps.
        settings = {"epochs": 5, "views": 2, "learning_rate": 1e-4, "holdout": 0.0}
        recipe = choose_recipe("tune", unfreeze="last_block", **settings)
        backbone: Any = name
    elif name == "hub":
        backbone = f"hub:{save_hub(folder)}"
    else:
        from headstart import load_backbone

        backbone = load_backbone(name, weights=None, image_size=SIZES.get(name))
        settle(backbone, paths[::5])
    # The photos to compare on are known, too, so that there are reasons for their answers.
    odd = sorted(photos.glob("*/*"))
    known, names = [*paths, *odd], [*labels, *(path.parent.name for path in odd)]
    found = ImageClassifier(backbone, recipe=recipe).fit(known, names)
    if recipe != "probe" and not found.bundle.manifest["fine_tune"]["share"]:
        raise SystemExit(f"{name} is not fine-tuned: the probe was kept.")
    accuracy = found.score(paths, labels)
    if accuracy < FITTED:
        fit_head(found, known, names)
        accuracy = found.score(paths, labels)
    print(f"{name}: training accuracy {accuracy:.3f}", flush=True)
    if accuracy < FITTED:
        raise SystemExit(
            f"The head of {name} fits {accuracy:.1%} of its photos: it proves nothing."
        )
    return found, accuracy


def settle(backbone: Any, paths: list[Path]) -> None:
    """Let a network of random weights tell photos apart by more than single pixels.

    Its depthwise kernels become blurs, and its normalisations get the statistics of photos: as
    random weights come, deep layers give the same for all photos but for their finest details.
    """
    from keras.layers import BatchNormalization, DepthwiseConv2D

    norms = [layer for layer in backbone.layers if isinstance(layer, BatchNormalization)]
    for layer in backbone.layers:
        if isinstance(layer, DepthwiseConv2D):
            layer.kernel.assign(np.abs(layer.kernel.numpy()))
    kept = [norm.momentum for norm in norms]
    backbone.trainable = True  # frozen, it would use the statistics that it has
    for norm in norms:
        norm.momentum = 0.0
    backbone(np.stack(_read_all(paths, backbone.input_shape[1], None)), training=True)
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum
    backbone.trainable = False


def save_hub(folder: Path) -> Path:
    """EfficientNet-Lite0 as the SavedModel that another tool would make of it."""
    import keras

    from headstart import load_backbone

    backbone = load_backbone("efficientnet-lite0")
    scaling = backbone.layers[1].get_config()  # of values from 0 to 255; Hub's are from 0 to 1
    photos = keras.Input(backbone.input_shape[1:])
    network = keras.Model(backbone.layers[1].output, backbone.output)
    scaled = keras.layers.Rescaling(255 * scaling["scale"], scaling["offset"])(photos)
    keras.Model(photos, network(scaled)).export(folder / "saved-model", verbose=False)
    return folder / "saved-model"


def fit_head(classifier: ImageClassifier, paths: list[Path], labels: list[str]) -> None:
    """Put the head with the strongest penalty into the bundle that fits 99 % of the photos."""
    import onnx
    from onnx import numpy_helper
    from sklearn.linear_model import LogisticRegression

    bundle = classifier.bundle
    squares = [square for read in READINGS for square in _read_all(paths, bundle.image_size, read)]
    labels = labels * len(READINGS)
    run = open_outputs(bundle.members[GRAPH], ("features",))
    features = np.concatenate([run(square[None])[0] for square in squares]).astype(np.float64)
    mean, deviation = features.mean(0), features.std(0)
    deviation = np.maximum(deviation, np.median(deviation))  # as the product's own
    rows = (features - mean) / deviation
    for strength in 10.0 ** np.arange(-5, 4, 0.5):
        head = LogisticRegression(C=strength, max_iter=3000).fit(rows, labels)
        if head.score(rows, labels) >= 0.99:
            break
    kernel = (head.coef_ / deviation).T.astype(np.float32)
    bias = (head.intercept_ - (mean / deviation) @ head.coef_.T).astype(np.float32)
    arrays = {**parse_arrays(bundle.members[WEIGHTS]), "head/kernel": kernel, "head/bias": bias}
    graph = onnx.load_from_string(bundle.members[GRAPH])
    for array in graph.graph.initializer:
        if array.name.startswith("head/"):
            array.CopyFrom(numpy_helper.from_array(arrays[array.name], array.name))
    members = {GRAPH: graph.SerializeToString(), WEIGHTS: dump_arrays(arrays)}
    classifier._bundle = Bundle({**bundle.manifest, "trust": None}, members)
    classifier._predictor = None


# Decoding as the product does, and the central square by other filters.
_WAYS = Image.Resampling
READINGS = (None, _WAYS.HAMMING, _WAYS.BILINEAR, _WAYS.BICUBIC)


def _read_all(paths: list[Path], size: int, filter_: Image.Resampling | None) -> list[Any]:
    """``(size, size, 3)`` uint8 of each photo; a filter takes the place of the product's."""
    if filter_ is None:
        return [decode_photo(path.read_bytes(), size) for path in paths]
    squares = []
    for path in paths:
        with Image.open(path) as opened:
            upright = ImageOps.exif_transpose(opened).convert("RGB")
        squares.append(np.asarray(ImageOps.fit(upright, (size, size), filter_)))
    return squares


def gather(folder: Path) -> Path:
    """The photos to compare on: one folder per class, and one of photos of anything."""
    root, target = photo_sets.data_root(), folder / "photos"
    rng = np.random.default_rng(0)
    for number, path in enumerate(sorted((root / "clothing" / "test").glob("*/*"))[::4]):
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        sides = [int(rng.integers(60, 900)) for _ in range(2)]
        orientation = number % 8 + 1
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = image.resize(sides).transpose(WAYS[orientation]) if orientation > 1 else image
        place = target / path.parent.name / f"{number:03d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        stored.save(place, quality=92, exif=exif)
    (target / "any").mkdir()
    for path in (root / "odd-images" / "valid-odd" / "exif-orientation").iterdir():
        (target / "any" / path.name).symlink_to(path.resolve())
    return target


# What a photo is stored as, so that its orientation turns it upright again.
WAYS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


class Remembering:
    """An export that computes no square twice: its twins are asked for the same ones."""

    def __init__(self, runner: Any) -> None:
        self.runner, self.known = runner, {}

    def run_squares(self, squares: Any) -> Any:
        """Probabilities."""
        for square in squares:
            if square.tobytes() not in self.known:
                self.known[square.tobytes()] = self.runner.run_squares(square[None])[0]
        return np.stack([self.known[square.tobytes()] for square in squares])


class Twin:
    """An export with a mistake."""

    def __init__(self, runner: Any, mistake: str, size: int, heat: float) -> None:
        self.runner, self.mistake, self.size, self.heat = runner, mistake, size, heat

    def run_squares(self, squares: Any) -> Any:
        """Probabilities, with the mistake."""
        rows = self.runner.run_squares(
            squares[..., ::-1].copy() if self.mistake == "colour order" else squares
        )
        if self.mistake != "temperature":
            return rows
        heated = np.asarray(rows, np.float64) ** self.heat
        return heated / heated.sum(1, keepdims=True)

    def run_files(self, contents: Any) -> Any:
        """Likewise, from files."""
        if self.mistake == "resize":
            images = [Image.open(io.BytesIO(c)).convert("RGB") for c in contents]
            sides = (self.size, self.size)
            pixels = [np.asarray(i.resize(sides, Image.Resampling.NEAREST)) for i in images]
        else:
            pixels = [decode_photo(content, self.size) for content in contents]
        return list(self.run_squares(np.stack(pixels)))


def judge_twins(exporting: Exporting, name: str) -> dict[str, str]:
    """Whether each mistake is refused."""
    exporter, bundle = get_exporter(name), exporting.bundle
    runner = Remembering(exporter.open(exporting.folder / f"{exporting.name}{exporter.suffix}"))
    trust = bundle.manifest.get("trust") or {}
    heat = float(trust.get("temperature") or 1.5)
    heat = heat if abs(heat - 1) > 0.05 else 1.5  # else it would hardly be missed
    answers = {}
    for mistake in ("colour order", "resize", "temperature"):
        twin = Twin(runner, mistake, bundle.image_size, heat)
        parity = measure_parity(exporting._original, twin, most=TWINS)
        answers[f"twin: {mistake}"] = (
            "refused" if find_faults(parity, exporter.tolerance) else "accepted"
        )
    return answers


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0], has_repeats=False)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        photos = gather(Path(folder))
        for network in options.networks:
            classifier, accuracy = train(network, Path(folder), photos)
            target = Path(folder) / network.replace(":", "-")
            exporting = Exporting(
                classifier.bundle, target, photos=photos, known=classifier._trained_backbone
            )
            for name in EXPORTERS:
                try:
                    found = exporting.write(name).to_json()
                except HeadstartError as error:
                    why = str(error).replace(folder, "FOLDER")
                    rows.append({"network": network, "format": name, "refused": why})
                    print(f"{network}, {name}: {error}", flush=True)
                    continue
                parity = found["parity"]
                is_float = EXPORTERS[name].tolerance is not None
                rows.append(
                    {
                        "network": network,
                        "format": name,
                        "refused": "",
                        "training accuracy": accuracy,
                        "MB": found["bytes"] / 1e6,
                        "photos": parity["pixels"]["photos"],
                        "pixels: largest": parity["pixels"]["largest"],
                        "pixels: mean": parity["pixels"]["mean"],
                        "pixels: changed": parity["pixels"]["changed"],
                        "files: largest": parity["files"]["largest"],
                        "files: mean": parity["files"]["mean"],
                        "files: changed": parity["files"]["changed"],
                        "files: unread": parity["files"]["unread"],
                        "ms": parity["milliseconds"],
                        "bundle ms": parity["bundle_milliseconds"],
                        **(judge_twins(exporting, name) if is_float else {}),
                    }
                )
                print(json.dumps(rows[-1]), flush=True)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    rows = [{key: row.get(key, "") for key in columns} for row in rows]
    save_rows("exports", rows, options, is_full=tuple(options.networks) == NETWORKS)


if __name__ == "__main__":
    main()
