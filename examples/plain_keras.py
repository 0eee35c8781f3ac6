"""A frozen pretrained backbone and a new head, trained by plain Keras on a tf.data dataset.

Usage: python examples/plain_keras.py PHOTOS
"""

import sys

import keras

import headstart as hs


def main(photos: str, epochs: int = 3) -> keras.Model:
    dataset = keras.utils.image_dataset_from_directory(photos, image_size=(224, 224), seed=0)
    backbone = hs.load_backbone("efficientnet-lite0")
    model = hs.attach_head(backbone, num_classes=len(dataset.class_names))
    model.compile(
        optimizer=keras.optimizers.Adam(1e-3),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(dataset.cache(), epochs=epochs)
    return model


if __name__ == "__main__":
    main(sys.argv[1])
