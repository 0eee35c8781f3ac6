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
from headstart.evaluation.labels import LabelTrust
from headstart.evaluation.tasks import AnyTrust, read_trust
from headstart.evaluation.trust import COVERAGE, PRECISION, Trust
from headstart.evaluation.values import ValueTrust
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
        """Square photos, 0-255 → probabilities, or numbers.

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
        manifest, size = self.bundle.manifest, self.bundle.image_size
        return {
            "made_by": f"headstart {__version__}",
            "task": self.bundle.task.name,
            "class_names": list(self.bundle.class_names),
            "image_size": size,
            "input": {
                "colours": "RGB, 0 to 255",
                "square": f"the central max({KEPT_SHARE} * shorter, min(shorter, {size})) pixels, "
                "where shorter is the photo's shorter side",
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
        trust = self.trust
        return trust.thresholds.get(COVERAGE) if isinstance(trust, Trust) else None

    @property
    def sure_from(self) -> float | None:
        """From which probability on an answer is sure: inf where none is, None where not known."""
        trust = self.trust
        found = trust.abstentions.get(PRECISION) if isinstance(trust, Trust) else None
        if found is None:
            return None
        return math.inf if found.confidence is None else found.confidence

    @property
    def label_thresholds(self) -> tuple[float, ...] | None:
        """``(label,)`` from which probability on each is said; None where a photo has a class."""
        return self.trust.thresholds if isinstance(self.trust, LabelTrust) else None

    @property
    def half_width(self) -> float | None:
        """Of the interval of the usual coverage around a number; None where there is none."""
        trust = self.trust
        return trust.get_half_width(COVERAGE) if isinstance(trust, ValueTrust) else None

    @cached_property
    def trust(self) -> AnyTrust | None:
        """What the bundle knows of its answers."""
        record = self.bundle.manifest.get("trust")
        return read_trust(record, self.bundle.task) if record else None
