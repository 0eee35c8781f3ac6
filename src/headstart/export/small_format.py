"""The small variant of the bundle: kilobytes, for whoever has Headstart and the backbone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from headstart.bundle import GRAPH, load_bundle, save_bundle
from headstart.data.decode import decode_photo
from headstart.errors import UnreadablePhotoError
from headstart.export.material import Floats, Material, Pixels
from headstart.runtimes.onnx_runtime import open_outputs
from headstart.small import shrink


def write(material: Material, target: Path) -> None:
    """Write the file.

    Raises:
        BundleError: The backbone is not in the catalogue.
    """
    found = shrink(material.bundle)
    save_bundle(target, found.manifest, found.members)


class Runner:
    """Answers by the bundle that is made from the small one."""

    def __init__(self, target: Path) -> None:
        bundle = load_bundle(target)
        self._size = bundle.image_size
        self._run = open_outputs(bundle.members[GRAPH], ("probabilities",))

    def run_squares(self, squares: Pixels) -> Floats:
        """``(photo, name)`` probabilities or numbers, of the network's squares."""
        return np.concatenate([self._run(square[None])[0] for square in squares])

    def run_files(self, contents: list[bytes]) -> list[Floats | None]:
        """``(name,)`` of each file, decoded by the product."""
        return [self._run_file(content) for content in contents]

    def _run_file(self, content: bytes) -> Floats | None:
        try:
            square = decode_photo(content, self._size)
        except UnreadablePhotoError:
            return None
        return np.asarray(self._run(square[None])[0][0])


EXAMPLE = """\
import sys
import headstart

classifier = headstart.load(sys.argv[0][:-3])
for found in classifier.predictor.predict(sys.argv[1:]):
    print(found.item, found.label, f"{{found.probability:.3f}}")
"""
