"""OpenVINO's own format, from the exported ONNX graph."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from headstart.data.thumbnails import read_upright
from headstart.export.material import Floats, Material, Pixels

XML = "model.xml"


def write(material: Material, target: Path) -> None:
    """Write the folder with ``model.xml`` and ``model.bin``, the weights in float32."""
    import openvino

    model = openvino.Core().read_model(io.BytesIO(material.graph_of_any_size))
    model.set_rt_info(material.dump_metadata(), "headstart")
    target.mkdir()
    openvino.save_model(model, target / XML, compress_to_fp16=False)


class Runner:
    """Answers by an exported OpenVINO model."""

    def __init__(self, target: Path) -> None:
        import openvino

        self._model = openvino.Core().compile_model(target / XML, "CPU", _EXACT)

    def run_squares(self, squares: Pixels) -> Floats:
        """``(photo, name)`` probabilities or numbers, of the network's squares."""
        return np.asarray(self._model([squares])[0])

    def run_files(self, contents: list[bytes]) -> list[Floats | None]:
        """``(name,)`` of each file, decoded by Pillow as the example does."""
        return [self.run_squares(read_upright(content)[None])[0] for content in contents]


# Some processors would compute in bfloat16 unasked.
_EXACT = {"INFERENCE_PRECISION_HINT": "f32"}

EXAMPLE = """\
import json
import sys
import numpy as np
import openvino
from PIL import Image, ImageOps

model = openvino.Core().read_model(sys.argv[0][:-3] + "/model.xml")
told = json.loads(model.get_rt_info("headstart").astype(str))
compiled = openvino.compile_model(model, "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})
for path in sys.argv[1:]:
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    row = compiled([np.asarray(image)[None]])[0][0]
    {answer}
"""
