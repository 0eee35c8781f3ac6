"""TF2 SavedModels, the format of TensorFlow Hub, as layers of Keras 3.

`tensorflow_hub` is not used: its layer is one of Keras 2, which Keras 3 refuses.
"""

from headstart.models.saved_model.backbone import (
    load_saved_model,
    load_saved_model_prefix,
    save_saved_model,
)
from headstart.models.saved_model.layer import build_layer, digest_saved_model

__all__ = [
    "build_layer",
    "digest_saved_model",
    "load_saved_model",
    "load_saved_model_prefix",
    "save_saved_model",
]
