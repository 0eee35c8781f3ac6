"""Durations, and a budget's end."""

from __future__ import annotations

import sys
import time

import pytest

from headstart.budget import Budget, OutOfTimeError, begin_budget, format_duration, parse_duration
from headstart.errors import HeadstartError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("2m", 120), ("1.5m", 90), ("1h", 3600), (" 1h30m5s ", 5405)],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0m", "-3s", "two minutes", "3d", "1m2h", "nan", "inf"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(HeadstartError, match=r"accepted are seconds, or forms such as 90s, 2m"):
        parse_duration(text)


def test_durations_read_back_what_is_shown() -> None:
    for seconds in (1.5, 42, 60, 61, 3599, 3600, 7300):
        text = format_duration(seconds).replace(" ", "").replace("min", "m")
        assert parse_duration(text) == pytest.approx(seconds, abs=60 if seconds > 3600 else 0.5)


def test_it_ends_with_a_reserve() -> None:
    budget = Budget(100.0, start=time.monotonic() - 90)
    assert 9 < budget.left < 10.1
    budget.check(5)
    with pytest.raises(OutOfTimeError):
        budget.check(11)


def test_only_a_budget_that_was_asked_for_is_strict() -> None:
    asked, own = begin_budget("30s", "probe"), begin_budget(None, "auto")
    assert asked is not None
    assert own is not None
    assert (asked.is_strict, own.is_strict) == (True, False)
    if sys.platform == "linux":
        assert asked.spent > 0.1, "it counts from the start of the process"
    assert begin_budget(None, "tune") is None
