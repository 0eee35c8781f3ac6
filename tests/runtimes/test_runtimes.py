"""Every runtime computes what TensorFlow computes, and says what is missing or wrong."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart.errors import BackboneError, BundleError, HeadstartError, MissingPackageError
from headstart.models.boundary import build_prefix_model
from headstart.models.loaders import load_prefix
from headstart.runtimes import (
    RUNTIMES,
    TOLERANCE,
    get_runtime,
    litert_runtime,
    onnx_convert,
    onnx_runtime,
    openvino_runtime,
    require_runtime,
)

REPOSITORY = Path(__file__).parent.parent.parent


def photos(size: int, count: int = 5) -> np.ndarray:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 8, 8, 3))
    return np.kron(coarse, np.ones((1, size // 8, size // 8, 1))).astype(np.uint8)


def small_model(*, is_map: bool = True) -> Any:
    import keras

    keras.utils.set_random_seed(0)
    photo = keras.Input((32, 32, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(photo)
    x = keras.layers.Conv2D(8, 3, strides=2, padding="same")(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Activation("swish")(x)
    y = keras.layers.DepthwiseConv2D(5, padding="same")(x)
    x = keras.layers.Add()([x, y])
    if not is_map:
        x = keras.layers.Flatten()(x)
    model = keras.Model(photo, x)
    norm = model.layers[3]
    norm.moving_mean.assign(np.linspace(-0.5, 0.5, 8))
    norm.moving_variance.assign(np.linspace(0.1, 2, 8))
    return model


def relative_errors(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    return np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)


@pytest.mark.parametrize("make", [small_model, lambda: small_model(is_map=False)])
@pytest.mark.parametrize("name", sorted(RUNTIMES))
def test_a_runtime_agrees_with_keras(name: str, make: Any) -> None:
    model = make()
    prefix = load_prefix(model)
    session = get_runtime(name).open(prefix, lambda: build_prefix_model(prefix))
    images = photos(32)
    expected = np.asarray(model(images.astype(np.float32), training=False))
    expected = expected.mean((1, 2)) if expected.ndim == 4 else expected
    rows = session(images)
    assert rows.dtype == np.float32
    assert rows.shape == (5, *prefix.shape)
    assert relative_errors(rows, expected).max() <= TOLERANCE
    assert relative_errors(rows, expected).max() <= 1e-5
    # One photo is a batch too, and a photo's numbers do not depend on its neighbours'.
    assert np.allclose(session(images[:1]), rows[:1], rtol=1e-5, atol=1e-6)


def test_a_twin_in_training_mode_is_told_apart() -> None:
    # The comparison above would notice BatchNormalization that uses the batch's statistics.
    model = small_model()
    images = photos(32)
    wrong = np.asarray(model(images.astype(np.float32), training=True)).mean((1, 2))
    right = np.asarray(small_model()(images.astype(np.float32), training=False)).mean((1, 2))
    assert relative_errors(wrong, right).max() > TOLERANCE


def test_a_converted_graph_is_plain_onnx() -> None:
    import onnx

    graph = onnx.load_from_string(onnx_convert.convert(small_model()))
    onnx.checker.check_model(graph, full_check=True)
    assert {node.domain for node in graph.graph.node} <= {"", "ai.onnx"}
    assert not any(array.external_data for array in graph.graph.initializer)
    shape = graph.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in shape] == ["batch", 32, 32, 3]


def test_large_weights_do_not_go_through_the_converter(monkeypatch: pytest.MonkeyPatch) -> None:
    import keras
    import onnx
    import tf2onnx

    def count(model: Any) -> int:
        return sum(math.prod(array.dims) for array in model.graph.initializer)

    keras.utils.set_random_seed(0)
    start = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(512, 4, strides=4, name="large")(start)
    x = keras.layers.DepthwiseConv2D(6, padding="same", name="each")(x)
    x = keras.layers.BatchNormalization(name="small")(x)
    model = keras.Model(start, keras.layers.Dense(64, activation="gelu", name="dense")(x))
    seen, convert = [], tf2onnx.convert.from_function

    def watch(*arguments: Any, **named: Any) -> Any:
        found = convert(*arguments, **named)
        seen.append(count(found[0]))
        return found

    monkeypatch.setattr(tf2onnx.convert, "from_function", watch)
    data = onnx_convert.convert(model)
    graph = onnx.load_from_string(data)
    onnx.checker.check_model(graph, full_check=True)
    assert [value.name for value in graph.graph.input] == ["photos"]
    assert (seen[0] < 5_000, count(graph) > 70_000) == (True, True)
    images = photos(16)
    expected = np.asarray(model(images.astype(np.float32), training=False))
    found = onnx_runtime.open_graph(data)(images)
    assert relative_errors(found.reshape(5, -1), expected.reshape(5, -1)).max() < TOLERANCE
    assert not any(
        name.startswith("weight_")
        for node in graph.graph.node
        if node.op_type == "Transpose"
        for name in node.input
    )


def test_the_head_is_appended() -> None:
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(8, 3)).astype(np.float32)
    bias = rng.normal(size=3).astype(np.float32)
    prefix = load_prefix(small_model())
    features_graph = onnx_convert.convert(build_prefix_model(prefix))
    graph = onnx_runtime.append_head(features_graph, kernel, bias)
    features = onnx_runtime.open_graph(graph, "features")(photos(32))
    probabilities = onnx_runtime.open_graph(graph, "probabilities")(photos(32))
    logits = features @ kernel + bias
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert np.allclose(probabilities, expected, atol=1e-6)
    assert np.array_equal(onnx_runtime.open_graph(graph)(photos(32)), features)


# ---- refusals


def test_an_unknown_runtime_is_answered_with_near_ones() -> None:
    with pytest.raises(HeadstartError) as caught:
        get_runtime("onxruntime")
    assert "'onxruntime' is not a known runtime. Did you mean onnxruntime?" in str(caught.value)
    assert "Known: onnxruntime, openvino, litert, tensorflow." in str(caught.value)


@pytest.mark.parametrize(
    ("name", "pip"),
    [
        ("tensorflow", "headstart[cpu]"),
        ("onnxruntime", ""),
        ("openvino", "headstart[openvino]"),
        ("litert", "headstart[cpu,litert]"),
    ],
)
def test_a_missing_runtime_is_named(name: str, pip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(
        MissingPackageError, match=f"the runtime {name} needs the packages? "
    ) as caught:
        get_runtime(name)
    assert pip in str(caught.value)
    assert "pip install" in str(caught.value)


def test_a_missing_converter_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tf2onnx" else find_spec(name)
    )
    with pytest.raises(MissingPackageError, match="needs the package tf2onnx"):
        onnx_convert.convert(small_model())


def test_the_identity_has_the_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version
    assert RUNTIMES["onnxruntime"].identity == f"onnxruntime {version('onnxruntime')}"
    assert RUNTIMES["openvino"].identity == f"openvino {version('openvino')}"
    litert, tensorflow = version("ai-edge-litert"), version("tensorflow")
    assert RUNTIMES["litert"].identity == f"litert {litert}, tensorflow {tensorflow}"

    # TensorFlow is also distributed under other names.
    def find(name: str) -> str:
        if name == "tensorflow":
            raise importlib.metadata.PackageNotFoundError(name)
        return "2.99" if name == "tensorflow-cpu" else version(name)

    monkeypatch.setattr(importlib.metadata, "version", find)
    names = {"tensorflow": ["tensorflow-cpu"]}
    monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: names)
    assert RUNTIMES["tensorflow"].identity == "tensorflow 2.99"


def test_every_runtime_has_an_extra_or_is_a_dependency() -> None:
    import tomllib

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert any(line.startswith("ai-edge-litert") for line in extras["litert"])
    assert any(line.startswith("openvino") for line in extras["openvino"])
    assert any(line.startswith("onnxruntime") for line in project["dependencies"])
    [all_of_them] = (line for line in extras["dev"] if line.startswith("headstart["))
    assert {"cpu", "litert", "openvino"} <= set(re.findall(r"\w+", all_of_them))


# ---- LiteRT's graph


def test_a_conversion_to_litert_gives_the_same_bytes_again() -> None:
    model = build_prefix_model(load_prefix(small_model()))
    graph = litert_runtime.convert(model)
    assert litert_runtime.convert(model) == graph


def test_a_model_that_litert_does_not_know_is_refused_with_a_sentence() -> None:
    import keras
    import tensorflow as tf

    photo = keras.Input((8, 8, 3))
    strange = keras.layers.Lambda(
        lambda x: tf.math.igamma(x[..., :1], x[..., :1]), output_shape=(8, 8, 1)
    )
    model = keras.Model(photo, strange(photo), name="strange")
    with pytest.raises(BackboneError, match=r"strange cannot be converted to LiteRT: .{10}"):
        litert_runtime.convert(model)


# ---- OpenVINO


def test_openvino_is_imported_without_reporting_it(tmp_path: Path) -> None:
    # Its import would send a usage event and keep an identifier in the home folder.
    code = """
