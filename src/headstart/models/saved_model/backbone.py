"""``hub:…`` → a backbone from 0-255 photos, its prefix, and back to a SavedModel."""

from __future__ import annotations

import re
import secrets
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.errors import BackboneError, HeadstartError, OutputExistsError, require_package
from headstart.files import digest_bytes
from headstart.models.downloads import fetch_saved_model
from headstart.models.saved_model.address import Address, parse_address
from headstart.models.saved_model.layer import SavedModelCalls, build_layer
from headstart.quiet import start_tensorflow

if TYPE_CHECKING:
    import keras

    from headstart.models.boundary import Prefix


def load_saved_model(name: str, *, image_size: int | None = None) -> keras.Model:
    """A SavedModel as a frozen backbone: Input → Rescaling → the layer.

    Set ``trainable = True`` on the model to fine-tune the SavedModel's own variables.

    Args:
        name: ``hub:`` and a folder, an archive or a URL, with options after a ``#``.
        image_size: Side of the square photos in pixels; see `SavedModelCalls`.

    Returns:
        A model from ``(batch, size, size, 3)`` RGB photos with values 0-255 to a vector
        ``(batch, feature)`` or map ``(batch, height, width, channel)``.

    Raises:
        BackboneError: It is not there, refused, or not an image model; with what to do.
        MissingPackageError: TensorFlow, or what downloads, is not installed.
    """
    return _load(parse_address(name), image_size)[0]


def _load(address: Address, image_size: int | None) -> tuple[keras.Model, Any]:
    require_package("tensorflow", "keras", purpose=f"loading the SavedModel {address.location}")
    start_tensorflow()
    import keras

    folder = fetch_saved_model(address.location, address.sha256)
    size = image_size or address.image_size
    layer = build_layer(folder, image_size=size, output=address.output, name="saved_model")
    photos = keras.Input((layer.image_size, layer.image_size, 3), name="photos")
    low, high = address.input_range
    x = photos
    if layer.network.dtype != "uint8":  # bytes are 0-255 by themselves
        scale = (high - low) / 255
        x = keras.layers.Rescaling(scale, low, dtype="float32", name="rescaling")(x)
    model = keras.Model(photos, layer(x), name=_name_model(address.location))
    model.trainable = False
    return model, layer


def load_saved_model_prefix(name: str, build_prefix: Any) -> Prefix:
    """The prefix of a SavedModel: its one boundary is its output, pooled.

    Args:
        name: As for `load_saved_model`.
        build_prefix: Gives the prefix of any Keras model.

    Raises:
        BackboneError, MissingPackageError: As `load_saved_model`.
    """
    address = parse_address(name)
    model, layer = _load(address, None)
    prefix: Prefix = build_prefix(model)
    return replace(prefix, backbone=name, weights_digest=_digest(address, layer))


def _digest(address: Address, layer: Any) -> str:
    # Of the files, and of what we do with them; not of where they are.
    settings = (layer.sha256, layer.image_size, address.input_range, address.output)
    return digest_bytes(repr(settings).encode())


def save_saved_model(
    model: keras.Model | keras.layers.Layer, path: str | Path, *, force: bool = False
) -> Path:
    """Write the SavedModel of a backbone back, with its variables as they are now.

    The result is of the same kind as what was loaded: a reusable SavedModel can be trained again.
    It takes what the original takes, such as photos in [0, 1], not 0-255.

    Args:
        model: A layer, or a model with one in it at any depth, such as `load_backbone` gives.
        path: The folder to be made.
        force: Replace what is there.

    Returns:
        The folder.

    Raises:
        BackboneError: No SavedModel, or several, in the model.
        OutputExistsError: The folder exists and ``force`` is not set.
        HeadstartError: It cannot be written.
    """
    import tensorflow as tf

    layers = {id(layer): layer for layer in _list_layers(model)}
    if len(layers) != 1:
        raise BackboneError(
            f"{model.name!r} contains {len(layers) or 'no'} SavedModels; needed is one."
        )
    root = next(iter(layers.values())).network.root
    path = Path(path)
    if path.exists() and not force:
        raise OutputExistsError(f"{path} exists already. Choose another name, or use force=True.")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    signatures = dict(getattr(root, "signatures", {}))
    try:
        tf.saved_model.save(root, str(temporary), signatures=signatures or None)
        if path.is_dir():
            shutil.rmtree(path)
        elif path.exists():
            path.unlink()
        temporary.rename(path)
    except (OSError, tf.errors.OpError) as error:
        raise HeadstartError(f"{path} could not be written: {error}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return path


def _list_layers(model: Any) -> list[SavedModelCalls]:
    if isinstance(model, SavedModelCalls):
        return [model]
    return [found for inner in getattr(model, "layers", ()) for found in _list_layers(inner)]


def _name_model(location: str) -> str:
    parts = [part for part in re.split(r"[/\\]", location.partition("?")[0]) if part]
    words = [part for part in parts if re.search(r"[A-Za-z]", part) and part != "download"]
    return (
        re.sub(r"[^\w-]+", "_", words[-1] if words else "saved_model").strip("_") or "saved_model"
    )
