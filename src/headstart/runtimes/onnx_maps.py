"""The last feature map of a network, found in its ONNX graph: where Grad-CAM looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart.errors import require_package
from headstart.runtimes.onnx_checks import check_graph
from headstart.runtimes.onnx_cuts import list_cuts, take_outputs, take_rest
from headstart.runtimes.onnx_runtime import open_session

if TYPE_CHECKING:
    import onnx

Floats = npt.NDArray[np.float32]

# Photos have three channels; a map of features has more.
_FEWEST_CHANNELS = 4


@dataclass(frozen=True)
class MapGraph:
    """A graph in two halves: photos → feature map → features.

    Attributes:
        name: Of the tensor that is the map.
        is_channel_first: Whether the tensor is ``(photo, channel, row, column)``.
        first: Session from photos to map and features.
        second: Session from the map to features.
    """

    name: str
    is_channel_first: bool
    first: Any
    second: Any

    def compute_maps(self, images: npt.NDArray[np.uint8]) -> tuple[Floats, Floats]:
        """``(photo, row, column, channel)`` maps and ``(photo, feature)`` features."""
        maps, features = self.first.run(None, {self.first.get_inputs()[0].name: images})
        return np.moveaxis(maps, 1, -1) if self.is_channel_first else maps, features

    def finish(self, maps: Floats) -> Floats:
        """``(photo, feature)`` features of maps."""
        given = np.ascontiguousarray(np.moveaxis(maps, -1, 1) if self.is_channel_first else maps)
        (features,) = self.second.run(None, {self.name: given})
        return np.asarray(features, np.float32)


def find_maps(graph: bytes, image_size: int) -> MapGraph | None:
    """The last tensor of rows and columns that all that follows depends on; None without one.

    Args:
        graph: From uint8 photos to the output ``features``.
        image_size: Side of the photos in pixels.

    Raises:
        MissingPackageError: The package onnx is not installed.
        BundleError: The graph holds what is not accepted, or cannot be computed.
    """
    require_package("onnx", "onnxruntime", purpose="heat maps by Grad-CAM")
    import onnx

    check_graph(graph)
    model = onnx.load_from_string(graph)
    cuts = list_cuts(model, "features")
    if not cuts:
        return None
    shapes = _measure_shapes(model, cuts, image_size)
    for name in reversed(cuts):
        if is_map(shapes[name]):
            first = open_session(take_outputs(model, [name, "features"]))
            second = open_session(take_rest(model, name, shapes[name], ["features"]))
            return MapGraph(name, _is_channel_first(shapes[name]), first, second)
    return None


def is_map(shape: tuple[int, ...]) -> bool:
    """Whether a tensor of one photo has rows, columns and several channels.

    >>> is_map((1, 7, 7, 512)), is_map((1, 512, 1, 1)), is_map((1, 50, 768))
    (True, False, False)
    """
    if len(shape) != 4 or min(shape[2], max(shape[1], shape[3])) < 2:
        return False
    return (shape[1] if _is_channel_first(shape) else shape[3]) >= _FEWEST_CHANNELS


def _is_channel_first(shape: tuple[int, ...]) -> bool:
    """Photos are square, and so are their maps: the side that has no equal is the channels'."""
    return shape[2] == shape[3]


def _measure_shapes(
    model: onnx.ModelProto, names: list[str], image_size: int
) -> dict[str, tuple[int, ...]]:
    session = open_session(take_outputs(model, names))
    photo = np.zeros((1, image_size, image_size, 3), np.uint8)
    found = session.run(names, {session.get_inputs()[0].name: photo})
    return {name: np.shape(array) for name, array in zip(names, found, strict=True)}
