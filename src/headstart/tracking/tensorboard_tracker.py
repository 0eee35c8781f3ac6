"""TensorBoard: event files, written by Keras's own callback where it has one for the purpose."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from headstart.files import write_bytes
from headstart.quiet import start_tensorflow

# As in the manual of keras.callbacks.TensorBoard.
_FOLDER = "logs"


class TensorBoardTracker:
    """Event files in a folder of this training within a folder of all.

    Each series of epochs has the folders that ``fit`` would write, ``NAME/train`` and
    ``NAME/validation``, with the same tags: ``epoch_loss``, ``epoch_accuracy``,
    ``epoch_learning_rate``. The figures of the result and the parameters (as those of HParams) are
    beside them, and so are the documents.

    Args:
        where: The folder of all trainings; ``"logs"`` by default.

    Raises:
        OSError: It cannot be written to.
    """

    def __init__(self, where: str = "") -> None:
        self._all = Path(where or _FOLDER)
        self._folder = _make_folder(self._all)
        start_tensorflow()
        import tensorflow as tf

        self._writer: Any = tf.summary.create_file_writer(str(self._folder))
        self._callbacks: dict[str, Any] = {}
        self._settings: dict[str, Any] = {}

    @property
    def place(self) -> str:
        """The folder, and the command that shows it."""
        return f"{self._folder}; tensorboard --logdir {self._all}"

    def log_settings(self, settings: Mapping[str, Any]) -> None:
        """Kept until the end: HParams takes all of them at once."""
        self._settings.update(settings)

    def log_epoch(self, series: str, epoch: int, figures: Mapping[str, float]) -> None:
        """As the callback does in ``fit``."""
        import keras

        if series not in self._callbacks:
            folder = self._folder / re.sub(r"[^\w .-]", "_", series)
            callback = keras.callbacks.TensorBoard(folder, write_graph=False)
            # It asks its model for the learning rate, which is among the figures here.
            callback.set_model(SimpleNamespace(optimizer=None))
            callback.on_train_begin()
            self._callbacks[series] = callback
        self._callbacks[series].on_epoch_end(epoch - 1, dict(figures))

    def log_result(self, figures: Mapping[str, float], documents: Mapping[str, bytes]) -> None:
        """Scalars, and the documents as files."""
        import tensorflow as tf

        with self._writer.as_default(step=0):
            for name, value in figures.items():
                tf.summary.scalar(name, value)
        for name, data in documents.items():
            write_bytes(self._folder / name, data)

    def close(self, status: str) -> None:
        """Write what was kept, and close the files."""
        import tensorflow as tf
        from tensorboard.plugins.hparams import api

        with self._writer.as_default(step=0):
            tf.summary.text("status", status)
            api.hparams(self._settings, trial_id=self._folder.name)
        self._writer.close()
        for callback in self._callbacks.values():
            callback.on_train_end()


def _make_folder(parent: Path) -> Path:
    """A new folder that is named by the time."""
    name = datetime.now().strftime("%Y%m%d-%H%M%S")
    for number in itertools.count(1):
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            if not folder.is_dir():  # a file stands in the way
                raise
    raise AssertionError
