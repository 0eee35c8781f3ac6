"""The freeze boundary: what lies before it is a pure function of the photo and computed once.

A boundary is a tensor that every path from the photo to the output goes through. Cut there, the
network is a prefix (frozen, computed once per photo and cached) and a suffix (trained). With
everything frozen the deepest boundary is the pooled feature vector.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart.errors import BoundaryError, did_you_mean
from headstart.models.blocks import Block, find_blocks
from headstart.models.cost import count_multiply_adds
from headstart.models.graph import Graph, trace

if TYPE_CHECKING:
    import keras

Arrays = dict[str, npt.NDArray[Any]]

POOLED = "pooled"

# The name of the boundary before which nothing lies.
INPUT = "photos"

# The cache keeps float16.
_BYTES_PER_NUMBER = 2


@dataclass(frozen=True)
class Boundary:
    """A tensor at which a network can be cut.

    Attributes:
        name: Of the layer that makes it.
        shape: Of one activation, without the batch.
        bytes_per_photo: What the cache keeps of a photo (float16).
        multiply_adds_before: Of the prefix, per photo.
        multiply_adds_after: Of the suffix, per photo.
        step: Number of the last step of the prefix; -1 at the input.
    """

    name: str
    shape: tuple[int, ...]
    bytes_per_photo: int
    multiply_adds_before: int
    multiply_adds_after: int
    step: int

    @property
    def share_before(self) -> float:
        """Share of the multiply-adds that a cache saves; 1 where the network has none."""
        total = self.multiply_adds_before + self.multiply_adds_after
        return self.multiply_adds_before / total if total else 1.0


def list_boundaries(model: keras.Model) -> tuple[Boundary, ...]:
    """All single-tensor cut points of a network, from its input to its output.

    Models within the model are looked into. A model with a ``call`` of its own shows no graph; it
    has one boundary, its output.

    Raises:
        BoundaryError: Several inputs or outputs, or a size that is not fixed.

    >>> from headstart import load_backbone
    >>> boundaries = list_boundaries(load_backbone(weights=None))
    >>> before_last_block = next(b for b in boundaries if b.name == "block6d_add")
    >>> before_last_block.shape, before_last_block.bytes_per_photo
    ((7, 7, 192), 18816)
    >>> round(before_last_block.share_before, 2)
    0.87
    """
    graph = trace(model)
    return _list_opaque(model) if graph is None else _list_in_graph(model, graph)


def _list_in_graph(model: keras.Model, graph: Graph) -> tuple[Boundary, ...]:
    costs = [
        count_multiply_adds(step.layer, step.input_shapes, step.output_shapes)
        for step in graph.steps
    ]
    total, done, spent = sum(costs), 0, 0
    boundaries = [_describe(model, INPUT, graph.input.shape, (0, total), -1)]
    for number, tensor in graph.list_cuts():
        spent, done = spent + sum(costs[done : number + 1]), number + 1
        step = graph.steps[number]
        shape = step.output_shapes[step.outputs.index(tensor)]
        boundaries.append(_describe(model, step.name, shape, (spent, total - spent), number))
    return tuple(boundaries)


def _list_opaque(model: keras.Model) -> tuple[Boundary, ...]:
    shape = getattr(model, "output_shape", None)
    if not isinstance(shape, tuple):
        raise BoundaryError(
            f"The model {model.name!r} has no functional graph and no known output shape; call it "
            "once on photos, or make a keras.Model from its input to its output."
        )
    return (_describe(model, model.name, shape, (0, 0), 0),)


def _describe(
    model: keras.Model, name: str, shape: Any, costs: tuple[int, int], step: int
) -> Boundary:
    if any(size is None for size in shape[1:]):
        raise BoundaryError(
            f"The model {model.name!r} has no fixed size: {name} gives {tuple(shape)}. Build it "
            "for photos of one size, such as load_backbone(name, image_size=224)."
        )
    sizes = tuple(int(size) for size in shape[1:])
    return Boundary(name, sizes, _BYTES_PER_NUMBER * math.prod(sizes), *costs, step)


def get_boundary(model: keras.Model, name: str) -> Boundary:
    """The boundary of a name.

    Raises:
        BoundaryError: There is none; the message has the nearest ones.
    """
    known = {boundary.name: boundary for boundary in list_boundaries(model)}
    if name not in known:
        blocks = ", ".join(block.name for block in list_blocks(model)) or "none"
        raise BoundaryError(
            f"{name!r} is not a boundary of {model.name}.{did_you_mean(name, known)} It has "
            f"{len(known)}, the last of them {list(known)[-1]!r}; its blocks: {blocks}. "
            f"See: headstart backbones NAME, or headstart.list_boundaries(model)."
        )
    return known[name]


def list_blocks(model: keras.Model) -> tuple[Block, ...]:
    """The blocks of a network in order, such as ``block5`` of VGG16; see `find_blocks`.

    >>> from headstart import load_backbone
    >>> [block.name for block in list_blocks(load_backbone(weights=None))][-3:]
    ['block6c', 'block6d', 'block7a']
    """
    graph = trace(model)
    if graph is None:
        return ()
    return find_blocks(graph.steps, [number for number, _ in graph.list_cuts()])


def cut(model: keras.Model, boundary: Boundary | str) -> tuple[keras.Model, keras.Model]:
    """Prefix and suffix of a network; ``suffix(prefix(x))`` is the network.

    Both share the network's layers: training the suffix trains the network.

    Args:
        model: A model with one input and one output.
        boundary: One of `list_boundaries`, or its name.

    Raises:
        BoundaryError: The model has no such boundary.

    >>> from headstart import load_backbone
    >>> prefix, suffix = cut(load_backbone(weights=None, image_size=64), "block6d_add")
    >>> prefix.output_shape, suffix.output_shape
    ((None, 2, 2, 192), (None, 2, 2, 1280))
    """
    import keras

    found = get_boundary(model, boundary if isinstance(boundary, str) else boundary.name)
    graph = trace(model)
    if graph is None:
        start = keras.Input(found.shape)
        return model, keras.Model(start, start, name=f"{model.name}_suffix")
    first = found.step + 1
    tensor = dict(graph.list_cuts())[found.step] if first else 0
    photos = keras.Input(graph.input.shape[1:], dtype=graph.input.dtype)
    activations = graph.run(0, first, 0, photos)[tensor]
    prefix = keras.Model(photos, activations, name=f"{model.name}_prefix")
    start = keras.Input(found.shape, dtype=activations.dtype)
    result = graph.run(first, len(graph.steps), tensor, start)[graph.output]
    return prefix, keras.Model(start, result, name=f"{model.name}_suffix")


@dataclass(frozen=True)
class Prefix:
    """The frozen part of a network, ready to be opened by a runtime.

    Attributes:
        backbone: Name of the backbone.
        weights_digest: sha256 that changes with the weights.
        boundary: Where it ends; `POOLED` for the globally pooled features.
        image_size: Side of its square input in pixels.
        shape: Shape of one activation, without the batch.
        write_graph: Gives the ONNX graph without TensorFlow, where that is known how; else None.
        build_model: Gives the backbone as a Keras model (before pooling). Others may have the same
            one: whoever changes a model takes `build_copy`.
        load_weights: The backbone's arrays by ``layer/variable`` without TensorFlow; else None.
        emit_graph: As ``write_graph``, with other weights (None: its own) and up to the boundary
            of a name (None: the pooled features).
    """

    backbone: str
    weights_digest: str
    boundary: str
    image_size: int
    shape: tuple[int, ...]
    write_graph: Callable[[], bytes] | None
    build_model: Callable[[], keras.Model]
    load_weights: Callable[[], Arrays] | None
    emit_graph: Callable[[Arrays | None, str | None], bytes] | None = None


def cut_prefix(prefix: Prefix, boundary: Boundary, model: keras.Model | None = None) -> Prefix:
    """The prefix of the same backbone that ends at a boundary instead of the pooled features.

    Args:
        prefix: To the pooled features.
        boundary: Where it shall end.
        model: The backbone, where it is at hand. Then the digest of a catalogue backbone is that of
            the weights before the boundary, so that what was tuned after it finds the same rows.
    """
    emit = prefix.emit_graph
    digest = prefix.weights_digest
    if model is not None and prefix.load_weights is not None and boundary.name != INPUT:
        before = cut(model, boundary)[0]
        arrays = {f"{v.path}": v.value.numpy() for v in before.variables}
        digest = digest_arrays(arrays)
    return replace(
        prefix,
        boundary=boundary.name,
        shape=boundary.shape,
        weights_digest=digest,
        write_graph=None if emit is None else lambda: emit(None, boundary.name),
    )


def change_weights(prefix: Prefix, model: keras.Model, arrays: Arrays) -> Prefix:
    """The prefix of a backbone whose weights were trained.

    Args:
        prefix: Before that.
        model: The backbone with its new weights.
        arrays: The same by ``layer/variable``.
    """
    emit, is_known = prefix.emit_graph, prefix.load_weights is not None
    digest = digest_arrays(arrays)
    if not is_known:  # its name says nothing of its structure; the digest before did
        digest = hashlib.sha256(f"{prefix.weights_digest} {digest}".encode()).hexdigest()
    graph = None if emit is None else functools.lru_cache(maxsize=1)(lambda: emit(arrays, None))
    return replace(
        prefix,
        weights_digest=digest,
        write_graph=graph,
        build_model=lambda: model,
        load_weights=(lambda: arrays) if is_known else None,
        emit_graph=None if emit is None else lambda new, end: emit(new or arrays, end),
    )


def digest_arrays(arrays: Arrays) -> str:
    """sha256 of arrays and their names, whatever their order."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].shape} {arrays[name].dtype};".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def build_copy(prefix: Prefix) -> keras.Model:
    """The backbone as a model of its own, which may be changed."""
    import keras

    model = prefix.build_model()
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    if not model.trainable:
        copy.trainable = False
    return copy


def build_prefix_model(prefix: Prefix) -> keras.Model:
    """The prefix as a Keras model in inference mode: photos → activations at its boundary."""
    import keras

    backbone = prefix.build_model()
    if prefix.boundary != POOLED:
        return cut(backbone, prefix.boundary)[0]
    photos = keras.Input(backbone.input_shape[1:], name="photos")
    return keras.Model(photos, pool(backbone(photos, training=False)), name="prefix")


def pool(x: Any) -> Any:
    """Global average pooling of a feature map; a vector stays as it is."""
    from keras import layers

    return layers.GlobalAveragePooling2D(name="pooling")(x) if len(x.shape) == 4 else x
