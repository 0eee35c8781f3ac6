"""Bundle → files for other runtimes, each checked against the bundle on real photos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from headstart.data.decode import KEPT_SHARE
from headstart.errors import ExportError, did_you_mean, require_package
from headstart.evaluation.trust import COVERAGE
from headstart.export.material import Material
from headstart.quiet import hushed
from headstart.task import REGRESSION


class Runner(Protocol):
    """Answers by an export."""

    def run_squares(self, squares: Any) -> Any:
        """``(photo, name)`` probabilities or numbers, of ``(photo, size, size, 3)`` uint8."""

    def run_files(self, contents: Sequence[bytes]) -> list[Any]:
        """``(name,)`` of each file, None where the format cannot read it."""


@dataclass(frozen=True)
class Exporter:
    """A format.

    Attributes:
        module: Of this package, with ``write``, ``Runner`` and ``EXAMPLE``.
        suffix: What is put behind the name of the bundle.
        packages: What it needs.
        tolerance: Largest difference of a probability from identical pixels (of a number, as a
            share of the spread of all answers); None where the score is measured again instead.
        reads: What it takes, for people.
        options: Of ``write``.
    """

    module: str
    suffix: str
    packages: tuple[str, ...]
    tolerance: float | None
    reads: str
    options: tuple[tuple[str, str], ...] = ()

    def write(self, material: Material, target: Path) -> None:
        """Write the file or folder ``target``.

        Raises:
            ExportError: The format cannot hold this network.
            MissingPackageError: A package is missing.
        """
        require_package(*self.packages, purpose=f"exporting {self.suffix.lstrip('-.')}")
        write: Callable[..., None] = self._load().write
        with hushed():  # converters tell of their progress
            write(material, target, **dict(self.options))

    def open(self, target: Path) -> Runner:
        """The export, ready to answer."""
        with hushed():
            runner: Runner = self._load().Runner(target)
        return runner

    def write_example(self, material: Material) -> str:
        """A program of fewer than 20 lines that answers with the export it lies beside."""
        text: str = self._load().EXAMPLE
        return text.format(
            size=material.bundle.image_size,
            kept=KEPT_SHARE,
            output=material.bundle.task.output,
            answer=_tell(material),
        )

    def _load(self) -> Any:
        return import_module(f"headstart.export.{self.module}")


# How examples tell of a row, by what the file beside them says.
_CLASS = 'print(path, told["class_names"][row.argmax()], f"{row.max():.3f}")'
_LABELS = (
    'said = zip(row, told["trust"]["thresholds"], told["class_names"])\n'
    "    print(path, *(name for p, threshold, name in said if p >= threshold))"
)
_VALUE = "print(path, row[0])"
_INTERVAL = f'print(path, row[0], "plus or minus", told["trust"]["half_widths"]["{COVERAGE:g}"])'


def _tell(material: Material) -> str:
    if material.label_thresholds is not None:
        return _LABELS
    if material.bundle.task is REGRESSION:
        return _VALUE if material.half_width is None else _INTERVAL
    return _CLASS


_TENSORFLOW = ("tensorflow", "keras")
_SQUARES = "squares, cut and resized by you"
_PIXELS = "pixels of any size"
# Twice the rounding of float16 weights through a network was seen; ten times that is a mistake.
_HALF = 0.02

EXPORTERS: dict[str, Exporter] = {
    "savedmodel": Exporter(
        "saved_model_format", "-savedmodel", _TENSORFLOW, 1e-3, "files' bytes, or pixels"
    ),
    "onnx": Exporter("onnx_format", ".onnx", ("onnx", "tf2onnx", "tensorflow"), 1e-3, _PIXELS),
    "keras": Exporter("keras_format", ".keras", _TENSORFLOW, 1e-3, _PIXELS),
    "openvino": Exporter(
        "openvino_format", "-openvino", ("openvino", "onnx", "tf2onnx", "tensorflow"), 1e-3, _PIXELS
    ),
    "litert": Exporter(
        "litert_format", ".tflite", (*_TENSORFLOW, "ai_edge_litert"), 1e-3, _SQUARES
    ),
    "litert-float16": Exporter(
        "litert_format",
        "-float16.tflite",
        (*_TENSORFLOW, "ai_edge_litert"),
        _HALF,
        _SQUARES,
        (("precision", "float16"),),
    ),
    "litert-int8": Exporter(
        "litert_format",
        "-int8.tflite",
        (*_TENSORFLOW, "ai_edge_litert"),
        None,
        _SQUARES,
        (("precision", "int8"),),
    ),
    "small": Exporter(
        "small_format", "-small.headstart", ("onnx",), 1e-3, "photos, by Headstart; no novelty"
    ),
}


def get_exporter(name: str) -> Exporter:
    """The format of a name.

    >>> get_exporter("onnx").suffix
    '.onnx'

    Raises:
        ExportError: Unknown name.
    """
    if name not in EXPORTERS:
        raise ExportError(
            f"{name!r} is not a format.{did_you_mean(name, EXPORTERS)} "
            f"Accepted are {', '.join(EXPORTERS)}."
        )
    return EXPORTERS[name]
