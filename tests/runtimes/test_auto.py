"""`auto`: what was measured counts, cached rows count more, and little work measures nothing."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from headstart import ImageClassifier
from headstart.cli.commands import app
from headstart.data.scan import scan_folder
from headstart.errors import HeadstartError, MissingPackageError
from headstart.features import choice as choosing
from headstart.features import extract, forward
from headstart.features.choice import Watch, choose_runtime, count_cached, make_space
from headstart.features.extract import extract_features
from headstart.features.maintenance import clear_cache
from headstart.models.boundary import Prefix
from headstart.models.loaders import load_prefix
from headstart.runtimes import RUNTIMES
from headstart.runtimes.measure import Choice, Measurement, recall_choice, remember_choice

pytestmark = pytest.mark.usefixtures("empty_cache")

BACKBONE = "efficientnet-lite0"


@pytest.fixture
def prefix() -> Prefix:
    return load_prefix(BACKBONE)


def remember(prefix: Prefix, **speeds: float) -> None:
    measured = (Measurement(name, speed, 1e-6) for name, speed in speeds.items())
    remember_choice(prefix, Choice(tuple(measured), max(speeds, key=speeds.__getitem__)))


def digests(folder: Path) -> list[str]:
    return [sample.digest for sample in scan_folder(folder).samples]


def test_without_a_measurement_it_is_the_default(prefix: Prefix) -> None:
    assert choose_runtime(prefix, ["a", "b"]) == "onnxruntime"
    assert choose_runtime(prefix, []) == "onnxruntime"


def test_a_measurement_decides(prefix: Prefix) -> None:
    remember(prefix, onnxruntime=50, openvino=80, litert=60)
    assert choose_runtime(prefix, ["a"]) == "openvino"


def test_one_that_disagreed_is_never_taken(prefix: Prefix, few_digits: Path) -> None:
    extract_features(BACKBONE, few_digits, runtime="openvino")
    wrong = Measurement("openvino", 500, 0.1, "disagrees")
    remember_choice(prefix, Choice((Measurement("onnxruntime", 50, 1e-6), wrong), "onnxruntime"))
    assert choose_runtime(prefix, digests(few_digits)) == "onnxruntime"


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_cached_photos_are_not_computed_again(
    runtime: str, prefix: Prefix, few_digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = extract_features(BACKBONE, few_digits, runtime=runtime)
    assert first.forwarded == 12
    opened: list[str] = []
    monkeypatch.setattr(forward, "build_prefix_model", lambda _prefix: opened.append("model"))
    # Not measured; measured with another as the fastest: the cached rows serve in both cases.
    for speeds in ({}, {"onnxruntime": 50, "openvino": 50, "litert": 900}):
        if speeds:
            remember(prefix, **speeds)
        again = extract_features(BACKBONE, few_digits)
        assert (again.forwarded, again.runtime) == (0, RUNTIMES[runtime].identity)
        assert np.array_equal(again.array, first.array)
    assert opened == []


def test_a_few_new_photos_go_the_way_of_the_others(
    prefix: Prefix, few_digits: Path, digits_folder: Path
) -> None:
    extract_features(BACKBONE, digits_folder, runtime="openvino")
    few, all_photos = digests(few_digits), digests(digits_folder)
    assert choose_runtime(prefix, [*all_photos, "new"]) == "openvino"
    # Most are new: the default again.
    assert choose_runtime(prefix, [*few, *map(str, range(100))]) == "onnxruntime"
    # Measured: what is missing, over what a runtime computes in a second.
    remember(prefix, onnxruntime=100, openvino=60)
    assert choose_runtime(prefix, [*all_photos, *map(str, range(100))]) == "openvino"
    assert choose_runtime(prefix, [*all_photos, *map(str, range(300))]) == "onnxruntime"


def test_rows_of_another_version_do_not_count(
    prefix: Prefix, few_digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.metadata

    extract_features(BACKBONE, few_digits, runtime="openvino")
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "0.1" if name == "openvino" else version(name)
    )
    assert choose_runtime(prefix, digests(few_digits)) == "onnxruntime"


def test_rows_are_counted_by_space(prefix: Prefix, few_digits: Path) -> None:
    extract_features(BACKBONE, few_digits, runtime="onnxruntime")
    spaces = [make_space(prefix, name) for name in (RUNTIMES["onnxruntime"].identity, "other 1")]
    photos = digests(few_digits)
    many = [str(number) for number in range(1200)]  # more than one statement takes
    assert count_cached(spaces, [*many, *photos]) == [12, 0]
    assert count_cached(spaces, photos[:5]) == [5, 0]
    assert count_cached(spaces, []) == [0, 0]


# ---- measuring


def slow_down(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(choosing, "WORTHWHILE_SECONDS", seconds)


def test_little_work_is_not_measured(
    prefix: Prefix, digits_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract, "measure_prefix", lambda *_: pytest.fail("it was measured"))
    found = extract_features(BACKBONE, digits_folder)
    assert found.runtime == RUNTIMES["onnxruntime"].identity
    assert recall_choice(prefix) is None


def test_much_work_is_measured_on_the_photos_and_remembered(
    prefix: Prefix, digits_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    measure_runtimes = choosing.measure_runtimes

    def see(prefix: Prefix, build_model: Any, batches: Any) -> Choice:
        given.extend(batches)
        return measure_runtimes(prefix, build_model, batches)

    monkeypatch.setattr(choosing, "measure_runtimes", see)
    slow_down(monkeypatch, 0.0)
    found = extract_features(BACKBONE, digits_folder)
    remembered = recall_choice(prefix)
    assert remembered is not None
    assert set(remembered.speeds) == set(RUNTIMES)
    assert len(found.array) == 80
    assert [batch.shape for batch in given] == [(2, 224, 224, 3)] * 8
    assert (given[0].reshape(-1, 3) == 255).all(1).mean() > 0.1  # paper: real digits
    # Not again, and whoever was chosen has all rows now.
    monkeypatch.setattr(extract, "measure_prefix", lambda *_: pytest.fail("measured again"))
    again = extract_features(BACKBONE, digits_folder)
    assert (again.forwarded, again.runtime) == (0, found.runtime)


def test_a_change_of_mind_leaves_one_runtimes_rows_in_the_result(
    prefix: Prefix, digits_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def choose_openvino(prefix: Prefix, _images: Any) -> None:
        remember(prefix, onnxruntime=1, openvino=1000)

    expected = extract_features(BACKBONE, digits_folder, runtime="openvino")
    clear_cache()
    monkeypatch.setattr(extract, "measure_prefix", choose_openvino)
    slow_down(monkeypatch, 0.0)
    found = extract_features(BACKBONE, digits_folder)
    assert found.runtime == RUNTIMES["openvino"].identity
    assert np.array_equal(found.array, expected.array)


def test_a_named_runtime_is_never_measured(
    digits_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract, "measure_prefix", lambda *_: pytest.fail("it was measured"))
    slow_down(monkeypatch, 0.0)
    found = extract_features(BACKBONE, digits_folder, runtime="onnxruntime")
    assert found.runtime == RUNTIMES["onnxruntime"].identity


def test_without_tensorflow_nothing_is_measured(
    digits_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorflow" else find_spec(name)
    )
    monkeypatch.setattr(extract, "measure_prefix", lambda *_: pytest.fail("it was measured"))
    slow_down(monkeypatch, 0.0)
    assert extract_features(BACKBONE, digits_folder).forwarded == 80


def test_the_watch_ignores_the_first_batches() -> None:
    watch = Watch(1100, cores=1)  # 0.1 s each: 110 s
    for seconds in (3.8, 0.1, 0.1, 0.1, 0.1):
        watch.see(seconds)
    watch = Watch(1300, cores=1)
    watch.see(3.8)
    watch.see(0.1)
    with pytest.raises(choosing.SlowPassError):
        watch.see(0.1)


def test_an_unfit_runtime_is_named_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "openvino" else find_spec(name)
    )
    for call in (
        lambda: extract_features(BACKBONE, "nowhere", runtime="openvino"),
        lambda: ImageClassifier(runtime="openvino").fit("nowhere"),
    ):
        with pytest.raises(MissingPackageError, match=r'pip install "headstart\[openvino\]"'):
            call()


# ---- the command line


@pytest.mark.parametrize("runtime", ["openvino", "auto"])
def test_the_option_reaches_the_features(runtime: str, few_digits: Path, tmp_path: Path) -> None:
    arguments = ["features", few_digits, "-o", tmp_path / "f.npy", "--runtime", runtime, "--json"]
    result = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    name = "onnxruntime" if runtime == "auto" else runtime
    assert json.loads(result.stdout)["runtime"] == RUNTIMES[name].identity


def test_the_option_reaches_the_training(few_digits: Path, tmp_path: Path) -> None:
    arguments = ["train", few_digits, "-o", tmp_path / "a.headstart", "--json"]
    arguments += ["--runtime", "openvino"]
    result = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert json.loads(result.stdout)["runtime"] == RUNTIMES["openvino"].identity
    assert ImageClassifier().get_params()["runtime"] == "auto"


@pytest.mark.parametrize("command", ["features", "train"])
def test_an_unknown_runtime_is_answered_before_the_photos_are_read(command: str) -> None:
    with pytest.raises(HeadstartError, match="'onxruntime' is not a known runtime"):
        CliRunner().invoke(
            app, [command, "nowhere", "--runtime", "onxruntime"], catch_exceptions=False
        )
