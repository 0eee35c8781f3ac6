"""Checkpoints: arrays and a record in one file, replaced atomically; nothing in it is code."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.files import cache_folder, digest_bytes, write_bytes

Arrays = dict[str, list[npt.NDArray[Any]]]

FORMAT = 1


class Checkpoints:
    """The checkpoints of one training, in a folder that is named by all that determines it.

    Args:
        identity: Plain data; another identity is another training.

    >>> import os, tempfile
    >>> os.environ["HEADSTART_CACHE"] = tempfile.mkdtemp()
    >>> checkpoints = Checkpoints({"seed": 1})
    >>> checkpoints.save("fold 0", {"weights": [np.ones(2)]}, {"epoch": 3})
    >>> arrays, record = Checkpoints({"seed": 1}).load("fold 0")
    >>> arrays["weights"][0].tolist(), record, Checkpoints({"seed": 2}).load("fold 0")
    ([1.0, 1.0], {'epoch': 3}, None)
    >>> checkpoints.remove()
    """

    def __init__(self, identity: Mapping[str, Any]) -> None:
        text = json.dumps({"format": FORMAT, **identity}, sort_keys=True, default=str)
        self.folder = cache_folder() / "checkpoints" / digest_bytes(text.encode())[:32]

    def save(self, name: str, arrays: Arrays, record: dict[str, Any]) -> None:
        """Write one atomically.

        Raises:
            HeadstartError: The disk is full, or the folder cannot be written.
        """
        from safetensors.numpy import save

        flat = {
            f"{group}/{number}": np.asarray(array)
            for group, members in arrays.items()
            for number, array in enumerate(members)
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        shapes = {key: list(array.shape) for key, array in flat.items()}
        head = json.dumps({"record": record, "shapes": shapes})
        flat = {key: np.ascontiguousarray(array.reshape(-1)) for key, array in flat.items()}
        data = save(flat, metadata={"headstart": head, "digest": _digest(flat)})
        write_bytes(self._path(name), data)

    def load(self, name: str) -> tuple[Arrays, dict[str, Any]] | None:
        """The arrays and the record; None when there is none, or it is damaged."""
        from safetensors import safe_open

        path, flat = self._path(name), {}
        if not path.exists():
            return None
        try:
            with safe_open(path, "numpy") as file:
                metadata = file.metadata()
                flat = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            head = json.loads(metadata["headstart"])
            if metadata["digest"] != _digest(flat):
                return None
        except Exception:  # safetensors and json raise almost anything on damaged bytes
            return None
        arrays: Arrays = {}
        for key, shape in head["shapes"].items():  # in the order of saving
            arrays.setdefault(key.partition("/")[0], []).append(flat[key].reshape(shape))
        return arrays, head["record"]

    def remove(self) -> None:
        """Forget all of them."""
        with contextlib.suppress(OSError):
            shutil.rmtree(self.folder)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name.replace(' ', '-')}.safetensors"


def _digest(flat: Mapping[str, npt.NDArray[Any]]) -> str:
    return digest_bytes(b"".join(key.encode() + flat[key].tobytes() for key in sorted(flat)))
