"""Names of backbones → networks: a Keras model, or its frozen prefix for a runtime."""

from __future__ import annotations

import functools
import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.errors import BackboneError, require_package
from headstart.models.backbones import BackboneName, BackboneSpec, get_backbone, parse_name
from headstart.models.boundary import POOLED, Prefix
from headstart.models.efficientnet_lite.onnx_network import write_onnx_features
from headstart.models.efficientnet_lite.weights import load_weights
from headstart.models.keras_catalogue import Row
from headstart.models.keras_graph import finish_loading, list_arrays, set_arrays
from headstart.models.keras_top import gives_probabilities
from headstart.models.keras_weights import digest_weights, fetch_weights
from headstart.models.saved_model import load_saved_model, load_saved_model_prefix
from headstart.models.weights_files import check_is_file
from headstart.quiet import start_tensorflow

if TYPE_CHECKING:
    import keras

Weights = str | Path | None


def load_backbone(
    name: str = "efficientnet-lite0",
    *,
    weights: str | Path | None = "imagenet",
    image_size: int | None = None,
) -> keras.Model:
    """A pretrained network without its top, frozen, as a Keras functional model.

    Args:
        name: A name of ``headstart backbones`` such as ``"keras:vgg16"``;
            ``"kerashub:PRESET_OR_FOLDER"``; ``"local:FILE"`` (.keras, .weights.h5, .safetensors or
            a bundle); ``"hub:FOLDER_OR_URL"``. Options may follow, as in
            ``"keras:vgg16?weights=none&image_size=64"``: the name then says everything, wherever a
            name is taken.
        weights: ``"imagenet"`` (downloaded by Keras where needed; for other sources, their own
            weights), a weights file, or None for random weights (the same every time). It goes
            before the option in the name unless it is ``"imagenet"``.
        image_size: Side of the square photos in pixels; the backbone's own by default.

    Returns:
        A `keras.Model` with ``trainable = False`` from ``(batch, size, size, 3)`` RGB photos with
        values 0-255 (preprocessing is inside) to the last feature map
        ``(batch, height, width, channel)``, or a vector where the network ends in one.

    Raises:
        BackboneError: Unknown name, weights or options, photos too small, or no internet.
        MissingPackageError: TensorFlow, KerasHub or the weights package is missing.

    >>> backbone = load_backbone("efficientnet-lite0")
    >>> backbone.output_shape, backbone.trainable
    ((None, 7, 7, 1280), False)
    >>> vgg16 = load_backbone("keras:vgg16", weights=None)
    >>> [layer.name for layer in vgg16.layers[-4:]]
    ['block5_conv1', 'block5_conv2', 'block5_conv3', 'block5_pool']
    """
    if not isinstance(name, str):
        raise BackboneError(
            f"load_backbone takes a name, not {type(name).__name__}. A Keras model is a backbone "
            "already: pass it on as it is, up to its last feature map."
        )
    parsed = parse_name(name)
    load = _get_loader(parsed)
    size = image_size if image_size is not None else parsed.image_size
    if size is not None and not 1 <= size <= _MOST_PIXELS_PER_SIDE:
        raise BackboneError(
            f"image_size={size} is not possible; accepted are 1 to {_MOST_PIXELS_PER_SIDE} pixels."
        )
    require_package("tensorflow", "keras", purpose=f"loading the backbone {name} as a Keras model")
    start_tensorflow()
    model = load(parsed, _choose_weights(parsed, weights), size)
    model.trainable = False
    return model


_MOST_PIXELS_PER_SIDE = 4096


def _choose_weights(name: BackboneName, weights: Weights) -> Weights:
    if weights != "imagenet":
        return weights
    option = name.options.get("weights", "imagenet")
    return None if option == "none" else option


def _get_loader(parsed: BackboneName) -> Callable[..., keras.Model]:
    if parsed.source in ("", "keras"):
        get_backbone(_catalogue_name(parsed))  # says what is known if this is not
        parsed.check_options("weights", "image_size")
    return LOADERS[parsed.source]


def _catalogue_name(name: BackboneName) -> str:
    return f"{name.source}:{name.name}" if name.source else name.name


def _check_size(spec: BackboneSpec, size: int | None) -> None:
    if size is not None and size < spec.min_size:
        raise BackboneError(
            f"image_size={size} is too small for {spec.name}; it needs {spec.min_size} pixels or "
            f"more, and was made for {spec.image_size}."
        )


def _load_built_in(name: BackboneName, weights: Weights, size: int | None) -> keras.Model:
    spec = get_backbone(name.name)
    if weights not in ("imagenet", None):
        raise BackboneError(f'weights={weights!r} is not known; accepted are "imagenet" and None.')
    _check_size(spec, size)
    from headstart.models.efficientnet_lite.keras_network import build_efficientnet_lite

    model = build_efficientnet_lite(spec.name, size)
    if weights == "imagenet":
        set_arrays(model, load_weights(spec.name))
    return model


def _load_keras(name: BackboneName, weights: Weights, size: int | None) -> keras.Model:
    spec = get_backbone(_catalogue_name(name))
    _check_size(spec, size)
    if weights not in ("imagenet", None):
        check_is_file(Path(weights))  # before the network is built
    from headstart.models.keras_applications import load_application

    return load_application(spec.name.partition(":")[2], weights, size)


def _load_local(name: BackboneName, weights: Weights, size: int | None) -> keras.Model:
    from headstart.models.local_files import load_local

    return load_local(name, weights, size)


