"""``local:FILE``: a whole Keras model, weights of a known architecture, or a bundle's backbone.

Nothing in a file is run. A ``.keras`` file is a zip: its configuration is checked against a list of
plain layers (see `keras_config`) and its arrays are checked (see `weights_files`) before Keras
builds the network, from the configuration alone.
"""

from __future__ import annotations

import copy
import json
import math
import tempfile
import zipfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from headstart.errors import BackboneError
from headstart.models.backbones import BackboneName, get_backbone
from headstart.models.keras_catalogue import ROWS
from headstart.models.keras_config import check_config
from headstart.models.keras_graph import put_before, seeded, set_arrays
from headstart.models.keras_top import cut_top
from headstart.models.preprocessing import get_preprocessing
from headstart.models.weights_files import (
    check_h5,
    check_is_file,
    load_weights_file,
    read_safetensors,
)

if TYPE_CHECKING:
    import keras

_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"
_CONFIG_BYTES = 64 * 2**20
# For photos of models that do not fix a size.
_USUAL_SIZE = 224
_MOST_PIXELS_PER_SIDE = 4096


def load_local(
    name: BackboneName, weights: str | Path | None, image_size: int | None
) -> keras.Model:
    """The backbone in a file.

    Args:
        name: The path, with the options ``architecture`` (of a weights file: a name of the
            catalogue), ``preprocessing`` (of a ``.keras`` file: what it expects beyond 0-255 RGB;
            by default nothing, as if it were inside) and ``image_size``.
        weights: ``"imagenet"`` for those of the file, or None for random ones.
        image_size: Side of the photos in pixels; the model's own by default.

    Raises:
        BackboneError: No such file, another form, refused contents, or an unknown option.
    """
    path = Path(name.name).expanduser()
    name.check_options("architecture", "preprocessing", "image_size", "weights")
    if weights not in ("imagenet", None):
        raise BackboneError(
            f"weights={str(weights)!r} does not go with local:{path}, which names its own weights; "
            "accepted are None for random ones, or nothing."
        )
    if path.name.endswith(".keras"):
        check_is_file(path)
        kind = get_preprocessing(name.options.get("preprocessing", "none"))
        model = read_keras_file(path, with_weights=weights is not None)
        size = image_size or _get_size(model, path)
        return put_before(cut_top(model), kind, size, path.stem)
    if "preprocessing" in name.options:
        raise BackboneError(f"preprocessing= does not go with {path}: it is the architecture's.")
    if path.name.endswith((".h5", ".hdf5", ".safetensors")):
        check_is_file(path)
        return _load_architecture(name, path if weights else None, image_size)
    if path.suffix == ".headstart" or (path / "manifest.json").is_file():
        return _load_bundle(path, weights is not None, image_size)
    exists = "is none of these" if path.exists() else "does not exist"
    raise BackboneError(
        f"local:{path} {exists}. Accepted are .keras files, .weights.h5, .h5 and .safetensors "
        "files with ?architecture=NAME, and .headstart bundles."
    )


def _load_architecture(
    name: BackboneName, weights: Path | None, image_size: int | None
) -> keras.Model:
    architecture = name.options.get("architecture")
    if architecture is None:
        raise BackboneError(
            f"{name.name} holds weights without a network. Name the network, for example: "
            f"local:{name.name}?architecture=vgg16"
        )
    return _build(architecture, weights, image_size)


def _build(architecture: str, weights: Path | None, image_size: int | None) -> keras.Model:
    spec = get_backbone(f"keras:{architecture}" if architecture in ROWS else architecture)
    if spec.row is not None:
        from headstart.models.keras_applications import load_application

        return load_application(spec.name.partition(":")[2], weights, image_size)
    from headstart.models.efficientnet_lite.keras_network import build_efficientnet_lite

    with seeded():
        model = build_efficientnet_lite(spec.name, image_size)
    if weights is not None:
        load_weights_file(model, weights)
    return model


