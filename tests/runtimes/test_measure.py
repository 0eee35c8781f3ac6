"""Measuring runtimes: who is fastest, who agrees, what is missing, and what is remembered."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_runtimes import small_model

from headstart.errors import BackboneError
from headstart.features.choice import measure_prefix
from headstart.models.boundary import Prefix, build_prefix_model
from headstart.models.loaders import load_prefix
from headstart.runtimes import RUNTIMES, Runtime, Session, memory
from headstart.runtimes.measure import (
    Choice,
    Measurement,
    make_images,
    measure_runtimes,
    recall_choice,
    relative_errors,
    remember_choice,
    time_session,
)

pytestmark = pytest.mark.usefixtures("empty_cache")


@pytest.fixture(scope="module")
def prefix() -> Prefix:
    return load_prefix(small_model())


def twin(name: str, *, delay: float = 0.0, factor: float = 1.0) -> Runtime:
    """TensorFlow under another name, later and larger than it."""
    sound = RUNTIMES["tensorflow"]

    def open_session(*parts: Any) -> Session:
        session = sound.open_session(*parts)

        def run(images: Any) -> Any:
            time.sleep(delay)
            return session(images) * np.float32(factor)

        return run

    return replace(sound, name=name, open_session=open_session)


def measure_all(prefix: Prefix, *runtimes: Runtime) -> Choice:
    batches = np.split(make_images(16, prefix.image_size), 2)
    return measure_runtimes(prefix, lambda: build_prefix_model(prefix), batches, runtimes)


def test_the_fastest_that_agrees_is_chosen(prefix: Prefix) -> None:
    choice = measure_all(
        prefix,
        twin("slow", delay=0.2),
        twin("wrong", factor=1.002),
        twin("quick", factor=1.0005),
        twin("tensorflow", delay=0.1),
    )
    slow, wrong, quick, reference = choice.measurements
    assert choice.chosen == "quick"
    assert [m.runtime for m in choice.measurements] == ["slow", "wrong", "quick", "tensorflow"]
    assert slow.photos_per_second < reference.photos_per_second < quick.photos_per_second
    # 16 photos, two batches at once or after one another, 0.2 s each, and what the machine adds.
    assert 0 < slow.photos_per_second <= 16 / 0.2
    assert quick.relative_error == pytest.approx(0.0005, rel=0.01)
    assert (quick.problem, quick.agrees) == (None, True)
    assert wrong.relative_error == pytest.approx(0.002, rel=0.01)
    assert wrong.problem == "disagrees with TensorFlow; accepted are errors up to 0.001"
    assert not wrong.agrees
    assert set(choice.speeds) == {"slow", "quick", "tensorflow"}


def test_one_bad_row_is_enough(prefix: Prefix) -> None:
    sound = RUNTIMES["tensorflow"]

    def open_session(*parts: Any) -> Session:
        session = sound.open_session(*parts)

        def run(images: Any) -> Any:
            rows = session(images).copy()
            rows[-1] = np.nan
            return rows

        return run

    bad = replace(sound, name="bad", open_session=open_session)
    found = measure_all(prefix, bad, sound).measurements[0]
    assert found.relative_error == np.inf
    assert not found.agrees


def test_one_that_fails_does_not_stop_the_others(prefix: Prefix) -> None:
    def fail(*_parts: Any) -> Session:
        raise BackboneError("no such operator")

    broken = replace(RUNTIMES["onnxruntime"], name="broken", open_session=fail)
    missing = Runtime("missing", ("quick_inference",), fail)
    choice = measure_all(prefix, broken, missing, RUNTIMES["tensorflow"])
    assert choice.measurements[0] == Measurement("broken", problem="no such operator")
    assert choice.measurements[1].problem == "not installed: pip install quick_inference"
    assert choice.chosen == "tensorflow"


def test_without_tensorflow_nothing_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name in {"tensorflow", "keras"} else find_spec(name),
    )
    prefix = load_prefix("efficientnet-lite0")
    choice = measure_prefix(prefix)
    by_name = {m.runtime: m for m in choice.measurements}
    assert choice.chosen == "onnxruntime"
    assert choice.speeds == {}
    for name in ("onnxruntime", "openvino"):
        assert by_name[name].photos_per_second > 0
        assert by_name[name].problem == "not checked: TensorFlow is not installed"
    assert by_name["tensorflow"].problem == 'not installed: pip install "headstart[cpu]"'
    assert by_name["litert"].problem == 'not installed: pip install "headstart[cpu]"'
    assert recall_choice(prefix) is None  # nothing was learnt that a run could rely on


def test_relative_errors_are_per_photo() -> None:
    rows = np.array([[3.0, 4.0], [0.0, 1.1], [0.0, 0.0]], np.float32)
    reference = np.array([[3.0, 4.0], [0.0, 1.0], [0.0, 0.0]], np.float32)
    assert relative_errors(rows, reference) == pytest.approx([0.0, 0.1, 0.0])


def test_a_session_is_timed_without_its_first_calls() -> None:
    calls: list[int] = []

    def session(images: Any) -> Any:
        calls.append(len(images))
        time.sleep(0.5 if len(calls) <= 2 else 0.01)
        return images

    speed = time_session(session, [make_images(8, 4)] * 2)
    assert 16 / 0.5 < speed <= 2 * 8 / 0.01


def test_the_images_have_structure_and_are_the_same_again() -> None:
    images = make_images(3, 20)
    assert images.shape == (3, 20, 20, 3)
    assert images.dtype == np.uint8
    assert np.array_equal(images, make_images(3, 20))
    assert not np.array_equal(images[0], images[1])
    pixels = images.astype(float)
    near = np.abs(np.diff(pixels, axis=2)).mean()
    far = np.abs(pixels[:, :, :10] - pixels[:, :, 10:]).mean()
    assert 5 < near < 0.8 * far


# ---- memory


CHOICE = Choice(
    (Measurement("litert", 70.0, 1e-6), Measurement("openvino", problem="no")), "litert"
)


def record(folder: Path) -> Path:
    [path] = (folder / "runtimes").iterdir()
    return path


def test_a_choice_is_remembered(prefix: Prefix, empty_cache: Path) -> None:
    assert recall_choice(prefix) is None
    remember_choice(prefix, CHOICE)
    assert recall_choice(prefix) == CHOICE
    assert json.loads(record(empty_cache).read_text())["source"]["image_size"] == 32


def test_it_is_remembered_for_this_prefix_and_machine_only(
    prefix: Prefix, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember_choice(prefix, CHOICE)
    for field, value in {"weights_digest": "01", "boundary": "block5", "image_size": 9}.items():
        assert recall_choice(replace(prefix, **{field: value})) is None
    with monkeypatch.context() as patch:
        patch.setattr(memory, "describe_machine", lambda: "another machine")
        assert recall_choice(prefix) is None
    version = importlib.metadata.version
    for package in ("openvino", "tensorflow", "ai_edge_litert", "onnxruntime"):
        with monkeypatch.context() as patch:
            patch.setattr(
                importlib.metadata,
                "version",
                lambda name, changed=package: "0.1" if name == changed else version(name),
            )
            assert recall_choice(prefix) is None
    assert recall_choice(prefix) == CHOICE


def test_it_is_forgotten_when_a_runtime_comes_or_goes(
    prefix: Prefix, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember_choice(prefix, CHOICE)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "openvino" else find_spec(name)
    )
    assert recall_choice(prefix) is None


@pytest.mark.parametrize(
    "damage",
    ["", "{", "[]", '{"measurements": []}', '{"measurements": [{"speed": 1}], "chosen": "x"}'],
)
def test_a_damaged_record_counts_as_none(prefix: Prefix, empty_cache: Path, damage: str) -> None:
    remember_choice(prefix, CHOICE)
    record(empty_cache).write_text(damage)
    assert recall_choice(prefix) is None


def test_a_record_with_an_unknown_runtime_counts_as_none(prefix: Prefix, empty_cache: Path) -> None:
    remember_choice(prefix, CHOICE)
    path = record(empty_cache)
    path.write_text(path.read_text().replace('"chosen": "litert"', '"chosen": "quick"'))
    assert recall_choice(prefix) is None
