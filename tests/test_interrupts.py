"""Ctrl-C while what there is gets measured or saved."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from headstart import ImageClassifier
from headstart.cli.signals import surviving_hangup
from headstart.interrupts import holding
from headstart.training.measure import Judge


def test_the_first_is_held_and_the_second_interrupts() -> None:
    done = []
    before = signal.getsignal(signal.SIGINT)

    def press_twice() -> None:
        with holding("saving"):
            signal.raise_signal(signal.SIGINT)
            done.append("first")
            signal.raise_signal(signal.SIGINT)
            done.append("second")

    with pytest.raises(KeyboardInterrupt):
        press_twice()
    assert done == ["first"]
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_what_a_hangup_does_is_done_but_interrupts_nothing() -> None:
    called = []

    def interrupt(number: int, _: Any) -> None:
        called.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        with holding("saving"):
            signal.raise_signal(signal.SIGTERM)
            called.append(0)
        with surviving_hangup(), holding("saving"):
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert called == [signal.SIGTERM, 0, signal.SIGTERM]


def test_in_another_thread_nothing_changes() -> None:
    found = []

    def look() -> None:
        with holding("saving"):
            found.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [before]


def test_a_training_that_is_interrupted_after_the_probe_is_measured(
    digits_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = Judge.evaluate

    def interrupted(judge: Judge, *arguments: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        monkeypatch.setattr(Judge, "evaluate", evaluate)
        return evaluate(judge, *arguments)

    monkeypatch.setattr(Judge, "evaluate", interrupted)
    assert ImageClassifier(recipe="probe").fit(digits_folder).evaluation is not None