def _load_bundle(path: Path, with_weights: bool, image_size: int | None) -> keras.Model:
    """The backbone of a bundle of ours, where its network is in the catalogue."""
    try:
        manifest = json.loads(_read_member(path, "manifest.json", _CONFIG_BYTES))
        record = manifest["backbone"]
        name, is_known = record["name"], record["is_in_catalogue"]
        size = int(manifest["image_size"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BackboneError(f"{path} is not a readable bundle: {error!r}.") from error
    if not is_known or not isinstance(name, str):
        raise BackboneError(
            f"{path} was trained on {name!r}, of which it holds only the graph for prediction. "
            "Load that model itself."
        )
    if "small" in manifest:
        raise BackboneError(
            f"{path} is a small variant without the backbone. Save the whole one: "
            'headstart.load(path).save("whole.headstart").'
        )
    model = _build(name.partition("?")[0], None, image_size or size)
    if with_weights:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "weights.safetensors"
            file.write_bytes(_read_member(path, file.name, None))
            set_arrays(model, read_safetensors(file), str(path))
    return model


def _read_member(path: Path, name: str, limit: int | None) -> bytes:
    """A member of a bundle; at most ``limit`` bytes, or as many as the archive has."""
    try:
        if path.is_dir():
            return (path / name).read_bytes()
        most = limit or path.stat().st_size
        with zipfile.ZipFile(path) as archive, archive.open(name) as member:
            return _read_at_most(member, most, f"{path}: {name}")
    except BackboneError:
        raise
    except Exception as error:  # zipfile raises almost anything on damaged bytes
        raise BackboneError(f"{path} cannot be read: {error}.") from error


def _read_at_most(member: IO[bytes], limit: int, origin: str) -> bytes:
    data = member.read(limit + 1)
    if len(data) > limit:
        raise BackboneError(f"{origin} expands to more than {limit:,} bytes; refused.")
    return data


def read_keras_file(path: Path, *, with_weights: bool = True) -> keras.Model:
    """The model of a ``.keras`` file, without running anything that is in it.

    Args:
        path: The file.
        with_weights: Whether to load its weights; else they are random.

    Raises:
        BackboneError: It is damaged, or refused, with what in it is refused.
    """
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / _WEIGHTS
        expanded = max(_CONFIG_BYTES, 8 * path.stat().st_size)
        weights.write_bytes(_read_member(path, _WEIGHTS, expanded))
        try:
            config = json.loads(_read_member(path, _CONFIG, _CONFIG_BYTES))
        except (ValueError, RecursionError) as error:
            raise BackboneError(f"{path} is damaged: {_CONFIG} is not JSON ({error}).") from error
        check_config(config, str(path))
        check_h5(weights)
        _check_parameters(config, weights.stat().st_size, path)
        model = _build_from_config(config, path)
        if with_weights:
            load_weights_file(model, weights)
    return model


def _check_parameters(config: dict[str, Any], weights_bytes: int, path: Path) -> None:
    """Refuse a network that is larger than its weights, before its memory is taken.

    It is built once with variables that have shapes but no values.
    """
    import keras
    from keras.src.backend.common import global_state

    key = "uninitialized_variables"
    before = list(global_state.get_global_attribute(key) or [])
    try:
        with keras.StatelessScope(initialize_variables=False):
            model = _build_from_config(config, path)
            needed = sum(math.prod(v.shape) for v in model.weights)
    finally:
        global_state.set_global_attribute(key, before)
    if needed > weights_bytes:  # a parameter takes a byte at least
        raise BackboneError(
            f"{path} is refused: its network has {needed:,} parameters, but the file holds only "
            f"{weights_bytes:,} bytes of weights."
        )


def _build_from_config(config: dict[str, Any], path: Path) -> keras.Model:
    from keras.saving import deserialize_keras_object

    try:
        with seeded():
            # Keras changes what it is given.
            return deserialize_keras_object(copy.deepcopy(config), safe_mode=True)
    except Exception as error:  # Keras raises almost anything on a wrong configuration
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BackboneError(f"{path} cannot be built: {reason}") from error


def _get_size(model: keras.Model, path: Path) -> int:
    shape = getattr(model, "input_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 4 or shape[3] != 3 or shape[1] != shape[2]:
        raise BackboneError(
            f"{path} has the input shape {shape}; needed is one input (batch, size, size, 3) of "
            "RGB photos."
        )
    size = _USUAL_SIZE if shape[1] is None else int(shape[1])
    if size > _MOST_PIXELS_PER_SIDE:
        raise BackboneError(
            f"{path} is for photos of {size} pixels; {_MOST_PIXELS_PER_SIDE} is most."
        )
    return size
