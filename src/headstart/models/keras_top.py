"""Where the backbone ends in a classifier: the top of a whole model is found and left out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from headstart.models.graph import Graph, Step, trace

if TYPE_CHECKING:
    import keras

# What stands between the last feature map and the probabilities.
_CLASSIFIERS = {"Dense", "Conv2D"}
_FLATTENERS = {"GlobalAveragePooling2D", "Flatten", "Reshape"}
_PASSING = {
    *("ActivityRegularization", "Activation", "AlphaDropout", "BatchNormalization", "Dropout"),
    *("ELU", "GaussianDropout", "GaussianNoise", "Identity", "LayerNormalization", "LeakyReLU"),
    *("PReLU", "ReLU", "Softmax", "SpatialDropout2D", "UnitNormalization", "GlobalMaxPooling2D"),
}


def cut_top(model: keras.Model) -> keras.Model:
    """A model without its classifier, of the same layers; a backbone is given back as it is.

    A model whose output is a feature map, or a vector that no Dense layer made, is a backbone.
    Otherwise the plain chain of head layers is followed back from the output. If it begins with
    global average pooling or flattening of a feature map, the backbone ends in that map. If it
    begins with global max pooling, it ends in the pooled vector. If no feature map is found, as in
    vision transformers, only the last Dense layer, and dropout right before it, are left out.

    Args:
        model: A model; one without a graph is given back as it is.

    Raises:
        BoundaryError: It has several inputs or outputs.
    """
    import keras

    graph = trace(model)
    tensor = None if graph is None else _find_output(graph)
    if graph is None or tensor is None:
        return model
    start = keras.Input(graph.input.shape[1:], dtype=graph.input.dtype, name="photos")
    last = next(i for i, step in enumerate(graph.steps) if tensor in step.outputs)
    values = graph.run(0, last + 1, 0, start)
    return keras.Model(start, values[tensor], name=model.name)


def gives_probabilities(model: keras.Model) -> bool:
    """Whether its last layer makes probabilities of classes."""
    last = getattr(model, "layers", [None])[-1]
    activation = getattr(getattr(last, "activation", None), "__name__", "")
    return type(last).__name__ == "Softmax" or activation in ("softmax", "sigmoid")


def _find_output(graph: Graph) -> int | None:
    """The tensor at which the backbone ends; None where the model has no classifier."""
    chain = _list_chain(graph)
    if not any(_is_classifier(step) for step in chain):
        return None
    for step in chain:
        if _is_map(step.input_shapes[0]):
            is_kept = type(step.layer).__name__ not in _FLATTENERS
            return step.outputs[0] if is_kept else step.inputs[0]
    last = next(number for number, step in enumerate(chain) if _is_classifier(step))
    while last + 1 < len(chain) and type(chain[last + 1].layer).__name__.endswith("Dropout"):
        last += 1
    return chain[last].inputs[0]


def _list_chain(graph: Graph) -> list[Step]:
    """Head layers from the output back, one after the other, each the only reader of the last."""
    made_by = {tensor: step for step in graph.steps for tensor in step.outputs}
    chain: list[Step] = []
    tensor = graph.output
    while tensor in made_by:
        step = made_by[tensor]
        if len(step.inputs) != 1 or _is_map(step.output_shapes[0]) or not _is_head(step):
            break
        chain.append(step)
        tensor = step.inputs[0]
    return chain


def _is_head(step: Step) -> bool:
    name = type(step.layer).__name__
    return name in _PASSING | _FLATTENERS or _is_classifier(step)


def _is_classifier(step: Step) -> bool:
    # A convolution of a single position is a Dense layer, as MobileNet's top has it.
    return type(step.layer).__name__ in _CLASSIFIERS and not _is_map(step.input_shapes[0])


def _is_map(shape: tuple[int | None, ...]) -> bool:
    """Whether a tensor still has positions: ``(batch, height, width, channel)``, not 1 by 1."""
    return len(shape) == 4 and math.prod(size or 2 for size in shape[1:3]) > 1
