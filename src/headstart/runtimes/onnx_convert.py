"""Keras model → ONNX graph, by way of TensorFlow and tf2onnx.

Both copy what they work on again and again, and constants are part of it: a network of 330 MB took
9 GB, and most of the seconds. So large weights are inputs of the function that is converted, and
become part of the graph at the end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart.errors import BackboneError, require_package
from headstart.quiet import start_tensorflow
from headstart.runtimes import shorten

if TYPE_CHECKING:
    import keras
    import onnx

Arrays = dict[str, npt.NDArray[np.float32]]

_OPSET = 17
# Weights of more numbers than this are kept from the converter. It computes with smaller ones, such
# as the scales of a BatchNormalization.
_MOST_NUMBERS = 2**14


def convert(model: keras.Model) -> bytes:
    """The ONNX graph of a Keras model from uint8 photos to features.

    Memory: some five times the weights, see docs/performance.md.

    Raises:
        MissingPackageError: tf2onnx or TensorFlow is missing.
        BackboneError: The model has operators that ONNX does not have.
    """
    require_package("tensorflow", "tf2onnx", purpose="converting a Keras model to ONNX")
    start_tensorflow()
    import keras
    import tensorflow as tf
    import tf2onnx

    large = {
        f"weight_{number}": variable
        for number, variable in enumerate(model.variables)
        if variable.dtype == "float32" and np.prod(variable.shape) > _MOST_NUMBERS
    }

    def forward(photos: Any, *values: Any) -> dict[str, Any]:
        pairs = list(zip(large.values(), values, strict=True))
        with keras.StatelessScope(state_mapping=pairs):
            return {"features": model(tf.cast(photos, tf.float32), training=False)}

    specifications = [
        tf.TensorSpec((None, *model.input_shape[1:]), tf.uint8, name="photos"),
        *(tf.TensorSpec(variable.shape, tf.float32, name) for name, variable in large.items()),
    ]
    function = tf.function(forward, input_signature=specifications)
    try:
        with _inlining():
            converted, _ = tf2onnx.convert.from_function(
                function,
                input_signature=specifications,
                opset=_OPSET,
                custom_op_handlers={"Erfc": (_write_erfc, [])},
            )
    except Exception as error:  # whatever the layers and the converter raise
        raise BackboneError(
            f"{model.name} cannot be converted to ONNX: {shorten(error)}"
        ) from error
    _put_in(converted, large)
    for value in (*converted.graph.input, *converted.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    return bytes(converted.SerializeToString())


def _put_in(model: onnx.ModelProto, weights: dict[str, keras.Variable]) -> None:
    """Make constants of inputs; what depends on nothing else, such as a transposition, is done."""
    from onnx import numpy_helper

    graph = model.graph
    small = {constant.name: constant for constant in graph.initializer}
    known: Arrays = {}
    left: list[onnx.NodeProto] = []

    def read(name: str) -> npt.NDArray[Any]:
        if name in weights:
            return np.asarray(weights[name].value)
        return known[name] if name in known else np.asarray(numpy_helper.to_array(small[name]))

    for node in graph.node:
        names = set(node.input)
        large = names & (weights.keys() | known.keys())
        if large and names <= large | small.keys():
            known |= _compute(node, {name: read(name) for name in names}, model)
        else:
            left.append(node)
    used = {name for node in left for name in node.input}
    photos = [value for value in graph.input if value.name not in weights]
    for field, kept in ((graph.node, left), (graph.input, photos)):
        del field[:]
        field.extend(kept)
    for name in [*weights, *known]:
        if name in used:
            array = np.ascontiguousarray(read(name))
            graph.initializer.append(numpy_helper.from_array(array, name))


def _compute(node: onnx.NodeProto, inputs: Arrays, model: onnx.ModelProto) -> Arrays:
    """What a single node gives, by ONNX's own reference."""
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    values = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
        for names in (node.input, node.output)
    ]
    alone = helper.make_graph([node], node.name, *values)
    evaluator = ReferenceEvaluator(helper.make_model(alone, opset_imports=model.opset_import))
    return dict(zip(node.output, evaluator.run(None, inputs), strict=True))


@contextlib.contextmanager
def _inlining() -> Iterator[None]:
    """Functions within the one that is traced become part of its graph.

    Keras computes grouped convolutions in a function that is compiled by XLA, which would stay a
    call that ONNX does not have.
    """
    import tensorflow as tf

    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def _write_erfc(graph: Any, node: Any, name: str, args: list[Any]) -> None:
    """erfc(x) = 1 - erf(x), for tf2onnx, which has only the latter; Keras's exact GELU has it."""
    value, shape, kind = node.input[0], node.output_shapes, node.output_dtypes
    one = graph.make_const(f"{name}_one", np.ones((), np.float32)).output[0]
    graph.remove_node(name)
    erf = graph.make_node("Erf", [value], shapes=shape, dtypes=kind).output[0]
    graph.make_node("Sub", [one, erf], name=name, outputs=node.output, shapes=shape, dtypes=kind)
