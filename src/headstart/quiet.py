"""Native libraries chatter on stderr, past Python's logging; users would read it as errors."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Drop what is written to the process's stderr within the block; exceptions pass as ever."""
    _flush()
    try:
        saved = os.dup(2)
    except OSError:  # the process has no stderr
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        _flush()
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


def _flush() -> None:
    if sys.stderr is not None:  # as in a process without a terminal on Windows
        sys.stderr.flush()


def start_tensorflow() -> None:
    """Import TensorFlow and let it look for devices, which is when it says most."""
    with hushed():
        import tensorflow as tf

        tf.constant(0)
