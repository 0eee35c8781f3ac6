"""Writes a bundle of the present format and what it answers; run once per format number.

    python tests/golden/make_bundle.py

Files of earlier formats stay: every later version has to read them.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import keras
import numpy as np
from PIL import Image

from headstart import ImageClassifier
from headstart.bundle import FORMAT
from headstart.predictor import Predictor

HERE = Path(__file__).parent


def draw(number: int) -> np.ndarray:
    """Photo ``number``: a disc or a square, which needs no file."""
    rng = np.random.default_rng(number)
    photo = np.full((40, 56, 3), 90) + rng.integers(-60, 60, (40, 56, 3))
    rows, columns = np.mgrid[:40, :56]
    down, right = rng.integers(14, 26), rng.integers(18, 38)
    distance = np.hypot(rows - down, columns - right)
    if number % 2:
        distance = np.maximum(abs(rows - down), abs(columns - right))
    noise = rng.integers(-60, 60, 3)
    photo[distance < 9] = (170, 110, 80) if number % 2 else (120, 110, 130)
    photo[distance < 9] += noise
    return np.clip(photo, 0, 255).astype(np.uint8)


def main() -> None:
    keras.utils.set_random_seed(0)
    photos = keras.Input((24, 24, 3))
    x = keras.layers.Rescaling(1 / 127.5, -1)(photos)
    for filters in (8, 12):
        x = keras.layers.Conv2D(filters, 3, 2, "same", activation="relu")(x)
    # Classification, and its small variant, have format 1; other tasks have format 2.
    write(keras.Model(photos, x, name="golden"), f"format{FORMAT}")


def write(backbone: str | keras.Model, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows = ["path,label"]
        for number in range(80):
            Image.fromarray(draw(number)).save(Path(folder) / f"{number}.png")
            rows.append(f'{number}.png,"{"square" if number % 2 else "disc, ölig"}"')
        table = Path(folder) / "photos.csv"
        table.write_text("\n".join(rows))
        classifier = ImageClassifier(backbone, task="multilabel").fit(table)
    path = classifier.save(HERE / f"{name}.headstart", force=True)
    answers = [
        {
            "label": said.label,
            "probabilities": [round(float(value), 6) for value in said.probabilities],
            "set": list(said.prediction_set or ()),
            "is_sure": said.is_sure,
            "novelty": None if said.novelty is None else round(said.novelty, 4),
        }
        for said in Predictor(path).predict([draw(number) for number in range(100, 106)])
    ]
    (HERE / f"{name}.json").write_text(json.dumps(answers, indent=1) + "\n")


if __name__ == "__main__":
    main()
