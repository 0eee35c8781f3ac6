"""The usual Keras transfer-learning script, as tutorials and model answers write it.

Frozen backbone inside the model, called with ``training=False``; global pooling, dropout 0.2, a
softmax; Adam at 1e-3 for 10 epochs; `cache()` and `prefetch()` so that photos are decoded once.
The backbone and its weights are the same as ours, so that the scripts differ in method only. There
is no validation pass per epoch, which many such scripts have and which would make it slower.

    python keras_script.py PHOTOS PROBABILITIES.npz      PHOTOS has train/CLASS and test/CLASS
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np


def load_photos(folder: Path, *, shuffle: bool) -> Any:
    """A dataset of ``(photos, labels)`` batches."""
    import keras

    return keras.utils.image_dataset_from_directory(
        folder, image_size=(224, 224), batch_size=32, shuffle=shuffle, seed=0, verbose=False
    )


def true_labels(dataset: Any) -> np.ndarray:
    """Class numbers of an unshuffled dataset, by its folders."""
    return np.array([dataset.class_names.index(Path(p).parent.name) for p in dataset.file_paths])


def build_model(num_classes: int) -> Any:
    import keras

    import headstart

    backbone = headstart.load_backbone("efficientnet-lite0")
    backbone.trainable = False
    photos = keras.Input((224, 224, 3))
    x = backbone(photos, training=False)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dropout(0.2)(x)
    model = keras.Model(photos, keras.layers.Dense(num_classes, activation="softmax")(x))
    model.compile(
        keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("probabilities", type=Path)
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    start = time.perf_counter()
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    train = load_photos(options.photos / "train", shuffle=True)
    test = load_photos(options.photos / "test", shuffle=False)
    model = build_model(len(train.class_names))
    # Shuffled again every epoch, after the cache, as the TensorFlow tutorials do.
    ready = train.cache().shuffle(len(train)).prefetch(tf.data.AUTOTUNE)
    model.fit(ready, epochs=options.epochs, verbose=0)
    probabilities = model.predict(test.prefetch(tf.data.AUTOTUNE), verbose=0)
    np.savez(
        options.probabilities,
        paths=np.array(test.file_paths),
        class_names=np.array(test.class_names),
        probabilities=probabilities,
    )
    accuracy = float((probabilities.argmax(1) == true_labels(test)).mean())
    print(json.dumps({"accuracy": accuracy, "seconds": {"total": time.perf_counter() - start}}))


if __name__ == "__main__":
    main()
