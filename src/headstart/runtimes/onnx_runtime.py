"""onnxruntime: ONNX graph → session, and what a classifier adds to a graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart.errors import BundleError, require_package
from headstart.runtimes import shorten
from headstart.runtimes.graphs import get_converted
from headstart.runtimes.onnx_checks import check_graph, import_onnxruntime, limit_memory
from headstart.runtimes.onnx_convert import convert
from headstart.task import CLASSIFICATION, Task

if TYPE_CHECKING:
    import keras

    from headstart.runtimes import Computable, Session


def get_graph(prefix: Computable, build_model: Callable[[], keras.Model]) -> bytes:
    """The ONNX graph of a prefix: written without TensorFlow, from the cache, or converted now."""
    if prefix.write_graph:
        return prefix.write_graph()
    packages = ("tensorflow", "keras", "tf2onnx")
    require_package(*packages, purpose="converting a Keras model to ONNX")
    return get_converted(prefix, ".onnx", packages, lambda: convert(build_model()))


# What computes a head's activation, by the name that Keras has for it.
_ACTIVATIONS: dict[str, tuple[str, dict[str, int]]] = {
    "softmax": ("Softmax", {"axis": 1}),
    "sigmoid": ("Sigmoid", {}),
    "linear": ("Identity", {}),
}


def append_head(
    graph: bytes,
    kernel: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32],
    task: Task = CLASSIFICATION,
) -> bytes:
    """The graph with an output beside ``features``: ``probabilities`` ``(batch, class)``.

    Of several labels they are sigmoids, each by itself; of a regression the output is ``values``
    ``(batch, 1)``.
    """
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
    kind, attributes = _ACTIVATIONS[task.activation]
    nodes.append(helper.make_node(kind, ["logits"], [task.output], **attributes))
    shape = ["batch", len(bias)]
    model.graph.output.append(helper.make_tensor_value_info(task.output, TensorProto.FLOAT, shape))
    return bytes(model.SerializeToString())


def open_graph(graph: bytes, output: str | None = None) -> Session:
    """A session on a graph with one uint8 input.

    Args:
        graph: A serialised ONNX model.
        output: Name of the wanted output; the first by default.

    Raises:
        BundleError: The graph holds what is not accepted (see `onnx_checks`), onnxruntime refuses
            it, it has another input, or no such output. The session raises it where photos of this
            size cannot be computed.
    """
    run = open_outputs(graph, () if output is None else (output,))
    return lambda images: run(images)[0]


def open_outputs(
    graph: bytes, outputs: Sequence[str] = (), kind: str = "uint8"
) -> Callable[[npt.NDArray[Any]], list[npt.NDArray[np.float32]]]:
    """As `open_graph`, but for several outputs of one pass; the first by default.

    Args:
        graph: A serialised ONNX model.
        outputs: Their names.
        kind: Of the only input: ``"uint8"`` of photos, ``"float"`` of what was computed of them.
    """
    session = open_session(graph)
    names = [value.name for value in session.get_outputs()]
    wanted = list(outputs) or names[:1]
    for name in wanted:
        if name not in names:
            raise BundleError(f"The graph has the outputs {', '.join(names)}, but not {name}.")
    inputs = session.get_inputs()
    if [value.type for value in inputs] != [f"tensor({kind})"]:
        found = ", ".join(f"{value.name} {value.type}" for value in inputs)
        raise BundleError(f"The graph has the inputs {found or 'none'}; needed is one of {kind}.")

    def run(images: npt.NDArray[Any]) -> list[npt.NDArray[np.float32]]:
        try:
            return list(session.run(wanted, {inputs[0].name: images}))
        except Exception as error:  # onnxruntime's errors share no base but Exception
            raise BundleError(
                f"onnxruntime cannot compute photos {images.shape}: {shorten(error)}"
            ) from error

    return run


def open_session(graph: bytes) -> Any:
    """An ``onnxruntime.InferenceSession`` of one thread on a graph that was checked.

    Raises:
        BundleError: The graph holds what is not accepted, or onnxruntime refuses it.
    """
    require_package("onnxruntime", purpose="the runtime onnxruntime")
    check_graph(graph)
    onnxruntime = import_onnxruntime()

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised, and needs no line on stderr
    # The callers run one batch per core; see headstart.data.stream.
    options.intra_op_num_threads = 1
    options.add_session_config_entry(*limit_memory())
    try:
        # Its fallback would print to stdout, and try the same again.
        return onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
    except Exception as error:  # as above
        raise BundleError(f"onnxruntime refuses the graph: {shorten(error)}") from error
