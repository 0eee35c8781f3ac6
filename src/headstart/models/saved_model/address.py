"""``hub:WHERE#OPTION=VALUE,…``: how a SavedModel is named."""

from __future__ import annotations

import re
from dataclasses import dataclass

from headstart.errors import BackboneError, did_you_mean

PREFIX = "hub:"

# What image models of TensorFlow Hub expect:
# https://www.tensorflow.org/hub/common_signatures/images#image_input
_HUB_RANGE = (0.0, 1.0)


@dataclass(frozen=True)
class Address:
    """A parsed name.

    Attributes:
        name: As the user wrote it.
        location: Folder, archive, or URL.
        sha256: Of the archive.
        input_range: What the network expects for black and for white.
        image_size: Side of the square photos in pixels.
        output: Which output has the features, where there are several; ``logits`` accepts those
            of a classifier.
    """

    name: str
    location: str
    sha256: str | None = None
    input_range: tuple[float, float] = _HUB_RANGE
    image_size: int | None = None
    output: str | None = None


def parse_address(name: str) -> Address:
    """The parts of a name.

    >>> address = parse_address("hub:models/net.tar.gz#image_size=96,input_range=-1..1")
    >>> address.location, address.image_size, address.input_range
    ('models/net.tar.gz', 96, (-1.0, 1.0))

    Raises:
        BackboneError: An unknown option, or a value that is none.
    """
    location, mark, text = name.removeprefix(PREFIX).rpartition("#")
    if not mark or not re.match(r"\w+=", text):  # a # of the path's own
        location, text = name.removeprefix(PREFIX), ""
    if not location:
        raise BackboneError(f"{name!r} names no SavedModel: hub:FOLDER, hub:FILE.tar.gz, hub:URL.")
    values = dict(part.partition("=")[::2] for part in text.split(",") if part)
    known = {"sha256", "input_range", "image_size", "output"}
    for key in values.keys() - known:
        raise BackboneError(
            f"{key!r} in {name} is not a known option.{did_you_mean(key, known)} "
            f"Known: {', '.join(sorted(known))}."
        )
    digest = values.get("sha256")
    if digest is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
        raise BackboneError(f"sha256={digest} in {name} is not 64 hexadecimal digits.")
    size = values.get("image_size")
    if size is not None and not (size.isdecimal() and 1 <= int(size) <= 4096):
        raise BackboneError(f"image_size={size} in {name} is not a number of pixels, 1 to 4096.")
    return Address(
        name=name,
        location=location,
        sha256=digest,
        input_range=_parse_range(values.get("input_range"), name),
        image_size=int(size) if size else None,
        output=values.get("output"),
    )


def _parse_range(text: str | None, name: str) -> tuple[float, float]:
    if text is None:
        return _HUB_RANGE
    number = r"(-?\d+(?:\.\d+)?)"
    found = re.fullmatch(rf"{number}\.\.{number}", text)
    if not found or float(found[1]) >= float(found[2]):
        raise BackboneError(
            f"input_range={text} in {name} is not a range from black to white, such as 0..1, "
            "-1..1 or 0..255."
        )
    return float(found[1]), float(found[2])
