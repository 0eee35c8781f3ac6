"""Functional Keras models rebuilt with stable names, and their arrays by name."""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.errors import BackboneError
from headstart.models.graph import trace
from headstart.models.preprocessing import Preprocessing, preprocess

if TYPE_CHECKING:
    import keras
    import numpy.typing as npt

Arrays = Mapping[str, "npt.NDArray[Any]"]
_SEED = 0


@contextlib.contextmanager
def seeded() -> Iterator[None]:
    """Layers that are built inside get the same random weights every time.

    Keras draws the seeds of initialisers from Python's generator, whose state is put back.
    """
    state = random.getstate()
    random.seed(_SEED)
    try:
        yield
    finally:
        random.setstate(state)


def rebuild(
    model: keras.Model, name: str, insert: Callable[[Any, Any], Any] | None = None
) -> keras.Model:
    """The same network of new layers, whose names do not depend on what was built before.

    Keras numbers layers without a name through a whole session: ``conv2d_94`` is ``conv2d`` in
    another one. Here they are numbered within the model, so that names of boundaries and keys of
    arrays mean the same tomorrow. Names that the network's author gave stay.

    Args:
        model: A functional model that is given up for the new one: its layers are renamed, too.
        name: Of the new model.
        insert: Called with each layer and its output; what it returns goes on instead of the
            output.
    """
    import keras

    _rename(model.operations)

    def clone(operation: Any) -> Any:
        return type(operation).from_config(operation.get_config())

    def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
        output = operation(*args, **kwargs)
        return insert(operation, output) if insert else output

    made = keras.models.clone_model(model, clone_function=clone, call_function=call)
    # The clone may be of the model's own class, with a constructor of its own.
    return keras.Model(made.inputs[0], made.outputs[0], name=name)


def put_before(
    model: keras.Model,
    kind: Preprocessing,
    image_size: int,
    name: str,
    *,
    finish: Callable[[Any], Any] | None = None,
    is_copied: bool = True,
) -> keras.Model:
    """A functional model, flat, with preprocessing in front, for photos of one size.

    Models within the model are unfolded.

    Args:
        model: A functional model with one input; it is given up for the new one.
        kind: What to put in front.
        image_size: Side of the photos in pixels.
        name: Of the new model.
        finish: Called with the output; what it returns becomes the output.
        is_copied: Whether the layers are new ones; else they are those of the model, which some
            layers' incomplete configurations call for.

    Raises:
        BackboneError: It has no graph, or cannot take photos of this size.
    """
    import keras

    graph = trace(model)
    if graph is None:
        raise BackboneError(
            f"{name} has a call of its own and shows no graph of layers, so that it cannot be "
            "taken apart. Build it as a functional model."
        )
    _rename([step.layer for step in graph.steps])
    photos = keras.Input((image_size, image_size, 3), name="photos")
    try:
        values = graph.run(0, len(graph.steps), 0, preprocess(photos, kind))
        output = values[graph.output]
        plain = keras.Model(photos, finish(output) if finish else output, name=name)
    except (ValueError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BackboneError(
            f"{name} cannot be built for photos of {image_size} pixels: {reason}"
        ) from error
    if not is_copied:
        return plain
    with seeded():
        made = rebuild(plain, name)
    for new, old in zip(made.weights, plain.weights, strict=True):
        new.assign(old)
    finish_loading(made)
    return made


def _rename(operations: Iterable[Any]) -> None:
    """Number what has a name of Keras's making; make all names differ."""
    distinct = list({id(operation): operation for operation in operations}.values())
    automatic = []
    taken: set[str] = set()
    for operation in distinct:
        stem = _snake_case(type(operation).__name__)
        if re.fullmatch(rf"{stem}(_\d+)?", operation.name) or operation.name in taken:
            automatic.append((operation, stem))
        else:
            taken.add(operation.name)
    for operation, stem in automatic:
        name, number = stem, 0
        while name in taken:
            number += 1
            name = f"{stem}_{number}"
        taken.add(name)
        operation.name = name


def _snake_case(name: str) -> str:
    """As Keras derives the names of layers from their classes.

    >>> _snake_case("SeparableConv2D"), _snake_case("ReLU")
    ('separable_conv2d', 're_lu')
    """
    name = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def list_arrays(model: keras.Model) -> dict[str, npt.NDArray[Any]]:
    """The weights of a model by ``layer/variable``, those of inner models by their whole path."""
    return {key: np.asarray(variable) for key, variable in _list_variables(model)}


def set_arrays(model: keras.Model, arrays: Arrays, origin: str = "") -> None:
    """Give every weight of a model its array, found by `list_arrays`'s key.

    Args:
        model: A built model.
        arrays: By key; more than the model needs are left out.
        origin: Where they come from, for messages.

    Raises:
        BackboneError: An array is missing or has another shape.
    """
    where = f" of {origin}" if origin else ""
    variables = list(_list_variables(model))
    for key, variable in variables:
        found = arrays[key].shape if key in arrays else None
        if found != tuple(variable.shape):
            raise BackboneError(
                f"The weights{where} do not fit {model.name}: {key} needs the shape "
                f"{tuple(variable.shape)}, found {found or 'nothing'}."
            )
    for key, variable in variables:
        variable.assign(arrays[key])
    finish_loading(model)


def finish_loading(model: keras.Model) -> None:
    """Let layers take over what was assigned: `Normalization` computes with a copy.

    The copy is kept as NumPy arrays: as tensors of TensorFlow they would become inputs of the graph
    that is converted for other runtimes. Models within the model are finished as well.
    """
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.Model):
            finish_loading(layer)
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()
        if type(layer).__name__ == "Normalization" and getattr(layer, "mean", None) is not None:
            layer.mean, layer.variance = np.asarray(layer.mean), np.asarray(layer.variance)


def _list_variables(model: keras.Model) -> Iterator[tuple[str, Any]]:
    for layer in model.layers:
        for variable in layer.weights:
            inner = variable.path.split("/")
            inner = inner[1:] if inner[0] == layer.name else inner[-1:]
            yield "/".join((layer.name, *inner)), variable
