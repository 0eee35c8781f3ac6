"""onnxruntime: Keras model → ONNX graph → session. All knowledge of ONNX graphs as such is here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart.errors import BundleError, require_package

if TYPE_CHECKING:
    import keras

    from headstart.runtimes import Session

_OPSET = 17


def convert(model: keras.Model) -> bytes:
    """The ONNX graph of a Keras model from uint8 photos to features, by way of TensorFlow.

    Raises:
        MissingPackageError: tf2onnx or TensorFlow is missing.
    """
    require_package("tensorflow", "tf2onnx", purpose="converting a Keras model to ONNX")
    import tensorflow as tf
    import tf2onnx
    from onnx import helper

    # tf2onnx 1.17 names numpy types that numpy 2 no longer has; its own look-up is only for
    # string tensors, which no network here contains.
    for name in ("object", "cast", "bool"):
        if name not in np.__dict__:
            setattr(np, name, {"object": object, "bool": bool}.get(name))
    specification = tf.TensorSpec((None, *model.input_shape[1:]), tf.uint8, name="photos")

    @tf.function(input_signature=[specification])
    def run(photos: Any) -> dict[str, Any]:
        return {"features": model(tf.cast(photos, tf.float32), training=False)}

    converted, _ = tf2onnx.convert.from_function(run, input_signature=[specification], opset=_OPSET)
    _name_batch(converted.graph, helper)
    return bytes(converted.SerializeToString())


def _name_batch(graph: Any, _helper: Any) -> None:
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"


def append_head(
    graph: bytes, kernel: npt.NDArray[np.float32], bias: npt.NDArray[np.float32]
) -> bytes:
    """The graph from photos to ``probabilities`` ``(batch, class)``; ``features`` stay an output."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load_from_string(graph)
    nodes = model.graph.node
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.ascontiguousarray(kernel, np.float32), "head/kernel"),
            numpy_helper.from_array(np.ascontiguousarray(bias, np.float32), "head/bias"),
        ]
    )
    features = model.graph.output[0].name
    nodes.append(helper.make_node("Gemm", [features, "head/kernel", "head/bias"], ["logits"]))
    nodes.append(helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1))
    shape = ["batch", len(bias)]
    model.graph.output.append(
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, shape)
    )
    return bytes(model.SerializeToString())


def open_graph(graph: bytes, output: str | None = None) -> Session:
    """A session on a graph with one uint8 input.

    Args:
        graph: A serialised ONNX model.
        output: Name of the wanted output; the first by default.

    Raises:
        BundleError: onnxruntime refuses the graph, or it has no such output.
    """
    require_package("onnxruntime", purpose="the runtime onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # The callers run one batch per core; see headstart.data.stream.
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base but Exception
        raise BundleError(f"onnxruntime refuses the graph: {str(error).splitlines()[0]}") from error
    names = [value.name for value in session.get_outputs()]
    wanted = output or names[0]
    if wanted not in names:
        raise BundleError(f"The graph has the outputs {', '.join(names)}, but not {wanted}.")
    photos = session.get_inputs()[0].name

    def run(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        result: npt.NDArray[np.float32] = session.run([wanted], {photos: images})[0]
        return result

    return run
