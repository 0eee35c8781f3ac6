"""Names of backbones → networks: a Keras model, or its frozen prefix for a runtime."""

from __future__ import annotations

import functools
import hashlib
from typing import TYPE_CHECKING, Any

from headstart.errors import BackboneError, require_package
from headstart.models.backbones import BackboneSpec, get_backbone
from headstart.models.boundary import POOLED, Prefix
from headstart.models.efficientnet_lite.onnx_network import write_onnx_features
from headstart.models.efficientnet_lite.weights import load_weights

if TYPE_CHECKING:
    import keras


def load_backbone(
    name: str = "efficientnet-lite0",
    *,
    weights: str | None = "imagenet",
    image_size: int | None = None,
) -> keras.Model:
    """A pretrained network without its top, frozen, as a Keras functional model.

    Args:
        name: A name of ``headstart backbones``.
        weights: ``"imagenet"``, or None for random weights.
        image_size: Side of the square photos in pixels; the backbone's own by default.

    Returns:
        A `keras.Model` with ``trainable = False`` from ``(batch, size, size, 3)`` RGB photos with
        values 0-255 (preprocessing is inside) to the last feature map
        ``(batch, height, width, channel)``.

    Raises:
        BackboneError: Unknown name or weights.
        MissingPackageError: TensorFlow or the weights package is missing.

    >>> backbone = load_backbone("efficientnet-lite0")
    >>> backbone.output_shape, backbone.trainable
    ((None, 7, 7, 1280), False)
    """
    spec = get_backbone(name)
    if weights not in ("imagenet", None):
        raise BackboneError(f'weights={weights!r} is not known; accepted are "imagenet" and None.')
    require_package("tensorflow", "keras", purpose=f"loading the backbone {name} as a Keras model")
    from headstart.models.efficientnet_lite.keras_network import (
        build_efficientnet_lite,
        set_weights,
    )

    model = build_efficientnet_lite(spec.name, image_size)
    if weights == "imagenet":
        set_weights(model, load_weights(spec.name))
    model.trainable = False
    return model


def load_prefix(backbone: str | BackboneSpec | keras.Model) -> Prefix:
    """The frozen prefix of a backbone, up to its pooled features.

    Args:
        backbone: A name, a record of the catalogue, or a Keras model from 0-255 RGB photos to a
            feature map or vector.

    Raises:
        BackboneError: Unknown name, or a model of another form.
        MissingPackageError: The weights package is missing.
    """
    if isinstance(backbone, str):
        backbone = get_backbone(backbone)
    if isinstance(backbone, BackboneSpec):
        return _catalogue_prefix(backbone)
    return _model_prefix(backbone)


def _catalogue_prefix(spec: BackboneSpec) -> Prefix:
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
        write_graph_until=lambda boundary: write_onnx_features(
            spec.name, load_weights(spec.name), spec.image_size, boundary
        ),
    )


@functools.lru_cache(maxsize=1)
def _write_graph(name: str, image_size: int) -> bytes:
    # Needed twice in a training: by the extraction and in the bundle.
    return write_onnx_features(name, load_weights(name), image_size)


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
