"""What must not be cut short: once there is a model, it is measured and saved."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_LOGGER = logging.getLogger(__name__)

# Ctrl-C, a polite end, a closed terminal (which Windows has not).
_NUMBERS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


@contextmanager
def holding(what: str) -> Iterator[None]:
    """Within the block the first Ctrl-C is only said to be held; the second one interrupts.

    For what takes seconds and would lose minutes. SIGTERM and SIGHUP count as well where they have
    handlers. Outside of the main thread, where signals do not arrive, nothing changes.

    Args:
        what: Is being done, for the sentence that is logged.

    >>> with holding("saving"):
    ...     signal.raise_signal(signal.SIGINT)
    ...     print("saved")
    saved
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []

    def hold(number: int, frame: FrameType | None) -> None:
        if held and number == signal.SIGINT:
            raise KeyboardInterrupt
        held.append(number)
        before = handlers[number]
        if number != signal.SIGINT and callable(before):
            with suppress(KeyboardInterrupt):
                before(number, frame)
        _LOGGER.warning("Interrupted while %s; Ctrl-C again to give that up.", what)

    handlers = {
        number: handler for number in _NUMBERS if callable(handler := signal.getsignal(number))
    }
    for number in handlers:
        signal.signal(number, hold)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
