"""EfficientNet-Lite as a Keras 3 functional model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headstart.models.efficientnet_lite.architecture import (
    EPSILON,
    PIXEL_MEAN,
    PIXEL_SCALE,
    VARIANTS,
    emit,
)

if TYPE_CHECKING:
    import keras


class _KerasEmitter:
    def __init__(self) -> None:
        from keras import layers

        self._layers = layers

    def preprocess(self, photos: Any) -> Any:
        rescaling = self._layers.Rescaling(
            1 / PIXEL_SCALE, offset=-PIXEL_MEAN / PIXEL_SCALE, name="preprocessing"
        )
        return rescaling(photos)

    def conv(self, x: Any, filters: int, kernel: int, stride: int, name: str) -> Any:
        return self._layers.Conv2D(
            filters, kernel, stride, padding="same", use_bias=False, name=name
        )(x)

    def depthwise(self, x: Any, kernel: int, stride: int, name: str) -> Any:
        return self._layers.DepthwiseConv2D(
            kernel, stride, padding="same", use_bias=False, name=name
        )(x)

    def norm(self, x: Any, name: str) -> Any:
        return self._layers.BatchNormalization(epsilon=EPSILON, name=name)(x)

    def relu6(self, x: Any, name: str) -> Any:
        return self._layers.ReLU(max_value=6.0, name=name)(x)

    def add(self, x: Any, y: Any, name: str) -> Any:
        return self._layers.Add(name=name)([x, y])

    def channels(self, x: Any) -> int:
        return int(x.shape[-1])


def build_efficientnet_lite(
    name: str, image_size: int | None = None, num_classes: int | None = None
) -> keras.Model:
    """The network with random weights: 0-255 RGB photos in, the last feature map out.

    Args:
        name: A key of `VARIANTS`, such as ``"efficientnet-lite0"``.
        image_size: Side of the square input in pixels; the variant's own by default.
        num_classes: With a number, global pooling and a Dense classifier (logits) follow, as in
            the published 1000-class network; by default the top is left out.

    Returns:
        A functional model: ``(batch, size, size, 3)`` → ``(batch, ⌈size/32⌉, ⌈size/32⌉, 1280)``,
        or ``(batch, num_classes)``.
    """
    from keras import Input, Model, layers

    variant = VARIANTS[name]
    size = image_size or variant.image_size
    photos = Input((size, size, 3), name="photos")
    x = emit(variant, _KerasEmitter(), photos)
    if num_classes is not None:
        x = layers.GlobalAveragePooling2D(name="pooling")(x)
        x = layers.Dense(num_classes, name="classifier")(x)
    return Model(photos, x, name=name.replace("-", "_"))
