"""The catalogue of backbones: a literal table of frozen records."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from headstart.errors import BackboneError, did_you_mean
from headstart.models.efficientnet_lite.architecture import TOP_FILTERS, VARIANTS


@dataclass(frozen=True)
class BackboneSpec:
    """What is known of a backbone before it is loaded.

    Attributes:
        name: As the user writes it.
        image_size: Side of the square photo in pixels.
        feature_count: Length of the pooled feature vector.
        parameters: Without the top, statistics of the normalisation included.
        multiply_adds: Of the convolutions, per photo at ``image_size``, without the top.
        licence: SPDX name of the weights' licence.
        package: The installed package that holds the weights.
        extra: The extra of Headstart that installs the package.
        weights_digest: sha256 of the packaged weights file.
        imagenet_top1: Top-1 accuracy on the ImageNet validation set as published.
    """

    name: str
    image_size: int
    feature_count: int
    parameters: int
    multiply_adds: int
    licence: str
    package: str
    extra: str
    weights_digest: str
    imagenet_top1: float

    @property
    def is_ready(self) -> bool:
        """Whether the weights are on this machine."""
        return importlib.util.find_spec(self.package) is not None


def _lite(name: str, extra: str, parameters: int, multiply_adds: int, top1: float) -> BackboneSpec:
    variant = VARIANTS[name]
    return BackboneSpec(
        name=name,
        image_size=variant.image_size,
        feature_count=TOP_FILTERS,
        parameters=parameters,
        multiply_adds=multiply_adds,
        licence="Apache-2.0",
        package=variant.package,
        extra=extra,
        weights_digest=variant.sha256,
        imagenet_top1=top1,
    )


# Parameters and multiply-adds are counted from the graph by a test; top-1 is from
# https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite.
BACKBONES: dict[str, BackboneSpec] = {
    spec.name: spec
    for spec in (
        _lite("efficientnet-lite0", "cpu", 3_413_024, 383_907_552, 0.751),
        _lite("efficientnet-lite1", "lite", 4_189_344, 598_905_232, 0.767),
        _lite("efficientnet-lite2", "lite", 4_869_168, 858_456_272, 0.776),
    )
}

DEFAULT_BACKBONE = "efficientnet-lite0"


def get_backbone(name: str) -> BackboneSpec:
    """The record of a backbone.

    >>> get_backbone("efficientnet-lite0").image_size
    224

    Raises:
        BackboneError: The name is unknown; the message has the nearest known ones.
    """
    if name not in BACKBONES:
        raise BackboneError(
            f"{name!r} is not a known backbone.{did_you_mean(name, BACKBONES)} "
            f"Known: {', '.join(BACKBONES)}. See: headstart backbones"
        )
    return BACKBONES[name]
