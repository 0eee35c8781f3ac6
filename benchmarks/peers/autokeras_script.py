"""AutoKeras with its defaults, one trial: its own search space, without pretrained weights.

    python autokeras_script.py FOLDER [--trials 1] [--epochs 10]

FOLDER has train/CLASS and test/CLASS. To run it: ``pip install autokeras "keras<3.13" tensorflow
tensorboard`` in an environment of its own (AutoKeras 3.0.0 gives layers sizes that Keras 3.15
refuses, and needs TensorBoard without saying so). With more trials it searches longer; pretrained
networks, which its space has, too, would be downloaded.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np


def load(folder: Path) -> tuple[Any, Any, list[str]]:
    """``(photo, 224, 224, 3)``, class numbers, class names."""
    import keras

    found = keras.utils.image_dataset_from_directory(
        folder, image_size=(224, 224), batch_size=32, shuffle=False, verbose=False
    )
    photos, labels = zip(*((x.numpy(), y.numpy()) for x, y in found), strict=True)
    return np.concatenate(photos), np.concatenate(labels), found.class_names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trials", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    start = time.perf_counter()
    import autokeras
    import tensorflow as tf

    photos, labels, _ = load(options.folder / "train")
    order = np.random.default_rng(0).permutation(len(labels))
    tested, truth, _ = load(options.folder / "test")
    with tempfile.TemporaryDirectory() as scratch:
        model = autokeras.ImageClassifier(
            max_trials=options.trials, directory=scratch, overwrite=True, seed=0
        )
        model.fit(photos[order], labels[order], epochs=options.epochs, verbose=0)
        answers = np.asarray(model.predict(tested, verbose=0)).astype(int).ravel()
    packages = ("autokeras", "keras")
    print(
        json.dumps(
            {
                "accuracy": float((answers == truth).mean()),
                "seconds": {"total": time.perf_counter() - start},
                "versions": ", ".join(
                    [
                        *(f"{name} {version(name)}" for name in packages),
                        f"tensorflow {tf.__version__}",
                    ]
                ),
            }
        )
    )


if __name__ == "__main__":
    main()