def _load_kerashub(name: BackboneName, weights: Weights, size: int | None) -> keras.Model:
    from headstart.models.kerashub import load_kerashub

    return load_kerashub(name, weights, size)


def _load_hub(name: BackboneName, weights: Weights, size: int | None) -> keras.Model:
    address = f"hub:{name.name}"
    if weights != "imagenet":
        raise BackboneError(f"{address} brings its own weights; leave out weights={weights!r}.")
    return load_saved_model(address, image_size=size)


# By source: (name, weights, side of the photos) → model from 0-255 photos to features.
LOADERS: dict[str, Callable[[BackboneName, Weights, int | None], keras.Model]] = {
    "": _load_built_in,
    "hub": _load_hub,
    "keras": _load_keras,
    "kerashub": _load_kerashub,
    "local": _load_local,
}


def load_prefix(backbone: str | BackboneSpec | keras.Model) -> Prefix:
    """The frozen prefix of a backbone, up to its pooled features.

    Args:
        backbone: A name, a record of the catalogue, or a Keras model from 0-255 RGB photos to a
            feature map or vector.

    Raises:
        BackboneError: Unknown name, or a model of another form.
        MissingPackageError: The weights package is missing.
    """
    if isinstance(backbone, BackboneSpec):
        backbone = backbone.name
    if not isinstance(backbone, str):
        if gives_probabilities(backbone):
            warnings.warn(
                f"The model {backbone.name!r} ends in probabilities, which are taken as its "
                "features. Pass the part up to its last feature map, keras.Model(model.input, "
                "model.get_layer(NAME).output); or save it and name the file (local:FILE), of "
                "which the classifier is left out.",
                stacklevel=3,
            )
        return _model_prefix(backbone)
    parsed = parse_name(backbone)
    if parsed.source == "hub":
        return load_saved_model_prefix(backbone, _model_prefix)
    if parsed.source in ("", "keras"):
        spec = get_backbone(_catalogue_name(parsed))
        if not parsed.options:
            return _application_prefix(spec, spec.row) if spec.row else _built_in_prefix(spec)
    _get_loader(parsed)
    return _named_prefix(backbone)


def _built_in_prefix(spec: BackboneSpec) -> Prefix:
    require_package(spec.package, purpose=f"the backbone {spec.name}")
    return Prefix(
        backbone=spec.name,
        weights_digest=spec.weights_digest,
        boundary=POOLED,
        image_size=spec.image_size,
        shape=(spec.feature_count,),
        write_graph=lambda: _write_graph(spec.name, spec.image_size),
        build_model=lambda: load_backbone(spec.name),
        load_weights=lambda: load_weights(spec.name),
        emit_graph=lambda arrays, boundary: write_onnx_features(
            spec.name, arrays or load_weights(spec.name), spec.image_size, boundary
        ),
    )


@functools.lru_cache(maxsize=1)
def _write_graph(name: str, image_size: int) -> bytes:
    # Needed twice in a training: by the extraction and in the bundle.
    return write_onnx_features(name, load_weights(name), image_size)


def _application_prefix(spec: BackboneSpec, row: Row) -> Prefix:
    """ImageNet weights of keras.applications: known by their file, so that no Keras is needed."""
    require_package("tensorflow", "keras", purpose=f"the backbone {spec.name}")
    fetch_weights(spec.name, row)
    return Prefix(
        backbone=spec.name,
        weights_digest=digest_weights(row),
        boundary=POOLED,
        image_size=spec.image_size,
        shape=(spec.feature_count,),
        write_graph=None,
        build_model=lambda: _load_once(spec.name),
        load_weights=lambda: list_arrays(_load_once(spec.name)),
    )


def _named_prefix(name: str) -> Prefix:
    """Any other name: the model is loaded now, and known by all its weights."""
    found = _model_prefix(_load_once(name))
    is_in_catalogue = parse_name(name).source in ("", "keras")
    return Prefix(
        backbone=name,
        weights_digest=found.weights_digest,
        boundary=POOLED,
        image_size=found.image_size,
        shape=found.shape,
        write_graph=None,
        build_model=found.build_model,
        load_weights=(lambda: list_arrays(_load_once(name))) if is_in_catalogue else None,
    )


@functools.lru_cache(maxsize=1)
def _load_once(name: str) -> keras.Model:
    # Needed several times in a training: by the extraction and for the bundle.
    return load_backbone(name)


def _model_prefix(model: keras.Model) -> Prefix:
    shape: Any = getattr(model, "input_shape", None)
    is_photo = isinstance(shape, tuple) and len(shape) == 4 and shape[3] == 3
    if not is_photo or shape[1] is None or shape[1] != shape[2]:
        raise BackboneError(
            f"The model {getattr(model, 'name', model)!r} has the input shape {shape}; needed is "
            "one input (batch, size, size, 3) of RGB photos with a fixed size."
        )
    output: Any = model.output_shape
    if not isinstance(output, tuple) or len(output) not in (2, 4) or output[-1] is None:
        raise BackboneError(
            f"The model {model.name!r} has the output shape {output}; needed is one output, a "
            "feature map (batch, height, width, channel) or a vector (batch, feature)."
        )
    finish_loading(model)
    digest = hashlib.sha256(model.to_json().encode())
    for weight in model.weights:
        digest.update(weight.numpy().tobytes())
    return Prefix(
        backbone=model.name,
        weights_digest=digest.hexdigest(),
        boundary=POOLED,
        image_size=int(shape[1]),
        shape=(int(output[-1]),),
        write_graph=None,
        build_model=lambda: model,
        load_weights=None,
    )
