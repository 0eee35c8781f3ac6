"""The configuration of a ``.keras`` file, checked against a list of layers before Keras sees it.

A configuration names classes, and loading it calls them: through lambdas, registered classes,
layers that open files, or functions of Keras itself, files from strangers have run code in Keras's
own loader again and again. Here a literal list says what may be in one. What is not on the list is
refused by name, before anything is built.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from headstart.errors import BackboneError


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Layers that compute from their inputs and their weights only.
LAYERS = _names(
    """
    Activation ActivityRegularization Add AlphaDropout Attention AdditiveAttention Average
    AveragePooling1D AveragePooling2D BatchNormalization CenterCrop Concatenate Conv1D
    Conv1DTranspose Conv2D Conv2DTranspose Cropping2D Dense DepthwiseConv1D DepthwiseConv2D Dot
    Dropout ELU EinsumDense Embedding Flatten GaussianDropout GaussianNoise GlobalAveragePooling1D
    GlobalAveragePooling2D GlobalMaxPooling1D GlobalMaxPooling2D GroupNormalization
    GroupQueryAttention Identity InputLayer LayerNormalization LeakyReLU MaxPooling1D MaxPooling2D
    Maximum Minimum MultiHeadAttention Multiply Normalization PReLU Permute RMSNormalization
    RandomBrightness RandomContrast RandomFlip RandomRotation RandomTranslation RandomZoom ReLU
    RepeatVector Rescaling Reshape Resizing SeparableConv1D SeparableConv2D Softmax
    SpatialDropout1D SpatialDropout2D Subtract UnitNormalization UpSampling2D ZeroPadding2D
    """
)
_MODELS = frozenset({"Functional", "Sequential", "Model"})
# Parts of keras.applications that are no public layers.
_CONVNEXT_PARTS = frozenset({"LayerScale", "StochasticDepth"})
# Plain arithmetic between layers, as `x + y` and `keras.ops` leave it in a graph.
_OPERATIONS = _names(
    """
    Absolute Add Clip Concatenate Divide Exp ExpandDims Flip GetItem HardSigmoid HardSwish Matmul
    Max Maximum Mean Minimum Multiply Negative Power Relu Relu6 Reshape Sigmoid Silu Softmax Split
    Sqrt Square Squeeze Stack Subtract Sum Take Tanh Transpose TrueDivide
    """
)
_INITIALIZERS = _names(
    """
    Constant GlorotNormal GlorotUniform HeNormal HeUniform Identity LecunNormal LecunUniform Ones
    OrthogonalInitializer Orthogonal RandomNormal RandomUniform TruncatedNormal VarianceScaling
    Zeros
    """
)
_REGULARIZERS = frozenset({"L1", "L1L2", "L2", "OrthogonalRegularizer"})
_CONSTRAINTS = frozenset({"MaxNorm", "MinMaxNorm", "NonNeg", "UnitNorm"})
_VALUES = frozenset({"__keras_tensor__", "__tuple__", "__slice__", "__ellipsis__"})

# By the module that a configuration names; Keras 3 writes these.
_ALLOWED: dict[str, frozenset[str]] = {
    "keras.layers": LAYERS,
    "keras.src.models.functional": _MODELS,
    "keras.src.models.sequential": _MODELS,
    "keras.models": _MODELS,
    "keras": _MODELS | {"DTypePolicy"},
    "keras.dtype_policies": frozenset({"DTypePolicy"}),
    "keras.initializers": _INITIALIZERS,
    "keras.regularizers": _REGULARIZERS,
    "keras.constraints": _CONSTRAINTS,
    "keras.src.ops.numpy": _OPERATIONS,
    "keras.src.ops.nn": _OPERATIONS,
    "keras.src.applications.convnext": _CONVNEXT_PARTS,
    "keras.src.applications.inception_resnet_v2": frozenset({"CustomScaleLayer"}),
}
# Strings that Keras resolves to functions.
_ACTIVATIONS = _names(
    """
    celu elu exponential gelu hard_sigmoid hard_silu hard_swish leaky_relu linear log_softmax mish
    relu relu6 selu sigmoid silu softmax softplus softsign swish tanh
    """
)

_DEEPEST = 60
_MOST_OBJECTS = 200_000


def check_config(config: Any, origin: str) -> None:
    """Refuse a configuration with anything that is not on the list.

    How its models were compiled is taken out of it: optimizers and losses are not needed.

    Args:
        config: The parsed ``config.json``; changed.
        origin: The file, for messages.

    Raises:
        BackboneError: Names what is refused and where it is.
    """
    if not isinstance(config, dict) or config.get("class_name") not in _MODELS:
        found = config.get("class_name") if isinstance(config, dict) else type(config).__name__
        raise _refuse(origin, f"the model's class {found!r}", "accepted are functional models")
    for path, item in _list_objects(config, origin):
        item.pop("compile_config", None)  # before it is looked into
        _check_object(item, path, origin)


def _list_objects(config: Any, origin: str) -> Iterator[tuple[str, dict[str, Any]]]:
    waiting: list[tuple[str, Any, int]] = [("", config, 0)]
    seen = 0
    while waiting:
        path, value, depth = waiting.pop()
        seen += 1
        if depth > _DEEPEST or seen > _MOST_OBJECTS:
            raise _refuse(origin, f"the nesting or length at {path[:200]}", "no model is like this")
        if isinstance(value, dict):
            yield path, value
            name = value.get("name") if isinstance(value.get("name"), str) else None
            place = f"{path}/{name}" if name else path
            waiting += [(place, inner, depth + 1) for inner in value.values()]
        elif isinstance(value, list):
            waiting += [(path, inner, depth + 1) for inner in value]


def _check_object(item: dict[str, Any], path: str, origin: str) -> None:
    kind = item.get("class_name")
    if kind is not None:
        _check_class(kind, item, path, origin)
    for key in ("activation", "recurrent_activation"):
        if isinstance(item.get(key), str) and item[key] not in _ACTIVATIONS:
            raise _refuse(origin, f"the activation {item[key]!r} of {path or 'the model'}")


def _check_class(kind: Any, item: dict[str, Any], path: str, origin: str) -> None:
    where = f"in {path}" if path else "at the top"
    if kind in _VALUES:
        return
    module, registered = item.get("module"), item.get("registered_name")
    allowed = _ALLOWED.get(module) if isinstance(module, str) else None
    if not isinstance(kind, str) or allowed is None or kind not in allowed:
        raise _refuse(origin, f"the class {module}.{kind} {where}")
    # Keras writes the bare class name for its own unregistered classes.
    if registered is not None and registered != kind:
        raise _refuse(origin, f"the registered class {registered!r} {where}")
    settings = item.get("config")
    if kind == "Normalization" and isinstance(settings, dict):
        mean = settings.get("mean"), settings.get("variance")
        if any(isinstance(value, str) for value in mean):
            raise _refuse(origin, f"the Normalization {where}, whose statistics are a file")


def _refuse(
    origin: str, what: str, why: str = "it is not on the list of plain layers"
) -> BackboneError:
    return BackboneError(
        f"{origin} is refused: {what}: {why}. Nothing of the file was run. If you trust it, load "
        "it yourself with keras.models.load_model, and instead of the name pass the part up to its "
        "last feature map: keras.Model(model.input, model.get_layer(NAME).output)."
    )
