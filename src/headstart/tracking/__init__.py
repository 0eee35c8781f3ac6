"""Trackers of experiments: TensorBoard and MLflow are told what a training does.

A tracker watches. What happens to it (a full disk, a server that is gone) ends the tracking with a
warning, never the training. See docs/tracking.md.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar, cast

from headstart.errors import HeadstartError, did_you_mean, require_package
from headstart.tracking.record import Series, list_figures, list_settings, make_documents

_LOGGER = logging.getLogger(__name__)

Fit = TypeVar("Fit", bound=Callable[..., Any])


class Tracker(Protocol):
    """What a tracker does; each is opened by a function of `TRACKERS`."""

    @property
    def place(self) -> str:
        """Where it writes to, and how to look at it."""

    def log_settings(self, settings: Mapping[str, Any]) -> None:
        """Parameters, by name; a name is given once."""

    def log_epoch(self, series: str, epoch: int, figures: Mapping[str, float]) -> None:
        """Figures of one epoch, from 1 on, of one series, such as ``"all photos"``."""

    def log_result(self, figures: Mapping[str, float], documents: Mapping[str, bytes]) -> None:
        """Figures of the result, and files by name."""

    def close(self, status: str) -> None:
        """End: ``"FINISHED"``, ``"FAILED"`` or ``"KILLED"``."""


def _open_tensorboard(where: str) -> Tracker:
    from headstart.tracking.tensorboard_tracker import TensorBoardTracker

    return TensorBoardTracker(where)


def _open_mlflow(where: str) -> Tracker:
    from headstart.tracking.mlflow_tracker import MLflowTracker

    return MLflowTracker(where)


class Kind(NamedTuple):
    """One kind of tracker: its packages, and what opens it."""

    packages: tuple[str, ...]
    open: Callable[[str], Tracker]


TRACKERS: dict[str, Kind] = {
    "tensorboard": Kind(("tensorboard", "tensorflow", "keras"), _open_tensorboard),
    "mlflow": Kind(("mlflow", "sqlalchemy", "alembic"), _open_mlflow),
}


def check_trackers(trackers: str | Iterable[str]) -> list[tuple[str, str]]:
    """Names of trackers, each with where it writes to (may be empty), before any work.

    Args:
        trackers: ``"tensorboard"`` or ``"mlflow"``, alone or as in ``"tensorboard=FOLDER"``,
            ``"mlflow=URI"``.

    Raises:
        HeadstartError: One that is not known, or is given twice.
        MissingPackageError: What one needs is not installed.

    >>> check_trackers("tensorboard=logs/flowers")
    [('tensorboard', 'logs/flowers')]
    """
    given = (trackers,) if isinstance(trackers, str) else tuple(trackers)
    found = [(name, where) for name, _, where in (str(each).partition("=") for each in given)]
    for number, (name, _) in enumerate(found):
        if name not in TRACKERS:
            raise HeadstartError(
                f"{name!r} is not a known tracker.{did_you_mean(name, TRACKERS)} Known: "
                f"{', '.join(TRACKERS)}; also with a place, as in tensorboard=FOLDER, mlflow=URI."
            )
        if name in dict(found[:number]):
            raise HeadstartError(f"The tracker {name} is given twice; give it once.")
        purpose = f"tracking with {name}, and the report that it gets,"
        require_package(*TRACKERS[name].packages, "jinja2", "matplotlib", purpose=purpose)
    return found


def tracked(fit: Fit) -> Fit:
    """Let the trackers of an `ImageClassifier` watch its ``fit``."""

    @functools.wraps(fit)
    def watch(classifier: Any, X: Any, *arguments: Any, **settings: Any) -> Any:
        chosen = check_trackers(classifier.trackers)
        if not chosen:
            return fit(classifier, X, *arguments, **settings)
        tracking = Tracking(chosen, classifier.get_params(), X)
        settings["callbacks"] = (*settings.get("callbacks", ()), tracking.log_epoch)
        status = "FAILED"
        try:
            fit(classifier, X, *arguments, **settings)
            tracking.log_result(classifier)
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            tracking.close(status)
        return classifier

    return cast("Fit", watch)


class Tracking:
    """The trackers of one training.

    Args:
        chosen: As `check_trackers` gives them.
        parameters: Of the classifier.
        photos: What it is trained on; named where it is a path.

    Raises:
        HeadstartError: One cannot be opened; those before it are closed.
    """

    def __init__(
        self, chosen: Iterable[tuple[str, str]], parameters: Mapping[str, Any], photos: Any
    ) -> None:
        self._series = Series()
        self._open: dict[str, Tracker] = {}
        for name, where in chosen:
            try:
                self._open[name] = TRACKERS[name].open(where)
            except Exception as error:  # of the file system, a database, a server
                self.close("FAILED")
                if isinstance(error, HeadstartError):
                    raise
                place = f" at {where}" if where else ""
                raise HeadstartError(
                    f"The tracker {name} cannot be opened{place}: {_shorten(error)}. Give another "
                    "place, or train without it."
                ) from error
        source = str(photos) if isinstance(photos, (str, Path)) else None
        self._tell("log_settings", list_settings({**parameters, "photos": source}))

    def log_epoch(self, epoch: Any) -> None:
        """A callback of fine-tuning: takes a `headstart.training.loop.Epoch`."""
        self._tell("log_epoch", *self._series.describe(epoch))

    def log_result(self, classifier: Any) -> None:
        """What a fitted classifier is, how good it is, and its report."""
        manifest, seconds = classifier.bundle.manifest, classifier.seconds
        for number, step in enumerate(manifest.get("strengths") or [], start=1):
            self._tell("log_epoch", "probe", number, list_figures(step))
        self._tell("log_settings", list_settings(_select(manifest), "result"))
        documents = make_documents(classifier)
        self._tell("log_result", list_figures(_measured(manifest, seconds)), documents)

    def close(self, status: str) -> None:
        """End all of them, and say where they wrote to."""
        self._tell("close", status)
        for name, tracker in self._open.items():
            _LOGGER.info("tracked by %s: %s", name, tracker.place)
        self._open = {}

    def _tell(self, method: str, *arguments: Any) -> None:
        for name, tracker in list(self._open.items()):
            try:
                getattr(tracker, method)(*arguments)
            except Exception as error:  # whatever it is, the training goes on
                _LOGGER.warning("The tracker %s is given up: %s", name, _shorten(error))
                del self._open[name]


def _shorten(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _select(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What training settled on, without what is measured or long."""
    keys = ("backbone", "image_size", "head", "recipe", "samples", "runtime")
    tuned = manifest.get("fine_tune") or {}
    names = ("unfreeze", "boundary", "share", "learning_rate", "epochs", "cached_bytes")
    return {
        **{key: manifest[key] for key in keys if key in manifest},
        "fine_tune": {name: tuned[name] for name in names if name in tuned},
        "classes": len(manifest.get("class_names") or ()),
    }


def _measured(manifest: Mapping[str, Any], seconds: Mapping[str, float]) -> dict[str, Any]:
    return {
        "test": manifest.get("evaluation"),
        "validation": manifest.get("validation"),
        "cross_validation": manifest.get("cross_validation"),
        "seconds": dict(seconds),
    }
