"""ONNX with the decoder inside: bytes of a file → probabilities, by onnxruntime-extensions.

Its decoder is another one on each system; on Linux it is libjpeg and libpng, which end the process
where a file is neither JPEG nor PNG (docs/exports.md). Orientation is turned in the graph.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.data.thumbnails import write_png
from headstart.export.material import Floats, Material, Pixels
from headstart.export.onnx_format import convert, put_before
from headstart.export.orientation import find_orientation, turn_upright
from headstart.export.preparation import prepare_images
from headstart.files import write_bytes
from headstart.runtimes.onnx_checks import import_onnxruntime

if TYPE_CHECKING:
    import onnx
    import tensorflow as tf

_DOMAIN = "com.microsoft.extensions"
_READ = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")


def write(material: Material, target: Path) -> None:
    """Write the graph; the session that opens it has to have the extensions' library."""
    write_bytes(target, put_before(_make_decoder(material.bundle.image_size), material))


def _make_decoder(size: int) -> onnx.ModelProto:
    """``image_bytes`` ``(byte,)`` → ``squares`` ``(1, size, size, 3)``."""
    import tensorflow as tf
    from onnx import helper

    def prepare(image: tf.Tensor, data: tf.Tensor) -> tf.Tensor:
        # Grey JPEGs come with one channel.
        coloured = tf.cast(image, tf.float32) + tf.zeros(3)
        square = prepare_images(coloured[None], size)[0]
        return turn_upright(square, find_orientation(data))[None]

    found = convert(
        prepare,
        tf.TensorSpec([None, None, None], tf.uint8, "image"),
        tf.TensorSpec([None], tf.uint8, "image_bytes"),
    )
    image, data = found.graph.input
    node = helper.make_node(
        "DecodeImage", [data.name], [image.name], domain=_DOMAIN, color_space="rgb"
    )
    found.graph.node.insert(0, node)
    del found.graph.input[0]
    data.type.tensor_type.shape.dim[0].dim_param = "byte"
    found.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    return found


class Runner:
    """Answers by an exported graph."""

    def __init__(self, target: Path) -> None:
        from onnxruntime_extensions import get_library_path

        onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        options.register_custom_ops_library(get_library_path())
        self._session: Any = onnxruntime.InferenceSession(
            target, options, providers=["CPUExecutionProvider"]
        )

    def run_squares(self, squares: Pixels) -> Floats:
        """``(photo, class)`` probabilities of the network's squares, each from a PNG of it."""
        return np.concatenate([self._run(write_png(square)) for square in squares])

    def run_files(self, contents: list[bytes]) -> list[Floats | None]:
        """``(class,)`` probabilities of each file; None where the format cannot read it."""
        return [self._run_file(content) for content in contents]

    def _run_file(self, content: bytes) -> Floats | None:
        if not content.startswith(_READ):  # it would end this process
            return None
        try:
            return np.asarray(self._run(content)[0])
        except Exception:  # onnxruntime's errors share no base but Exception
            return None

    def _run(self, content: bytes) -> Floats:
        data = np.frombuffer(content, np.uint8)
        (rows,) = self._session.run(["probabilities"], {"image_bytes": data})
        return np.asarray(rows)


EXAMPLE = """\
import sys
import numpy as np
import onnxruntime
from onnxruntime_extensions import get_library_path

options = onnxruntime.SessionOptions()
options.register_custom_ops_library(get_library_path())
session = onnxruntime.InferenceSession(sys.argv[0][:-3], options)
names = session.get_modelmeta().custom_metadata_map["class_names"].split("\\n")
for path in sys.argv[1:]:
    data = np.fromfile(path, np.uint8)  # JPEG or PNG; others may end this process
    (rows,) = session.run(["probabilities"], {{"image_bytes": data}})
    print(path, names[rows[0].argmax()], f"{{rows[0].max():.3f}}")
"""
