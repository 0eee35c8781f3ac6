"""EfficientNet-Lite as an ONNX graph, written straight from the weights.

Converting the Keras model gives the same numbers (a test holds it), but costs the import of
TensorFlow and the conversion: more seconds than a thousand photos. With this writer the built-in
backbone is trained on and predicts in an environment, or at least a process, without TensorFlow.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.errors import BoundaryError, did_you_mean
from headstart.models.efficientnet_lite.architecture import (
    EPSILON,
    PIXEL_MEAN,
    PIXEL_SCALE,
    VARIANTS,
    emit,
)
from headstart.models.efficientnet_lite.weights import Arrays

# Old enough for every runtime of the last years, and all that is needed.
OPSET, IR_VERSION = 17, 8


class _OnnxEmitter:
    """Tensors are ``(name, channels)``; activations are NCHW, as ONNX has them."""

    def __init__(self, weights: Arrays) -> None:
        from onnx import helper, numpy_helper

        self._helper, self._from_array = helper, numpy_helper.from_array
        self._weights = weights
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self._zero = self.constant(np.array(0, np.float32), "zero")
        self._six = self.constant(np.array(6, np.float32), "six")

    def constant(self, array: npt.NDArray[Any], name: str) -> str:
        self.initializers.append(self._from_array(np.asarray(array, order="C"), name))
        return name

    def node(self, kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self.nodes.append(self._helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def keep_until(self, name: str) -> None:
        """Drop the nodes after the one of a name, and the arrays that only they need."""
        names = [node.name for node in self.nodes]
        if name not in names:
            raise BoundaryError(
                f"{name!r} is not a layer of EfficientNet-Lite.{did_you_mean(name, names)}"
            )
        self.nodes = self.nodes[: names.index(name) + 1]
        needed = {tensor for node in self.nodes for tensor in node.input}
        self.initializers = [array for array in self.initializers if array.name in needed]

    def preprocess(self, photos: tuple[str, int]) -> tuple[str, int]:
        mean = self.constant(np.array(PIXEL_MEAN, np.float32), "preprocessing/mean")
        scale = self.constant(np.array(1 / PIXEL_SCALE, np.float32), "preprocessing/scale")
        x = self.node("Cast", [photos[0]], "preprocessing/float", to=1)
        x = self.node("Sub", [x, mean], "preprocessing/centred")
        x = self.node("Mul", [x, scale], "preprocessing/scaled")
        return self.node("Transpose", [x], "preprocessing", perm=[0, 3, 1, 2]), photos[1]

    def _conv(self, x: str, kernel: npt.NDArray[Any], stride: int, name: str, group: int) -> str:
        return self.node(
            "Conv",
            [x, self.constant(kernel, f"{name}/kernel")],
            name,
            auto_pad="SAME_UPPER",
            kernel_shape=list(kernel.shape[2:]),
            strides=[stride, stride],
            group=group,
        )

    def conv(
        self, x: tuple[str, int], filters: int, kernel: int, stride: int, name: str
    ) -> tuple[str, int]:
        array = self._weights[f"{name}/kernel"].transpose(3, 2, 0, 1)
        return self._conv(x[0], array, stride, name, group=1), filters

    def depthwise(self, x: tuple[str, int], kernel: int, stride: int, name: str) -> tuple[str, int]:
        array = self._weights[f"{name}/kernel"].transpose(2, 3, 0, 1)
        return self._conv(x[0], array, stride, name, group=x[1]), x[1]

    def norm(self, x: tuple[str, int], name: str) -> tuple[str, int]:
        keys = [f"{name}/{part}" for part in ("gamma", "beta", "moving_mean", "moving_variance")]
        inputs = [x[0], *(self.constant(self._weights[key], key) for key in keys)]
        return self.node("BatchNormalization", inputs, name, epsilon=EPSILON), x[1]

    def relu6(self, x: tuple[str, int], name: str) -> tuple[str, int]:
        return self.node("Clip", [x[0], self._zero, self._six], name), x[1]

    def add(self, x: tuple[str, int], y: tuple[str, int], name: str) -> tuple[str, int]:
        return self.node("Add", [x[0], y[0]], name), x[1]

    def channels(self, x: tuple[str, int]) -> int:
        return x[1]


def write_onnx_features(
    name: str, weights: Arrays, image_size: int, boundary: str | None = None
) -> bytes:
    """The graph from photos to features, as a serialised ONNX model.

    Args:
        name: A key of `VARIANTS`.
        weights: The arrays of `load_weights`.
        image_size: Side of the square input in pixels.
        boundary: Name of the layer whose output the features are; globally pooled by default.

    Returns:
        A model with the input ``photos`` ``(batch, size, size, 3)`` uint8 and the output
        ``features`` float32, ``(batch, 1280)`` or ``(batch, height, width, channel)``.

    Raises:
        BoundaryError: No layer has that name.
    """
    from onnx import TensorProto, helper

    to = _OnnxEmitter(weights)
    top, channels = emit(VARIANTS[name], to, ("photos", 3))
    if boundary is None:
        to.node("Flatten", [to.node("GlobalAveragePool", [top], "pooling")], "features", axis=1)
        sizes = ["batch", channels]
    else:
        to.keep_until(boundary)
        to.node("Transpose", [boundary], "features", perm=[0, 2, 3, 1])
        sizes = ["batch", "height", "width", "channel"]
    shape = ["batch", image_size, image_size, 3]
    graph = helper.make_graph(
        to.nodes,
        name,
        [helper.make_tensor_value_info("photos", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, sizes)],
        to.initializers,
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="headstart",
    )
    return bytes(model.SerializeToString())
