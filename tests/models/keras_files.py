"""Files that the tests of Keras backbones make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def write_legacy(model: Any, path: Path) -> Path:
    """Weights in the form in which keras.applications publishes them."""
    import h5py

    with h5py.File(path, "w") as file:
        layers = [layer for layer in model.layers if layer.weights]
        file.attrs["layer_names"] = [layer.name.encode() for layer in layers]
        for layer in layers:
            group = file.create_group(layer.name)
            group.attrs["weight_names"] = [w.path.encode() for w in layer.weights]
            for weight in layer.weights:
                group.create_dataset(weight.path, data=np.asarray(weight))
    return path
