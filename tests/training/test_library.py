"""`fine_tune`, `make_dataset`, `attach_head` with ``unfreeze``: the steps for one's own code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import headstart
from headstart.data.decode import decode_photo
from headstart.errors import BoundaryError, DatasetError


@pytest.fixture(scope="module")
def own() -> keras.Model:
    keras.utils.set_random_seed(0)
    x = photos = keras.Input((48, 48, 3))
    x = keras.layers.Rescaling(1 / 255)(x)
    for block in (1, 2, 3):
        x = keras.layers.Conv2D(8 * block, 3, 2, "same", name=f"block{block}_conv")(x)
        x = keras.layers.ReLU(name=f"block{block}_relu")(x)
    return keras.Model(photos, x, name="own")


def test_fine_tune_gives_a_plain_model_and_leaves_the_backbone(
    own: keras.Model, digits_folder: Path
) -> None:
    before = [w.copy() for w in own.get_weights()]
    seen: list[Any] = []
    result = headstart.fine_tune(
        own,
        digits_folder,
        unfreeze="block3",
        epochs=30,
        holdout=0.0,
        views=1,
        learning_rate=1e-2,
        dropout=0.0,
        mixup=0.0,
        callbacks=[seen.append],
    )
    assert all((a == b).all() for a, b in zip(before, own.get_weights(), strict=True))
    assert result.class_names == ("0", "1", "2", "3")
    assert len(seen) == 30
    assert result.tuning.share == 1
    paths = sorted(digits_folder.glob("*/*.png"))
    pixels = np.stack([decode_photo(p.read_bytes(), 48) for p in paths]).astype(np.float32)
    truth = [int(path.parent.name) for path in paths]
    answers = result.model.predict(pixels, verbose=0).argmax(1)
    assert (answers == truth).mean() > 0.9
    with pytest.raises(BoundaryError, match="leaves nothing to fine-tune"):
        headstart.fine_tune(own, digits_folder, unfreeze="none")


QUICK: dict[str, Any] = {
    "unfreeze": "block3",
    "epochs": 2,
    "holdout": 0.0,
    "views": 1,
    "learning_rate": 1e-3,
}


def test_photos_may_be_given_one_by_one_or_as_a_dataset(
    own: keras.Model, digits_folder: Path
) -> None:
    import tensorflow as tf

    paths = sorted(digits_folder.glob("*/*.png"))
    labels = [path.parent.name for path in paths]
    pixels = np.stack([decode_photo(path.read_bytes(), 64) for path in paths])
    from_paths = headstart.fine_tune(own, paths, labels, **QUICK)
    from_arrays = headstart.fine_tune(own, list(pixels), labels, **QUICK)
    dataset = tf.data.Dataset.from_tensor_slices((pixels, np.array(labels, np.bytes_))).batch(7)
    from_dataset = headstart.fine_tune(own, dataset, **QUICK)
    assert from_paths.class_names == from_arrays.class_names == from_dataset.class_names
    one, same = from_arrays.model.get_weights(), from_dataset.model.get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    with pytest.raises(DatasetError, match="each photo needs one"):
        headstart.fine_tune(own, paths, labels[1:], **QUICK)
    assert "kernel=" not in repr(from_paths), "no weights are printed"
    assert len(repr(from_paths)) < 2000
    batches = list(headstart.make_dataset(own, list(pixels), "block2_relu", labels=labels))
    assert sum(len(truth) for _, truth in batches) == len(paths)


@pytest.mark.parametrize("mode", ["int", "categorical"])
def test_a_dataset_of_keras_keeps_its_class_names(digits_folder: Path, mode: str) -> None:
    import keras

    dataset = keras.utils.image_dataset_from_directory(
        digits_folder, label_mode=mode, image_size=(32, 32), verbose=False
    )
    dataset.class_names = [f"digit {name}" for name in dataset.class_names]
    classifier = headstart.ImageClassifier().fit(dataset)
    assert classifier.classes_.tolist() == [f"digit {number}" for number in range(4)]
    dataset.class_names = dataset.class_names[:2]
    with pytest.raises(DatasetError, match=r"has a label [23], and 2 class_names"):
        headstart.ImageClassifier().fit(dataset)


def test_a_loop_of_ones_own_trains_from_the_dataset(own: keras.Model, digits_folder: Path) -> None:
    backbone = keras.models.clone_model(own)
    backbone.set_weights(own.get_weights())
    _, suffix = headstart.cut(backbone, "block2_relu")
    dataset = headstart.make_dataset(backbone, digits_folder, "block2_relu", views=2, batch_size=16)
    passes = [list(dataset.as_numpy_iterator()) for _ in range(2)]
    assert [len(labels) for _, labels in passes[0]] == [16] * 5
    assert passes[0][0][0].shape == (16, 12, 12, 16)
    assert not np.array_equal(passes[0][0][1], passes[1][0][1]), "another order"
    assert sorted(np.concatenate([y for _, y in passes[0]])) == sorted([0, 1, 2, 3] * 20)
    total = [np.concatenate([x for x, _ in found]).sum(0) for found in passes]
    assert not np.allclose(total[0], total[1]), "another view"
    x = keras.layers.GlobalAveragePooling2D()(suffix.output)
    model = keras.Model(suffix.input, keras.layers.Dense(4, activation="softmax")(x))
    model.compile(
        keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    history = model.fit(dataset, epochs=30, shuffle=False, verbose=0).history
    assert history["accuracy"][-1] > max(0.6, history["accuracy"][0] + 0.2)
    moved = np.abs(backbone.get_layer("block3_conv").kernel - own.get_layer("block3_conv").kernel)
    assert np.asarray(moved).max() > 0, "training the suffix trains the backbone"


def test_attach_head_unfreezes_what_is_asked_for(own: keras.Model) -> None:
    backbone = keras.models.clone_model(own)
    model = headstart.attach_head(backbone, 3, unfreeze="block3")
    names = {variable.path.split("/")[-2] for variable in model.trainable_variables}
    assert names == {"block3_conv", "head"}
    assert len(headstart.attach_head(backbone, 3, unfreeze=0).trainable_variables) == 2
    with pytest.raises(BoundaryError, match="Did you mean block3"):
        headstart.attach_head(backbone, 3, unfreeze="blok3")
