"""What an answer rests on: heat maps of photos, computed from the bundle without TensorFlow.

Grad-CAM (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391) weighs each channel of the last
feature map by the derivative of the class's logit by a constant that is added to the channel. The
head is linear, and what lies between the map and the features is mostly a mean: then the weights
are those of the head. Elsewhere the derivative is taken by central differences through that short
part of the graph, which needs no gradients and so serves any network, SavedModels included. A
network without such a map, as vision transformers are, is explained by occlusion: what a grey
square at each place costs (Zeiler and Fergus 2014, https://arxiv.org/abs/1311.2901).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from headstart.bundle import GRAPH, WEIGHTS, Bundle, load_bundle, parse_arrays
from headstart.data.decode_pool import DecodePool
from headstart.data.stream import Content, map_photos
from headstart.data.thumbnails import overlay_heat
from headstart.earlier import find_network_size
from headstart.errors import BundleError, HeadstartError, did_you_mean
from headstart.evaluation.pages.plots import get_heat_colours
from headstart.predictor import read_photo
from headstart.runtimes.onnx_maps import MapGraph, find_maps
from headstart.runtimes.onnx_runtime import open_outputs
from headstart.task import require_task

Item = TypeVar("Item")
Floats = npt.NDArray[np.float32]

METHODS = ("auto", "grad-cam", "occlusion")

# Of a channel's own size: large enough for float32, small enough to be a derivative.
_STEP = 1e-2
# Maps that go through the second half of a graph at once.
_CHANNELS_AT_ONCE = 64
# Grey squares have a fifth of the side, and move by half of theirs.
_SQUARES, _OVERLAP = 5, 2
_BATCH = 16


@dataclass(frozen=True)
class Explanation(Generic[Item]):
    """What the answer for a photo rests on.

    Attributes:
        item: The photo as it was given.
        label: The class that is explained; empty when the photo could not be read.
        probability: Its probability.
        method: ``"grad-cam"`` or ``"occlusion"``.
        heat: ``(row, column)`` over the central square of the photo, between 0 and 1; all 0 where
            nothing speaks for the class.
        network_size: Decides how large that square is, see
            `headstart.data.decode.measure_square`.
        problem: Why the photo could not be read, else None.
    """

    item: Item
    label: str
    probability: float
    method: str
    heat: Floats
    network_size: int
    problem: str | None = None

    def draw(self, content: Path | Content | None = None, side: int = 640) -> bytes:
        """The photo with the heat on it, as PNG bytes.

        Args:
            content: The photo; by default the item, if that is one.
            side: Longer side in pixels, at most.

        Raises:
            UnreadablePhotoError: It cannot be read.
            MissingPackageError: Matplotlib is not installed.
        """
        found = read_photo(self.item) if content is None else content
        return overlay_heat(found, self.heat, get_heat_colours(), self.network_size, side)


class Explainer:
    """Explains the answers of a bundle.

    Args:
        bundle: A path, or a loaded bundle.
        method: ``"grad-cam"``, ``"occlusion"``, or ``"auto"``: the first where the network has a
            map of features, which takes as long as a prediction.

    Raises:
        HeadstartError: There is no such method, or Grad-CAM was asked for and the network has no
            map of features.
        BundleError: The bundle cannot be used.
        MissingPackageError: Grad-CAM needs the package onnx.

    Example::

        for found in headstart.Explainer("flowers.headstart").explain(["rose.jpg"]):
            print(found.label, found.heat.shape)
    """

    def __init__(self, bundle: str | Path | Bundle, *, method: str = "auto") -> None:
        if method not in METHODS:
            raise HeadstartError(
                f"{method!r} is not a method of explaining.{did_you_mean(method, METHODS)} "
                f"Accepted are {', '.join(METHODS)}."
            )
        self.bundle = bundle if isinstance(bundle, Bundle) else load_bundle(Path(bundle))
        require_task(self.bundle.task, "A heat map")
        graph, size = self.bundle.members[GRAPH], self.bundle.image_size
        self._network_size = find_network_size(self.bundle)
        self._maps = None if method == "occlusion" else find_maps(graph, size)
        if self._maps is None and method == "grad-cam":
            raise HeadstartError(
                f"The network of {self.bundle.path} has no map of features for Grad-CAM. Use the "
                "method occlusion."
            )
        self.method = "occlusion" if self._maps is None else "grad-cam"
        arrays = parse_arrays(self.bundle.members[WEIGHTS])
        self._kernel, self._bias = arrays["head/kernel"], arrays["head/bias"]

    @functools.cached_property
    def _features(self) -> Callable[[npt.NDArray[np.uint8]], list[Floats]]:
        # For occlusion: with a map, the features come from the same pass as the map.
        return open_outputs(self.bundle.members[GRAPH], ("features",))

    def explain(
        self,
        items: Iterable[Item],
        label: str | None = None,
        read: Callable[[Item], Path | Content] | None = None,
    ) -> Iterator[Explanation[Item]]:
        """An explanation per photo, in order.

        Args:
            items: Photos, as for `headstart.predictor.Predictor.predict`.
            label: The class to explain; by default the answer for each photo.
            read: Gives the content of an item; by default paths are read.

        Raises:
            HeadstartError: There is no such class.
        """
        names = self.bundle.class_names
        if label is not None and label not in names:
            raise HeadstartError(
                f"{label!r} is not a class of {self.bundle.path}.{did_you_mean(label, names)} "
                f"It has: {', '.join(names)}."
            )
        wanted = None if label is None else names.index(label)

        def compute(images: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
            found = np.empty(len(images), object)
            for row, image in enumerate(images):
                found[row] = self._explain_image(image, wanted)
            return found

        nothing, size = np.zeros((1, 1), np.float32), self._network_size
        with (
            DecodePool(self.bundle.image_size, network_size=size) as pool,
            contextlib.closing(map_photos(items, read or read_photo, pool, compute)) as batches,
        ):
            for batch in batches:
                for item, found, reason in batch.outcomes:
                    if reason is None:
                        number, probability, heat = found
                        yield Explanation(item, names[number], probability, self.method, heat, size)
                    else:
                        yield Explanation(item, "", 0.0, self.method, nothing, size, reason)

    def explain_square(self, square: npt.NDArray[np.uint8]) -> Explanation[None]:
        """An explanation of the answer for a decoded photo.

        Args:
            square: ``(size, size, 3)`` as the network sees it.
        """
        number, probability, heat = self._explain_image(square, None)
        label = self.bundle.class_names[number]
        return Explanation(None, label, probability, self.method, heat, self._network_size)

    def _explain_image(
        self, image: npt.NDArray[np.uint8], wanted: int | None
    ) -> tuple[int, float, Floats]:
        maps = None
        if self._maps is not None:
            maps, features = self._maps.compute_maps(image[None])
        else:
            (features,) = self._features(image[None])
        logits = (features @ self._kernel + self._bias)[0]
        odds = np.exp(logits - logits.max())
        number = int(logits.argmax()) if wanted is None else wanted
        if self._maps is not None and maps is not None:
            heat = weigh_map(self._maps, maps[0], features[0], self._kernel[:, number])
        else:
            heat = self._occlude(image, number)
        return number, float(odds[number] / odds.sum()), scale_heat(heat)

    def _occlude(self, image: npt.NDArray[np.uint8], number: int) -> Floats:
        """By how much the margin of a class over all others falls under a grey square."""
        side = len(image)
        square = max(1, side // _SQUARES)
        starts = np.unique(np.linspace(0, side - square, _SQUARES * _OVERLAP).round().astype(int))
        places = [(row, column) for row in starts for column in starts]
        covered = np.repeat(image[None], _BATCH, axis=0)
        grey = image.mean((0, 1)).round().astype(np.uint8)
        whole = self._measure_margins(image[None], number)[0]
        fall, times = np.zeros((side, side), np.float32), np.zeros((side, side), np.float32)
        for start in range(0, len(places), _BATCH):
            part = places[start : start + _BATCH]
            areas = [(slice(r, r + square), slice(c, c + square)) for r, c in part]
            for slot, area in enumerate(areas):
                covered[slot] = image
                covered[slot][area] = grey
            margins = self._measure_margins(covered[: len(part)], number)
            for area, margin in zip(areas, margins, strict=True):
                fall[area] += whole - margin
                times[area] += 1
        # As fine as the squares' steps: whoever draws it makes it smooth.
        at = np.linspace(0, side - 1, 2 * len(starts)).round().astype(int)
        return np.asarray((fall / times)[np.ix_(at, at)], np.float32)

    def _measure_margins(self, images: npt.NDArray[np.uint8], number: int) -> Floats:
        """``(photo,)`` logarithm of the odds of a class."""
        (features,) = self._features(images)
        logits = np.asarray(features @ self._kernel + self._bias, np.float32)
        if logits.shape[1:] != (len(self.bundle.class_names),):
            raise BundleError(f"The head of {self.bundle.path} does not fit its classes.")
        others = np.delete(logits, number, axis=1)
        most = others.max(1)
        together = most + np.log(np.exp(others - most[:, None]).sum(1))
        return np.asarray(logits[:, number] - together, np.float32)


def weigh_map(graph: MapGraph, found: Floats, features: Floats, kernel: Floats) -> Floats:
    """Grad-CAM before its scale: what speaks for a class, ``(row, column)``, not below 0.

    Args:
        graph: Whose second half leads from the map to the features.
        found: ``(row, column, channel)`` the map of a photo.
        features: ``(feature,)`` its features.
        kernel: ``(feature,)`` the class's column of the head.
    """
    mean = found.mean((0, 1))
    if mean.shape == features.shape and np.allclose(mean, features, rtol=1e-3, atol=1e-4):
        weights = kernel
    else:
        weights = measure_derivatives(graph, found, kernel)
    return np.asarray(np.maximum(found @ weights, 0), np.float32)


def measure_derivatives(graph: MapGraph, found: Floats, kernel: Floats) -> Floats:
    """``(channel,)`` derivatives of a class's logit by a constant added to each channel."""
    channels = found.shape[-1]
    steps = _STEP * np.maximum(np.sqrt((found**2).mean((0, 1))), found.std() + 1e-6)
    weights = np.empty(channels, np.float32)
    for start in range(0, channels, _CHANNELS_AT_ONCE):
        part = np.arange(start, min(start + _CHANNELS_AT_ONCE, channels))
        moved = np.repeat(found[None], 2 * len(part), axis=0)
        for row, channel in enumerate(part):
            moved[row, :, :, channel] += steps[channel]
            moved[len(part) + row, :, :, channel] -= steps[channel]
        logits = graph.finish(moved) @ kernel
        weights[part] = (logits[: len(part)] - logits[len(part) :]) / (2 * steps[part])
    return weights


def scale_heat(heat: Floats) -> Floats:
    """Between 0 and 1; what speaks against the class is 0.

    >>> scale_heat(np.array([[-1.0, 2.0, 4.0]], np.float32)).tolist()
    [[0.0, 0.5, 1.0]]
    """
    heat = np.maximum(heat, 0)
    return np.asarray(heat / max(float(heat.max()), 1e-12), np.float32)