import sys
from headstart.runtimes import openvino_runtime
try:
    openvino_runtime.open_graph(b"no graph")(__import__("numpy").zeros((1, 8, 8, 3), "uint8"))
except Exception as error:
    print(type(error).__name__, error)
print("openvino" in sys.modules, "openvino_telemetry" in sys.modules)
"""
    environment = {**os.environ, "HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
        check=True,
    )
    said = done.stdout.splitlines()
    assert said[0].startswith("BackboneError OpenVINO refuses the graph: ")
    assert said[1] == "True False"
    assert list(tmp_path.iterdir()) == []


def test_openvinos_first_call_is_made_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    # Its binding hangs when two threads are the first to ask for a tensor's type. Whether it does
    # is a matter of microseconds; so the first question is prolonged here, and overlaps counted.
    import openvino

    ask, asking, answered, overlaps = openvino.Type.to_dtype, [0], [0], [0]

    def prolonged(kind: Any) -> Any:
        asking[0] += 1
        overlaps[0] += not answered[0] and asking[0] > 1
        if not answered[0]:
            time.sleep(0.3)
        answer = ask(kind)
        asking[0] -= 1
        answered[0] += 1
        return answer

    monkeypatch.setattr(openvino.Type, "to_dtype", prolonged)
    session = openvino_runtime.open_graph(make_graph())
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(session, [photos(8)] * 4))
    assert len(found) == 4
    assert answered[0] >= 4
    assert overlaps == [0]


def test_openvino_computes_in_float32_on_one_thread_a_batch() -> None:
    settings = openvino_runtime._settings()
    assert settings["INFERENCE_PRECISION_HINT"] == "f32"
    assert settings["NUM_STREAMS"] == settings["INFERENCE_NUM_THREADS"] == os.cpu_count()


def test_auto_is_no_row_but_a_name() -> None:
    require_runtime("auto")
    with pytest.raises(HeadstartError, match="Known: auto, onnxruntime, openvino"):
        require_runtime("autoo")
    with pytest.raises(HeadstartError, match="'auto' is not a known runtime"):
        get_runtime("auto")


def make_graph(
    element: int = 2, operator: str = "Cast", domain: str = "", location: str | None = None
) -> bytes:
    """A tiny graph from photos to features; uint8 is 2."""
    from onnx import TensorProto, helper

    attributes: dict[str, Any] = {"to": 1} if operator == "Cast" else {}
    nodes = [helper.make_node(operator, ["photos"], ["x"], domain=domain, **attributes)]
    weight = TensorProto(name="w", data_type=1, dims=[3])
    if location is None:
        weight.float_data.extend([1.0, 2.0, 3.0])
    else:
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=location)
    nodes.append(helper.make_node("Mul", ["x", "w"], ["features"]))
    shape = ["batch", 8, 8, 3]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("photos", element, shape)],
        [helper.make_tensor_value_info("features", 1, shape)],
        [weight],
    )
    opsets = [helper.make_opsetid("", 17)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def test_a_sound_tiny_graph_is_opened() -> None:
    assert onnx_runtime.open_graph(make_graph())(photos(8)).shape == (5, 8, 8, 3)


def test_foreign_graphs_are_refused_with_a_sentence(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "here").mkdir()
    for secret in (tmp_path / "secret.bin", tmp_path / "here" / "near.bin"):
        secret.write_bytes(np.arange(3, dtype="<f4").tobytes())
    monkeypatch.chdir(tmp_path / "here")
    refused = {
        "no graph": b"this is no graph",
        "empty": b"",
        "truncated": make_graph()[:-40],
        "unknown operator": make_graph(operator="Teleport"),
        "custom code": make_graph(operator="Run", domain="com.example"),
        "external, above": make_graph(location="../secret.bin"),
        "external, absolute": make_graph(location=str(tmp_path / "secret.bin")),
        "external, beside": make_graph(location="near.bin"),
    }
    for what, graph in refused.items():
        with pytest.raises(
            BundleError, match=r"(onnxruntime refuses the graph|The graph is refused): .{10}"
        ):
            pytest.fail(f"{what}: {onnx_runtime.open_graph(graph)(photos(8))}")
    with pytest.raises(BundleError, match=r"has the inputs photos tensor\(float\); needed is"):
        onnx_runtime.open_graph(make_graph(element=1))
    with pytest.raises(BundleError, match="has the outputs features, but not probabilities"):
        onnx_runtime.open_graph(make_graph(), "probabilities")
    with pytest.raises(BundleError, match=r"cannot compute photos \(5, 16, 16, 3\)"):
        onnx_runtime.open_graph(make_graph())(photos(16))
    assert capfd.readouterr().err == ""  # the runtime's own log stays silent
