"""The catalogue of backbones: a literal table of frozen records, and how a backbone is spelt."""

from __future__ import annotations

import difflib
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from headstart.errors import BackboneError, did_you_mean
from headstart.models.efficientnet_lite.architecture import TOP_FILTERS, VARIANTS
from headstart.models.keras_catalogue import ROWS, Row
from headstart.models.keras_weights import is_in_keras_cache


@dataclass(frozen=True)
class BackboneSpec:
    """What is known of a backbone before it is loaded.

    Attributes:
        name: As the user writes it.
        image_size: Side of the square photo in pixels.
        feature_count: Length of the pooled feature vector.
        parameters: Without the top, statistics of the normalisation included.
        multiply_adds: Of convolutions and dense layers, per photo at ``image_size``, without the
            top.
        licence: SPDX name of the weights' licence, or where to look.
        package: The installed package that holds the weights, or the network.
        extra: The extra of Headstart that installs the package.
        weights_digest: sha256 or MD5 of the weights file; empty where its publisher names none.
        imagenet_top1: Top-1 accuracy on the ImageNet validation set as published; None if not
            known.
        preprocessing: What reaches the first convolution; a key of `PREPROCESSING`.
        min_size: Smallest side of the photo in pixels.
        row: The network in keras.applications, if it is one.
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
    imagenet_top1: float | None
    preprocessing: str
    min_size: int = 32
    row: Row | None = field(default=None, repr=False)

    @property
    def source(self) -> str:
        """``"keras"``, or empty for the built-in ones."""
        return "keras" if self.row else ""

    @property
    def is_ready(self) -> bool:
        """Whether the weights are on this machine, with the digest that they should have."""
        has_package = importlib.util.find_spec(self.package) is not None
        return has_package and (self.row is None or is_in_keras_cache(self.row))


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
        preprocessing="lite",
    )


def _keras(name: str, row: Row) -> BackboneSpec:
    return BackboneSpec(
        name=f"keras:{name}",
        image_size=row.image_size,
        feature_count=row.feature_count,
        parameters=row.parameters,
        multiply_adds=row.multiply_adds,
        licence=row.family.licence,
        package="keras",
        extra="cpu",
        weights_digest=row.digest,
        imagenet_top1=row.top1,
        preprocessing=row.family.preprocessing,
        min_size=row.family.min_size,
        row=row,
    )


# Parameters and multiply-adds are counted from the graph by a test; top-1 is from
# https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite.
BACKBONES: dict[str, BackboneSpec] = {
    spec.name: spec
    for spec in (
        _lite("efficientnet-lite0", "cpu", 3_413_024, 383_907_552, 0.751),
        _lite("efficientnet-lite1", "lite", 4_189_344, 598_905_232, 0.767),
        _lite("efficientnet-lite2", "lite", 4_869_168, 858_456_272, 0.776),
        *(_keras(name, row) for name, row in ROWS.items()),
    )
}

DEFAULT_BACKBONE = "efficientnet-lite0"

# What may stand before the colon; without one, a name is built-in.
SOURCES = ("keras", "kerashub", "local", "hub")


@dataclass(frozen=True)
class BackboneName:
    """A name taken apart: ``SOURCE:NAME?option=value&option=value``.

    Attributes:
        source: One of `SOURCES`; empty for a built-in backbone.
        name: What follows: of a network, a preset, a file or an address.
        options: What follows the question mark.
    """

    source: str
    name: str
    options: Mapping[str, str] = field(default_factory=dict)

    def check_options(self, *accepted: str) -> None:
        """Refuse options that are not accepted.

        Raises:
            BackboneError: There is another one.
        """
        for option in self.options:
            if option not in accepted:
                raise BackboneError(
                    f"{option!r} is not an option of {self.source}: backbones."
                    f"{did_you_mean(option, accepted)} Accepted: {', '.join(accepted)}."
                )

    @property
    def image_size(self) -> int | None:
        """The option of that name, in pixels.

        Raises:
            BackboneError: It is not a whole number.
        """
        value = self.options.get("image_size")
        if value is None:
            return None
        if not re.fullmatch(r"[1-9]\d{0,4}", value):
            raise BackboneError(f"image_size={value} is not a number of pixels, such as 224.")
        return int(value)


def parse_name(name: str) -> BackboneName:
    """Take a name apart.

    >>> parse_name("keras:vgg16?weights=none&image_size=64").options
    {'weights': 'none', 'image_size': '64'}
    >>> parse_name("efficientnet-lite0")
    BackboneName(source='', name='efficientnet-lite0', options={})

    Raises:
        BackboneError: An option has no value.
    """
    source, colon, rest = name.partition(":")
    if not colon or source not in SOURCES:
        source, rest = "", name
    # An address has question marks of its own, and a file may have one in its name.
    if source == "hub" or (source in ("local", "kerashub") and Path(rest).exists()):
        return BackboneName(source, rest)
    rest, mark, text = rest.partition("?")
    options = {}
    for part in text.split("&") if mark else ():
        option, equals, value = part.partition("=")
        if not equals or not value:
            raise BackboneError(
                f"{name!r} has the option {part!r}, which is not of the form option=value."
            )
        options[option] = value
    return BackboneName(source, rest, options)


def _squash(name: str) -> str:
    return re.sub(r"[\s_.-]", "", name).lower()


# Keras's own spelling, such as keras:ResNet50V2, is understood, too.
_SPELLINGS = {
    **{_squash(name): name for name in BACKBONES},
    **{_squash(f"keras:{row.builder}"): f"keras:{name}" for name, row in ROWS.items()},
}


def get_backbone(name: str) -> BackboneSpec:
    """The record of a backbone of the catalogue.

    >>> get_backbone("efficientnet-lite0").image_size
    224
    >>> get_backbone("keras:ResNet50V2").name
    'keras:resnet50_v2'

    Raises:
        BackboneError: The name is unknown; the message has the nearest known ones.
    """
    found = _SPELLINGS.get(_squash(name))
    if found is None:
        bare = {known.rpartition(":")[2]: known for known in BACKBONES}
        close = difflib.get_close_matches(name.rpartition(":")[2].lower(), bare)
        near = f" Did you mean {' or '.join(bare[c] for c in close)}?" if close else ""
        raise BackboneError(
            f"{name!r} is not a known backbone.{near} All {len(BACKBONES)} of the catalogue: "
            "headstart backbones. Others: hub:FOLDER_OR_URL, kerashub:PRESET, local:FILE."
        )
    return BACKBONES[found]
