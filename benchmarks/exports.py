"""Do exports predict what their bundle does, on photos of odd sizes, kinds and orientations?

    HEADSTART_TEST_PHOTOS=... python benchmarks/exports.py [--networks efficientnet-lite0 ...]

Heads are fitted on 30 photos of each kind of clothes, so that all are answered confidently (a flat
softmax would prove nothing); EfficientNet-Lite0 is fine-tuned, the networks of Keras and the
SavedModel have random weights. The photos to compare on are the valid odd ones (formats, modes, EXIF
orientations, colour profiles) and photos of clothing, 100 together. Beside each export, three twins
with a usual mistake are judged by the same check: colours in the wrong order, the whole photo squashed
without a filter, the temperature left out.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import photos as photo_sets
from measure import make_parser, save_rows
from PIL import Image

from headstart import ImageClassifier
from headstart.data.decode import decode_photo
from headstart.errors import ExportError
from headstart.export import EXPORTERS, get_exporter
from headstart.export.parity import Trial, find_faults, measure_parity
from headstart.exports import Exporting
from headstart.recipe import choose_recipe

NETWORKS = ("efficientnet-lite0", "keras:mobilenet_v2", "keras:vgg16", "hub")
PER_CLASS, COMPARED = 30, 100


def train(name: str) -> ImageClassifier:
    """A classifier whose head fits its training photos."""
    root = photo_sets.data_root() / "clothing" / "train"
    paths = [p for folder in sorted(root.iterdir()) for p in sorted(folder.iterdir())[:PER_CLASS]]
    labels = [path.parent.name for path in paths]
    recipe: Any = "probe"
    if name == "efficientnet-lite0":
        recipe = choose_recipe("tune", unfreeze="last_block", epochs=5, views=2)
        backbone: Any = name
    elif name == "hub":
        sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
        from models import saved_models

        backbone = f"hub:{saved_models.reusable()}"
    else:
        from headstart import load_backbone

        backbone = load_backbone(name, weights=None)
    found = ImageClassifier(backbone, recipe=recipe).fit(paths, labels)
    print(f"{name}: training accuracy {found.score(paths, labels):.3f}", flush=True)
    return found


def gather(folder: Path) -> Path:
    """The photos to compare on, in one folder of one class."""
    root, target = photo_sets.data_root(), folder / "photos" / "any"
    target.mkdir(parents=True)
    odd = sorted(p for p in (root / "odd-images" / "valid-odd").rglob("*") if p.is_file())
    clothing = sorted((root / "clothing" / "test").glob("*/*"))
    for number, path in enumerate([*odd, *clothing[:: len(clothing) // COMPARED]]):
        (target / f"{number:03d}-{path.name}").symlink_to(path.resolve())
    return target.parent


class Twin:
    """An export with a mistake."""

    def __init__(self, runner: Any, mistake: str, size: int, heat: float) -> None:
        self.runner, self.mistake, self.size, self.heat = runner, mistake, size, heat

    def run_squares(self, squares: Any) -> Any:
        rows = self.runner.run_squares(
            squares[..., ::-1].copy() if self.mistake == "colour order" else squares
        )
        if self.mistake != "temperature":
            return rows
        heated = np.asarray(rows, np.float64) ** self.heat
        return heated / heated.sum(1, keepdims=True)

    def run_files(self, contents: Any) -> Any:
        if self.mistake == "resize":
            images = [Image.open(io.BytesIO(c)).convert("RGB") for c in contents]
            sides = (self.size, self.size)
            pixels = [np.asarray(i.resize(sides, Image.Resampling.NEAREST)) for i in images]
        else:
            pixels = [decode_photo(content, self.size) for content in contents]
        return list(self.run_squares(np.stack(pixels)))


def judge_twins(exporting: Exporting, name: str, trial: Trial) -> dict[str, str]:
    """Whether each mistake is refused."""
    exporter, bundle = get_exporter(name), exporting.bundle
    runner = exporter.open(exporting.folder / f"{exporting.name}{exporter.suffix}")
    trust = bundle.manifest.get("trust") or {}
    heat = float(trust.get("temperature") or 1.5)
    heat = heat if abs(heat - 1) > 0.05 else 1.5
    answers = {}
    for mistake in ("colour order", "resize", "temperature"):
        twin = Twin(runner, mistake, bundle.image_size, heat)
        parity = measure_parity(bundle, twin, trial, again=False)
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
            classifier = train(network)
            target = Path(folder) / network.replace(":", "-")
            exporting = Exporting(
                classifier.bundle, target, photos=photos, known=classifier._trained_backbone
            )
            for name in EXPORTERS:
                try:
                    found = exporting.write(name).to_json()
                except ExportError as error:
                    rows.append({"network": network, "format": name, "refused": str(error)})
                    continue
                parity = found["parity"]
                trial = exporting._trial
                trial = Trial(
                    trial.contents[:COMPARED], trial.squares[:COMPARED], trial.labels[:COMPARED]
                )
                is_float = EXPORTERS[name].tolerance is not None
                rows.append(
                    {
                        "network": network,
                        "format": name,
                        "refused": "",
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
                        **(judge_twins(exporting, name, trial) if is_float else {}),
                    }
                )
                print(json.dumps(rows[-1]), flush=True)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    rows = [{key: row.get(key, "") for key in columns} for row in rows]
    save_rows("exports", rows, options, is_full=tuple(options.networks) == NETWORKS)


if __name__ == "__main__":
    main()
