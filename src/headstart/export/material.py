"""What exports are made from."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart import __version__
from headstart.bundle import GRAPH, Bundle
from headstart.data.decode import KEPT_SHARE
from headstart.errors import BundleError, ExportError
from headstart.evaluation.trust import Trust
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

    @property
    def trust(self) -> Trust | None:
        """The thresholds, where there are any."""
        record = self.bundle.manifest.get("trust")
        return Trust.from_json(record) if record else None
