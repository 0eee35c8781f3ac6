"""The classic script of transfer learning, in plain Keras: VGG16, its last four layers unfrozen.

Usage: python examples/classic_keras.py PHOTOS [--weights none|FILE] [--image-size N] [--epochs N]
"""

import argparse

import keras

import headstart as hs


def main(
    photos: str, weights: str | None = "imagenet", image_size: int = 224, epochs: int = 10
) -> keras.Model:
    dataset = keras.utils.image_dataset_from_directory(
        photos, image_size=(image_size, image_size), label_mode="categorical", seed=0
    )
    num_classes = len(dataset.class_names)

    base = hs.load_backbone("keras:vgg16", weights=weights, image_size=image_size)
    base.trainable = True
    for layer in base.layers[:-4]:
        layer.trainable = False
    for layer in base.layers:
        print(layer.name, layer.trainable)

    model = keras.Sequential(
        [
            base,
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(num_classes, activation="softmax"),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.RMSprop(learning_rate=1e-5),
        loss="categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(dataset, epochs=epochs)
    return model


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("photos")
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    weights = None if options.weights == "none" else options.weights
    main(options.photos, weights, options.image_size, options.epochs)
