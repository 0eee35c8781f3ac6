"""MLflow, by its tracking API. Its usage reports are switched off."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# What a server takes in one call.
_AT_ONCE = 100

# The run's artifact folder for what is made here.
_FOLDER = "headstart"


class MLflowTracker:
    """A run of MLflow: the one that is active in this process, else a new one.

    ``MLFLOW_TRACKING_URI``, ``MLFLOW_EXPERIMENT_NAME``, ``MLFLOW_RUN_ID`` and the like say where it
    is, as for every user of MLflow.

    Args:
        where: Tracking URI instead, as for ``mlflow.set_tracking_uri``.
    """

    def __init__(self, where: str = "") -> None:
        # Read when mlflow is imported: without it, MLflow reports each call to its makers.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        import mlflow

        if where:
            mlflow.set_tracking_uri(where)
        active = mlflow.active_run()
        self._is_ours = active is None
        run = active or mlflow.start_run()
        self._mlflow, self._id = mlflow, run.info.run_id
        self._client: Any = mlflow.MlflowClient()
        self._place = f"run {self._id} in {mlflow.get_tracking_uri()}"

    @property
    def place(self) -> str:
        """The run's id, and the tracking URI."""
        return self._place

    def log_settings(self, settings: Mapping[str, Any]) -> None:
        """Parameters of the run."""
        from mlflow.entities import Param

        params = [Param(name, str(value)) for name, value in settings.items()]
        for start in range(0, len(params), _AT_ONCE):
            self._client.log_batch(self._id, params=params[start : start + _AT_ONCE])

    def log_epoch(self, series: str, epoch: int, figures: Mapping[str, float]) -> None:
        """Metrics ``series/name``, at the step of the epoch's number."""
        self._log({f"{series}/{name}": value for name, value in figures.items()}, epoch)

    def log_result(self, figures: Mapping[str, float], documents: Mapping[str, bytes]) -> None:
        """Metrics, and the documents as artifacts."""
        self._log(figures, 0)
        with tempfile.TemporaryDirectory(prefix="headstart-") as folder:
            for name, data in documents.items():
                path = Path(folder) / name
                path.write_bytes(data)
                self._client.log_artifact(self._id, str(path), _FOLDER)

    def close(self, status: str) -> None:
        """End the run, if it was started here."""
        if self._is_ours:
            self._mlflow.end_run(status)

    def _log(self, figures: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        names = {name: re.sub(r"[^\w /.:-]", "_", name) for name in figures}  # what it accepts
        metrics = [Metric(names[name], value, now, step) for name, value in figures.items()]
        for start in range(0, len(metrics), _AT_ONCE):
            self._client.log_batch(self._id, metrics=metrics[start : start + _AT_ONCE])
