"""ONNX: pixels of any size → answers, for onnxruntime and whatever else reads ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.data.thumbnails import read_upright
from headstart.export.material import Floats, Material, Pixels
from headstart.export.preparation import prepare_images
from headstart.files import write_bytes
from headstart.runtimes.onnx_runtime import open_outputs

if TYPE_CHECKING:
    import onnx

_OPSET = 17


def write(material: Material, target: Path) -> None:
    """Write the graph with the resize before it, checked by ``onnx.checker``."""
    write_bytes(target, material.graph_of_any_size)


def make_graph(material: Material) -> bytes:
    """``images`` ``(batch, height, width, 3)`` uint8 → ``probabilities`` ``(batch, class)``.

    Where the bundle has thresholds also ``set`` ``(batch, class)`` and ``is_sure`` ``(batch,)``,
    both boolean, as `headstart.evaluation.trust.Trust.judge` says them. Where a photo may have
    several labels also ``labels`` ``(batch, label)``, boolean. Of a regression: ``values``
    ``(batch, 1)``, and the ends of the interval, ``low`` and ``high``, shaped alike.
    """
    import onnx

    inner = onnx.load_from_string(material.graph)
    outer = _convert_preparation(material.bundle.image_size)
    outer = onnx.compose.add_prefix(outer, "prepare/", rename_inputs=False, rename_outputs=False)
    inner.ir_version = outer.ir_version = max(inner.ir_version, outer.ir_version)
    del inner.graph.value_info[:]
    pair = [(outer.graph.output[0].name, inner.graph.input[0].name)]
    merged = onnx.compose.merge_models(
        outer, inner, io_map=pair, outputs=[material.bundle.task.output]
    )
    _judge(merged.graph, material)
    for key, value in {
        "class_names": "\n".join(material.bundle.class_names),
        "headstart": material.dump_metadata(),
    }.items():
        merged.metadata_props.add(key=key, value=value.encode("utf-8", "replace").decode())
    merged.producer_name = "headstart"
    onnx.checker.check_model(merged)
    return bytes(merged.SerializeToString())


def _judge(graph: onnx.GraphProto, material: Material) -> None:
    """Outputs by the thresholds, behind the probabilities."""
    from onnx import TensorProto, helper, numpy_helper

    def node(kind: str, *inputs: str | Any, name: str = "", **attributes: Any) -> str:
        """An operator; what it takes besides tensors of the graph is put there."""
        name = name or f"judge/{len(graph.node)}"
        for place, value in enumerate(inputs):
            if not isinstance(value, str):
                graph.initializer.append(
                    numpy_helper.from_array(np.asarray(value), f"{name}/{place}")
                )
        names = [v if isinstance(v, str) else f"{name}/{p}" for p, v in enumerate(inputs)]
        graph.node.append(helper.make_node(kind, names, [name], name=name, **attributes))
        return name

    def output(name: str, *shape: str | int, kind: int = TensorProto.BOOL) -> None:
        graph.output.append(helper.make_tensor_value_info(name, kind, shape))

    rows, count = material.bundle.task.output, len(material.bundle.class_names)
    if material.set_threshold is not None:
        wide = node("Cast", rows, to=TensorProto.DOUBLE)
        scores = node("Sub", np.float64(1), wide)
        is_in = node("LessOrEqual", scores, np.float64(material.set_threshold))
        best = node("ArgMax", rows, axis=1)
        node("Or", is_in, node("Equal", best, np.arange(count)), name="set")
        output("set", "batch", count)
    if material.sure_from is not None:
        highest = node("ReduceMax", rows, axes=[1], keepdims=0)
        node("GreaterOrEqual", highest, np.float32(material.sure_from), name="is_sure")
        output("is_sure", "batch")
    if material.label_thresholds is not None:
        wide = node("Cast", rows, to=TensorProto.DOUBLE)
        thresholds = np.array(material.label_thresholds, np.float64)
        node("GreaterOrEqual", wide, thresholds, name="labels")
        output("labels", "batch", count)
    if material.half_width is not None:
        for name, kind in (("low", "Sub"), ("high", "Add")):
            node(kind, rows, np.float32(material.half_width), name=name)
            output(name, "batch", 1, kind=TensorProto.FLOAT)


def _convert_preparation(size: int) -> onnx.ModelProto:
    import tensorflow as tf
    import tf2onnx

    specification = [tf.TensorSpec([None, None, None, 3], tf.uint8, "images")]

    def prepare(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"squares": tf.cast(prepare_images(tf.cast(images, tf.float32), size), tf.uint8)}

    function = tf.function(prepare, input_signature=specification)
    converted, _ = tf2onnx.convert.from_function(
        function, input_signature=specification, opset=_OPSET
    )
    for value, sides in (
        (converted.graph.input[0], ("batch", "height", "width")),
        (converted.graph.output[0], ("batch",)),
    ):
        for place, side in enumerate(sides):
            value.type.tensor_type.shape.dim[place].dim_param = side
    return converted


class Runner:
    """Answers by an exported ONNX graph."""

    def __init__(self, target: Path) -> None:
        self._run = open_outputs(target.read_bytes())  # the first output

    def run_squares(self, squares: Pixels) -> Floats:
        """``(photo, name)`` probabilities or numbers, of the network's squares."""
        return self._run(squares)[0]

    def run_files(self, contents: list[bytes]) -> list[Floats | None]:
        """``(name,)`` of each file, decoded by Pillow as the example does."""
        return [self._run(read_upright(content)[None])[0][0] for content in contents]


EXAMPLE = """\
import json
import sys
import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[0][:-3])
told = json.loads(session.get_modelmeta().custom_metadata_map["headstart"])
for path in sys.argv[1:]:
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    row = session.run(None, {{"images": np.asarray(image)[None]}})[0][0]
    {answer}
"""
