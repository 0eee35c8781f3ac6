"""What a network needs done to 0-255 RGB pixels, as layers of its graph.

`PREPROCESSING` names the conventions of the field. Whatever is needed is in the graph of every
backbone, once: whoever feeds one feeds 0-255 RGB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.errors import BackboneError, did_you_mean

if TYPE_CHECKING:
    import numpy.typing as npt

Triple = tuple[float, float, float]

# Means and deviations of ImageNet's pixels, as the authors of each family published them.
_MEAN: Triple = (0.485, 0.456, 0.406)
_DEVIATION: Triple = (0.229, 0.224, 0.225)
_CAFFE_MEAN: Triple = (103.939, 116.779, 123.68)  # blue, green, red


@dataclass(frozen=True)
class Preprocessing:
    """``scale * pixel + offset`` per channel, after the channels are put in order.

    Attributes:
        name: As the user writes it.
        scale: Per channel.
        offset: Per channel.
        is_bgr: Whether the channels are turned to blue, green, red first.
    """

    name: str
    scale: Triple
    offset: Triple
    is_bgr: bool = False

    def __call__(self, photos: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """What reaches the first convolution.

        >>> PREPROCESSING["tf"](np.array([0, 127.5, 255]))
        array([-1.,  0.,  1.], dtype=float32)

        Args:
            photos: ``(..., 3)`` RGB, 0-255.
        """
        pixels = np.asarray(photos, np.float32)
        ordered = pixels[..., ::-1] if self.is_bgr else pixels
        result = ordered * np.asarray(self.scale, np.float32) + np.asarray(self.offset, np.float32)
        return result.astype(np.float32)


def _uniform(value: float) -> Triple:
    return (value, value, value)


PREPROCESSING: dict[str, Preprocessing] = {
    kind.name: kind
    for kind in (
        Preprocessing("none", _uniform(1.0), _uniform(0.0)),
        # 0 to 1: TensorFlow Hub's convention.
        Preprocessing("unit", _uniform(1 / 255), _uniform(0.0)),
        # -1 to 1: Inception, MobileNet.
        Preprocessing("tf", _uniform(1 / 127.5), _uniform(-1.0)),
        # EfficientNetV2 S, M and L: by 128, so that white is 0.992.
        Preprocessing("tf128", _uniform(1 / 128), _uniform(-1.0)),
        # EfficientNet-Lite.
        Preprocessing("lite", _uniform(1 / 128), _uniform(-127 / 128)),
        # Mean and deviation of ImageNet: DenseNet, EfficientNet, ConvNeXt.
        Preprocessing(
            "torch",
            (1 / (255 * _DEVIATION[0]), 1 / (255 * _DEVIATION[1]), 1 / (255 * _DEVIATION[2])),
            (-_MEAN[0] / _DEVIATION[0], -_MEAN[1] / _DEVIATION[1], -_MEAN[2] / _DEVIATION[2]),
        ),
        # Blue, green, red, minus the mean, not scaled: VGG, ResNet.
        Preprocessing(
            "caffe",
            _uniform(1.0),
            (-_CAFFE_MEAN[0], -_CAFFE_MEAN[1], -_CAFFE_MEAN[2]),
            is_bgr=True,
        ),
    )
}


def get_preprocessing(name: str) -> Preprocessing:
    """The convention of a name.

    Raises:
        BackboneError: It is unknown; the message has the known ones.
    """
    if name not in PREPROCESSING:
        raise BackboneError(
            f"preprocessing={name!r} is not known.{did_you_mean(name, PREPROCESSING)} "
            f"Accepted: {', '.join(PREPROCESSING)}."
        )
    return PREPROCESSING[name]


def preprocess(photos: Any, kind: Preprocessing) -> Any:
    """Keras layers from 0-255 RGB photos to what the network expects.

    Standard, serialisable layers without weights: a `Rescaling` named ``preprocessing``, and before
    it, where the order is blue, green, red, Keras's `take` along the channels. ``"none"`` adds
    nothing.

    Args:
        photos: A Keras tensor ``(batch, height, width, 3)``.
        kind: What to apply.
    """
    from keras import layers, ops

    if kind.name == "none":
        return photos
    if kind.is_bgr:
        photos = ops.take(photos, [2, 1, 0], axis=-1)
    same = len(set(kind.scale)) == len(set(kind.offset)) == 1
    scale = kind.scale[0] if same else list(kind.scale)
    offset = kind.offset[0] if same else list(kind.offset)
    return layers.Rescaling(scale, offset=offset, name="preprocessing")(photos)
