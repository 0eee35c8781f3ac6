"""LiteRT (once TensorFlow Lite): the network's squares → answers, in three precisions."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from headstart.data.decode import decode_photo
from headstart.errors import ExportError, UnreadablePhotoError
from headstart.export.material import Floats, Material, Pixels
from headstart.files import write_bytes
from headstart.runtimes import shorten


def write(material: Material, target: Path, precision: str = "float32") -> None:
    """Write the graph; labels and metadata are files within it, as LiteRT's tools expect.

    Args:
        material: What is exported.
        target: The file.
        precision: ``"float32"``, ``"float16"`` (weights only) or ``"int8"``.

    Raises:
        ExportError: The converter refuses the network, or photos to calibrate with are missing.
    """
    converter = _make_converter(material, is_whole=precision == "int8")
    import tensorflow as tf

    if precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if precision == "int8":
        converter.representative_dataset = partial(_list_representative, material.representative)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.uint8
    try:
        data = bytes(converter.convert())
    except Exception as error:  # the converter's errors share no base but Exception
        raise ExportError(f"LiteRT's converter refuses the network: {shorten(error)}") from error
    write_bytes(target, _attach(data, material))


def _make_converter(material: Material, *, is_whole: bool) -> Any:
    import tensorflow as tf

    size, model, output = material.bundle.image_size, material.model, material.bundle.task.output
    # Whole-number graphs are calibrated on floats, and get a uint8 input afterwards.
    kind = tf.float32 if is_whole else tf.uint8
    specification = tf.TensorSpec((1, size, size, 3), kind, "image")

    def forward(image: Any) -> dict[str, Any]:
        return {output: model(tf.cast(image, tf.float32), training=False)}

    function = tf.function(forward, input_signature=[specification])
    # See headstart.runtimes.litert_runtime.convert.
    module = tf.Module()
    module.function, module.held = function, [variable.value for variable in model.variables]
    return tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function()], module
    )


def _list_representative(photos: Pixels) -> Iterator[list[Any]]:
    if not len(photos):
        raise ExportError("int8 needs training photos to calibrate with: give --photos FOLDER.")
    for photo in photos:
        yield [photo[None].astype(np.float32)]
    # The whole range of pixels, so that a step of the input is a step of a photo.
    for value in (0.0, 255.0):
        yield [np.full((1, *photos.shape[1:]), value, np.float32)]


def _attach(data: bytes, material: Material) -> bytes:
    """The graph with a zip of associated files behind it; interpreters do not look there."""
    stream = io.BytesIO(data)
    stream.seek(0, io.SEEK_END)
    with zipfile.ZipFile(stream, "a") as archive:
        labels = "\n".join(material.bundle.class_names) + "\n"
        for name, text in (("labels.txt", labels), ("headstart.json", material.dump_metadata())):
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            archive.writestr(info, text.encode("utf-8", "replace"))
    return stream.getvalue()


def read_metadata(target: Path) -> dict[str, Any]:
    """What `write` put behind the graph."""
    with zipfile.ZipFile(target) as archive:
        found: dict[str, Any] = json.loads(archive.read("headstart.json"))
    return found


class Runner:
    """Answers by an exported LiteRT graph."""

    def __init__(self, target: Path) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(model_path=str(target), num_threads=1)
        self._interpreter.allocate_tensors()
        (self._image,) = self._interpreter.get_input_details()
        (self._found,) = self._interpreter.get_output_details()

    def run_squares(self, squares: Pixels) -> Floats:
        """``(photo, name)`` probabilities or numbers, of the network's squares."""
        return np.concatenate([self._run(square[None]) for square in squares])

    def run_files(self, contents: list[bytes]) -> list[Floats | None]:
        """``(name,)`` of each file, cut and resized by Pillow."""
        return [self._run_file(content) for content in contents]

    def _run_file(self, content: bytes) -> Floats | None:
        try:
            square = decode_photo(content, int(self._image["shape"][1]))
        except UnreadablePhotoError:
            return None
        return np.asarray(self._run(square[None])[0])

    def _run(self, square: Pixels) -> Floats:
        self._interpreter.set_tensor(self._image["index"], square)
        self._interpreter.invoke()
        found: Floats = self._interpreter.get_tensor(self._found["index"])
        return found


def choose(precision: str) -> Callable[[Material, Path], None]:
    """`write` of one precision."""
    return partial(write, precision=precision)


EXAMPLE = """\
import json, sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image, ImageOps

told = json.load(open(sys.argv[0][:-3] + ".json"))
model = Interpreter(sys.argv[0][:-3])
model.allocate_tensors()
(image_in,), (row_out,) = model.get_input_details(), model.get_output_details()
for path in sys.argv[1:]:
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    half = max({kept} * min(image.size), min(*image.size, {size})) / 2
    (x, y), way = (s / 2 for s in image.size), Image.BICUBIC if half < {size} / 2 else Image.HAMMING
    box = (x - half, y - half, x + half, y + half)
    model.set_tensor(image_in["index"], np.asarray(image.resize(({size},) * 2, way, box))[None])
    model.invoke()
    row = model.get_tensor(row_out["index"])[0]
    {answer}
"""
