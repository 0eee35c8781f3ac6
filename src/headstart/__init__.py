"""Headstart: a folder of labelled photos → an image classifier that can be trusted and shipped.

Importing this loads no TensorFlow; names are looked up when they are used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headstart.classifier import ImageClassifier, load
    from headstart.errors import HeadstartError
    from headstart.explain import Explainer
    from headstart.features.extract import extract_features
    from headstart.models.boundary import cut, list_boundaries
    from headstart.models.heads import attach_head
    from headstart.models.loaders import load_backbone
    from headstart.models.saved_model import save_saved_model
    from headstart.report import write_report
    from headstart.suggestions import suggest_photos
    from headstart.training.examine import examine
    from headstart.training.library import fine_tune, make_dataset

__version__ = "0.1.0"

__all__ = [
    "Explainer",
    "HeadstartError",
    "ImageClassifier",
    "attach_head",
    "cut",
    "examine",
    "extract_features",
    "fine_tune",
    "list_boundaries",
    "load",
    "load_backbone",
    "make_dataset",
    "save_saved_model",
    "suggest_photos",
    "write_report",
]

_HOMES = {
    "Explainer": "headstart.explain",
    "HeadstartError": "headstart.errors",
    "ImageClassifier": "headstart.classifier",
    "attach_head": "headstart.models.heads",
    "extract_features": "headstart.features.extract",
    "cut": "headstart.models.boundary",
    "examine": "headstart.training.examine",
    "fine_tune": "headstart.training.library",
    "make_dataset": "headstart.training.library",
    "list_boundaries": "headstart.models.boundary",
    "load": "headstart.classifier",
    "load_backbone": "headstart.models.loaders",
    "save_saved_model": "headstart.models.saved_model",
    "suggest_photos": "headstart.suggestions",
    "write_report": "headstart.report",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'headstart' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
