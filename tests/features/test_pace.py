"""Seconds per photo of a pass, and what remembers them."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from headstart import ImageClassifier, extract_features
from headstart.data.scan import Manifest, scan_folder
from headstart.features import pace as paces
from headstart.features.extract import extract_manifest
from headstart.features.pace import Stride, recall_pace
from headstart.models.boundary import Prefix
from headstart.models.loaders import load_prefix
from headstart.training.foresee import foresee
from headstart.training.plan import guess_pace


@pytest.fixture
def prefix() -> Prefix:
    return load_prefix("efficientnet-lite0")


def test_a_stride_leaves_out_what_came_before_the_first_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = iter([100.0, *(100.0 + 0.5 * number for number in range(1, 41))])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    stride = Stride()
    for number in range(41):
        if number < 24:
            assert stride.seconds_per_photo is None, "too few photos say nothing"
        stride.see(1, 0.1)
    assert stride.seconds_per_photo == pytest.approx(0.5)


def test_batches_that_come_all_at_once_took_their_time() -> None:
    """The thread that counts them was kept from it."""
    stride = Stride()
    for _ in range(40):
        stride.see(2, 8.0)
    assert stride.seconds_per_photo is not None
    assert 4.0 / 64 <= stride.seconds_per_photo <= 4.0


def test_the_pace_of_a_pass_is_remembered(
    prefix: Prefix, digits_folder: Path, empty_cache: Path
) -> None:
    assert recall_pace(prefix, "auto") is None
    guess = guess_pace(prefix, "auto")
    features = extract_features("efficientnet-lite0", digits_folder)
    assert features.pace is not None
    assert recall_pace(prefix, "auto") == guess_pace(prefix, "auto") == features.pace != guess
    cached = extract_manifest(prefix, scan_folder(digits_folder))
    assert (cached.forwarded, cached.pace) == (0, None)
    assert recall_pace(prefix, "auto") == features.pace
    assert recall_pace(replace(prefix, boundary="block9"), "auto") is None


def test_few_photos_leave_the_pace_as_it_was(
    prefix: Prefix, digits_folder: Path, empty_cache: Path
) -> None:
    some = Manifest(scan_folder(digits_folder).samples[:8])
    assert extract_manifest(prefix, some).pace is None
    assert recall_pace(prefix, "auto") is None


def test_a_pace_that_cannot_be_kept_stops_nothing(
    prefix: Prefix, digits_folder: Path, empty_cache: Path
) -> None:
    (empty_cache / "paces").write_text("not a folder", encoding="utf-8")
    assert extract_manifest(prefix, scan_folder(digits_folder)).pace is not None


def test_a_plan_after_a_probe_knows_the_pace_of_its_pass(
    digits_folder: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[float] = []
    keep = paces.keep_pace

    def watch(prefix: Prefix, runtime: str, pace: float) -> None:
        kept.append(pace)
        keep(prefix, runtime, pace)

    monkeypatch.setattr("headstart.features.extract.keep_pace", watch)
    ImageClassifier(recipe="probe").fit(digits_folder)
    plan = foresee(scan_folder(digits_folder))
    assert plan.new == 0
    assert plan.pace == kept[-1]
