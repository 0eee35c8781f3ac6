"""What exports are made from."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart import __version__
from headstart.bundle import GRAPH, Bundle
from headstart.data.decode import KEPT_SHARE
from headstart.errors import BundleError, ExportError
from headstart.evaluation.trust import COVERAGE, PRECISION, Trust
from headstart.training.rebuild import rebuild_classifier

if TYPE_CHECKING:
    import keras

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Material:
    """A classifier that is exported.

    Attributes:
        bundle: It.
        known: Its backbone, where that was given as an object and is still in memory.
        representative: ``(photo, size, size, 3)`` training photos, for whole-number formats.
    """

    bundle: Bundle
    known: keras.Model | None = None
    representative: Pixels = field(default_factory=lambda: np.empty(0, np.uint8), repr=False)

    @cached_property
    def model(self) -> keras.Model:
        """Square photos, 0-255 → probabilities.

        Raises:
            ExportError: The backbone cannot be built here as a Keras model.
        """
        try:
            return rebuild_classifier(self.bundle, self.known)
        except BundleError as error:
            raise ExportError(
                f"{error} Formats that need no Keras model: onnx, openvino."
            ) from None

    @property
    def graph(self) -> bytes:
        """The bundle's own ONNX graph."""
        return self.bundle.members[GRAPH]

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """What goes beside or into every export, as plain data."""
        manifest = self.bundle.manifest
        return {
            "made_by": f"headstart {__version__}",
            "task": "single-label",
            "class_names": list(self.bundle.class_names),
            "image_size": self.bundle.image_size,
            "input": {
                "colours": "RGB, 0 to 255",
                "square": f"the central {KEPT_SHARE} of the shorter side",
                "resize": "Hamming filter where smaller, bicubic where larger, as Pillow's",
            },
            "backbone": manifest["backbone"]["name"],
            "seed": manifest["seed"],
            "temperature": "in the weights",
            "trust": manifest.get("trust"),
        }

    def dump_metadata(self) -> str:
        """`metadata` as JSON."""
        return json.dumps(self.metadata)

    @cached_property
    def graph_of_any_size(self) -> bytes:
        """The ONNX export: `graph` with the resize before it and thresholds behind it."""
        from headstart.export.onnx_format import make_graph  # which knows this module

        return make_graph(self)

    @property
    def set_threshold(self) -> float | None:
        """Largest score of a class in a set of the usual coverage; None without thresholds."""
        return self._trust.thresholds.get(COVERAGE) if self._trust else None

    @property
    def sure_from(self) -> float | None:
        """From which probability on an answer is sure: inf where none is, None where not known."""
        found = self._trust.abstentions.get(PRECISION) if self._trust else None
        if found is None:
            return None
        return math.inf if found.confidence is None else found.confidence

    @cached_property
    def _trust(self) -> Trust | None:
        record = self.bundle.manifest.get("trust")
        return Trust.from_json(record) if record else None
