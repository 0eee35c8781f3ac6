"""Weights files of users: ``.weights.h5``, ``.h5``, ``.safetensors``, checked before reading.

An HDF5 file can name other files of this machine as its data, and can declare terabytes in a few
bytes. Such files are refused before any array is read.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.errors import BackboneError

if TYPE_CHECKING:
    import keras
    import numpy.typing as npt

# Weights hardly compress; what claims to expand more than this is not weights.
_MOST_EXPANSION = 8
_SMALL_BYTES = 16 * 2**20
_MOST_OBJECTS = 100_000


def load_weights_file(model: keras.Model, path: Path) -> None:
    """Load a file into a model.

    Args:
        model: A built model.
        path: ``.weights.h5`` (Keras 3), ``.h5`` (Keras 2, as keras.applications publishes them), or
            ``.safetensors`` with keys ``layer/variable``.

    Raises:
        BackboneError: No such file, another format, not safe to read, or it does not fit.
    """
    check_is_file(path)
    if path.suffix == ".safetensors":
        from headstart.models.keras_graph import set_arrays

        set_arrays(model, read_safetensors(path), str(path))
        return
    if path.suffix not in (".h5", ".hdf5"):
        raise BackboneError(
            f"{path} is not a weights file; accepted are .weights.h5, .h5 and .safetensors. "
            "A whole model, .keras, is loaded with local:FILE."
        )
    check_h5(path)
    try:
        model.load_weights(str(path))
    except Exception as error:  # Keras and h5py raise almost anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BackboneError(
            f"The weights of {path} do not fit {model.name} (without its top): {reason}"
        ) from error


def check_is_file(path: Path) -> None:
    """Raise `BackboneError` unless the path is a file."""
    if not path.is_file():
        kind = "is a folder" if path.is_dir() else "does not exist"
        raise BackboneError(f"The file {path} {kind}. Give the path of a file with weights.")


def read_safetensors(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a safetensors file.

    Raises:
        BackboneError: It is damaged or not one.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays = load_file(path)
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise BackboneError(f"{path} is not a readable safetensors file: {error}.") from error
    return {key.removeprefix("backbone/"): np.asarray(array) for key, array in arrays.items()}


def check_h5(path: Path) -> None:
    """Refuse an HDF5 file that refers to other files or declares more than it can hold.

    Raises:
        BackboneError: With the member that is refused.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            limit = max(_SMALL_BYTES, _MOST_EXPANSION * path.stat().st_size)
            _check_group(file, limit, str(path))
    except BackboneError:
        raise
    except Exception as error:  # h5py raises almost anything on damaged bytes
        raise BackboneError(f"{path} is not a readable HDF5 file: {error}.") from error


def _check_group(file: Any, limit: int, path: str) -> None:
    import h5py

    waiting, seen, declared = [("", file)], 0, 0
    while waiting:
        prefix, group = waiting.pop()
        for name in group:
            seen, member = seen + 1, f"{prefix}/{name}"
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise _refuse(path, member, "is a link to elsewhere")
            if seen > _MOST_OBJECTS:
                raise _refuse(path, member, f"is more than {_MOST_OBJECTS:,} members")
            item = group[name]
            if isinstance(item, h5py.Group):
                waiting.append((member, item))
            elif isinstance(item, h5py.Dataset):
                declared += _check_dataset(item, path, member)
            if declared > limit:
                raise _refuse(path, member, f"declares {declared:,} bytes with those before it")


def _check_dataset(dataset: Any, path: str, member: str) -> int:
    if dataset.external or dataset.is_virtual:
        raise _refuse(path, member, "has its data in another file")
    if dataset.dtype.kind not in "fiub":
        raise _refuse(path, member, f"is of the type {dataset.dtype}")
    return math.prod(dataset.shape or ()) * int(dataset.dtype.itemsize)


def _refuse(path: str, member: str, why: str) -> BackboneError:
    return BackboneError(f"{path} is refused: its member {member} {why}. Weights are plain arrays.")
