"""The graph of a Keras model as a list of steps: the only place that knows how Keras stores it.

Models within models (a preprocessing model, a Sequential stem) are unfolded, so that a boundary
may lie inside them.
"""

from __future__ import annotations

import inspect
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from headstart.errors import BoundaryError

if TYPE_CHECKING:
    import keras

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Step:
    """One call of one layer (or operation). Tensors are numbers, unique within a graph.

    Attributes:
        layer: The layer; one that is called twice is in two steps.
        name: Its name, made unique within the graph.
        inputs: Tensors it reads.
        outputs: Tensors it makes.
        input_shapes: Their shapes, with the batch.
        output_shapes: Their shapes, with the batch.
        call: Calls the layer on other values of its inputs; gives its outputs.
    """

    layer: Any
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    input_shapes: tuple[Shape, ...]
    output_shapes: tuple[Shape, ...]
    call: Callable[[dict[int, Any]], list[Any]] = field(repr=False)


@dataclass(frozen=True)
class Graph:
    """A model with one input and one output, in the order of computation.

    Attributes:
        steps: All calls that lead from the input to the output.
        input: The tensor of the photos, a `keras.KerasTensor`; its number is 0.
        output: The tensor of the result.
    """

    steps: tuple[Step, ...]
    input: Any
    output: int

    def list_cuts(self) -> Iterator[tuple[int, int]]:
        """``(step, tensor)`` after which that tensor is the only one that is still needed.

        A tensor on every path from input to output comes, in any order of computation, after all
        that lead to it and before all that follow from it: one sweep finds them all.
        """
        last_use = {tensor: i for i, step in enumerate(self.steps) for tensor in step.inputs}
        last_use[self.output] = len(self.steps)
        live = {0} if last_use.get(0, -1) >= 0 else set()
        for number, step in enumerate(self.steps):
            live |= {tensor for tensor in step.outputs if last_use.get(tensor, -1) > number}
            live = {tensor for tensor in live if last_use[tensor] > number}
            if len(live) == 1 and live <= set(step.outputs):
                yield number, next(iter(live))

    def run(self, first: int, last: int, start: int, value: Any) -> dict[int, Any]:
        """Call the steps ``first`` to ``last`` (excluded) again, from the tensor ``start``."""
        values = {start: value}
        for step in self.steps[first:last]:
            values.update(zip(step.outputs, step.call(values), strict=True))
        return values


def trace(model: keras.Model) -> Graph | None:
    """The graph of a model; None when it has none to read (a model with a ``call`` of its own).

    Raises:
        BoundaryError: The model has several inputs or outputs.
    """
    functional = _as_functional(model)
    if functional is None:
        return None
    if len(functional.inputs) != 1 or len(functional.outputs) != 1:
        raise BoundaryError(
            f"The model {model.name!r} has {len(functional.inputs)} inputs and "
            f"{len(functional.outputs)} outputs; a boundary needs one of each. Make a "
            "keras.Model from one input to the wanted output."
        )
    for unfold in (True, False):
        steps, outputs = _trace_inside(functional, [0], None, unfold, itertools.count(1))
        names = dict.fromkeys((id(step.layer), step.name) for step in steps)
        if len({name for _, name in names}) == len(names):
            break  # else two models within have a layer of one name, which a cut could not have
    return Graph(tuple(_with_unique_names(steps)), functional.inputs[0], outputs[0])


def _as_functional(model: Any) -> Any:
    """The functional model behind a model, if its computation is exactly that graph."""
    import keras
    from keras.src.models.functional import Functional

    if type(model) is keras.Sequential:
        return getattr(model, "_functional", None)
    # A subclass with its own `call` computes something that the graph does not show.
    is_plain = isinstance(model, Functional) and type(model).call is Functional.call
    return model if is_plain else None


def _trace_inside(
    model: Any,
    inputs: list[int],
    training: bool | None,
    unfold: bool,
    numbers: Iterator[int],
) -> tuple[list[Step], list[int]]:
    known = dict(zip((id(tensor) for tensor in model.inputs), inputs, strict=True))
    steps: list[Step] = []
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            if node.is_input or all(id(tensor) in known for tensor in node.output_tensors):
                continue
            layer, arguments = node.operation, node.arguments
            reads = [known[id(tensor)] for tensor in node.input_tensors]
            inner = _as_functional(layer) if unfold else None
            if inner is not None and _is_chain_link(inner, node):
                flag = arguments.kwargs.get("training")
                flag = training if flag is None else flag
                more, makes = _trace_inside(inner, reads, flag, unfold, numbers)
                steps += more
            else:
                makes = [next(numbers) for _ in node.output_tensors]
                steps.append(
                    Step(
                        layer,
                        layer.name,
                        tuple(reads),
                        tuple(makes),
                        tuple(tuple(tensor.shape) for tensor in node.input_tensors),
                        tuple(tuple(tensor.shape) for tensor in node.output_tensors),
                        _caller(node, dict(known), training),
                    )
                )
            known.update(zip((id(t) for t in node.output_tensors), makes, strict=True))
    return steps, [known[id(tensor)] for tensor in model.outputs]


def _is_chain_link(inner: Any, node: Any) -> bool:
    # Shapes differ where a model without a fixed size is called on photos of one.
    return (
        len(inner.inputs) == len(inner.outputs) == len(node.input_tensors) == 1
        and inner.inputs[0].shape == node.input_tensors[0].shape
    )


def _caller(
    node: Any, known: dict[int, int], training: bool | None
) -> Callable[[dict[int, Any]], list[Any]]:
    from keras import tree

    takes_training = (
        training is not None and "training" in inspect.signature(node.operation.call).parameters
    )

    def call(values: dict[int, Any]) -> list[Any]:
        given = {id(tensor): values[known[id(tensor)]] for tensor in node.input_tensors}
        args, kwargs = node.arguments.fill_in(given)
        if takes_training:  # as Keras does: the flag of the outer call replaces a layer's own
            kwargs = {**kwargs, "training": training}
        return list(tree.flatten(node.operation(*args, **kwargs)))

    return call


def _with_unique_names(steps: list[Step]) -> Iterator[Step]:
    seen: Counter[str] = Counter()
    for step in steps:
        seen[step.name] += 1
        number = seen[step.name]
        yield step if number == 1 else replace(step, name=f"{step.name}#{number}")


def list_layers(model: keras.Model) -> list[Any]:
    """The layers as Keras built them, those of nested models in their place; no inputs."""
    from keras.layers import InputLayer

    layers: list[Any] = []
    for layer in model.layers:
        inner = _as_functional(layer)
        layers += list_layers(inner) if inner is not None else [layer]
    return [layer for layer in layers if not isinstance(layer, InputLayer)]


def list_sublayers(layer: Any) -> list[Any]:
    """A layer or model, and all layers within it."""
    flatten = getattr(layer, "_flatten_layers", None)
    return [] if flatten is None else list(flatten())


def list_trainable(layer: Any) -> list[Any]:
    """The variables that a layer would train with ``trainable = True``, whatever its flag is."""
    return [v for inner in list_sublayers(layer) for v in inner._trainable_variables]
