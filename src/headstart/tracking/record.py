"""What trackers are told: settings and figures under flat names, series of epochs, documents."""

from __future__ import annotations

import dataclasses
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from headstart.errors import HeadstartError

_LOGGER = logging.getLogger(__name__)

# Of an epoch: names as Keras has them, so that curves lie beside those of other trainings.
_EPOCH = {
    "loss": "loss",
    "accuracy": "accuracy",
    "validation_loss": "val_loss",
    "validation_accuracy": "val_accuracy",
    "learning_rate": "learning_rate",
    "seconds": "seconds",
}


class Series:
    """Tells the runs of a training apart: a name that begins again is another series.

    >>> from types import SimpleNamespace
    >>> series, empty = Series(), dict.fromkeys(_EPOCH)
    >>> [series.describe(SimpleNamespace(run="fold 1", number=n, **empty))[0] for n in (1, 2, 1)]
    ['fold 1', 'fold 1', 'fold 1 - 2']
    """

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._count: dict[str, int] = {}

    def describe(self, epoch: Any) -> tuple[str, int, dict[str, float]]:
        """Series, number and figures of a `headstart.training.loop.Epoch`."""
        run, number = str(epoch.run), int(epoch.number)
        if number <= self._last.get(run, number):
            self._count[run] = self._count.get(run, 0) + 1
        self._last[run] = number
        count = self._count[run]
        found = {name: getattr(epoch, key) for key, name in _EPOCH.items()}
        figures = {name: float(value) for name, value in found.items() if value is not None}
        return run if count == 1 else f"{run} - {count}", number, figures


def list_settings(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Settings by dotted name; what is None is left out, an object is its name.

    >>> list_settings({"recipe": {"name": "tune", "fine_tune": {"epochs": 3}}, "unfreeze": None})
    {'recipe.name': 'tune', 'recipe.fine_tune.epochs': 3}
    """
    found: dict[str, Any] = {}
    for key, given in settings.items():
        name = f"{before}.{key}" if before else str(key)
        is_record = dataclasses.is_dataclass(given) and not isinstance(given, type)
        value = dataclasses.asdict(given) if is_record else given
        if isinstance(value, Mapping):
            found.update(list_settings(value, name))
        elif isinstance(value, (str, int, float)):
            found[name] = value
        elif isinstance(value, (list, tuple)):
            found[name] = ", ".join(map(str, value))
        elif value is not None:
            found[name] = str(getattr(value, "name", type(value).__name__))
    return found


def list_figures(figures: Mapping[str, Any], before: str = "") -> dict[str, float]:
    """Figures by name with slashes; of an estimate also the ends of its interval.

    >>> list_figures({"test": {"accuracy": {"value": 0.9, "low": 0.8, "high": 0.95}, "bins": [1]}})
    {'test/accuracy': 0.9, 'test/accuracy_low': 0.8, 'test/accuracy_high': 0.95}
    """
    return dict(_walk(figures, before))


def _walk(figures: Mapping[str, Any], before: str) -> Iterator[tuple[str, float]]:
    if before and {"value", "low", "high"} <= set(figures):
        yield before, float(figures["value"])
        yield f"{before}_low", float(figures["low"])
        yield f"{before}_high", float(figures["high"])
        return
    for key, value in figures.items():
        name = f"{before}/{key}" if before else str(key)
        if isinstance(value, Mapping):
            yield from _walk(value, name)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield name, float(value)


def make_documents(classifier: Any) -> dict[str, bytes]:
    """The files that go with a training: manifest, evaluation, and the report of both.

    Args:
        classifier: A fitted `ImageClassifier`.
    """
    from headstart.report import NAME, write_report

    manifest = classifier.bundle.manifest
    found = {"manifest.json": json.dumps(manifest, indent=1, default=str).encode()}
    if manifest.get("evaluation"):
        found["evaluation.json"] = json.dumps(manifest["evaluation"], indent=1).encode()
    with tempfile.TemporaryDirectory(prefix="headstart-") as folder:
        try:
            bundle = classifier.save(Path(folder) / "tracked.headstart")
            classifier.save_run(Path(folder) / "tracked.run")
            found[NAME] = write_report(bundle).read_bytes()
        except HeadstartError as error:
            _LOGGER.warning("The trackers get no report: %s", error)
    return found
