"""Graphs of strangers are refused with a sentence before onnxruntime sees them, without onnx."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from headstart.errors import BundleError
from headstart.models.boundary import build_prefix_model
from headstart.models.loaders import load_prefix
from headstart.runtimes import onnx_convert, onnx_runtime
from headstart.runtimes.onnx_checks import MEMORY_BYTES, check_graph

SHAPE = ["batch", 4, 4, 3]


def make_model(*nodes: Any, constants: list[Any] | None = None, opsets: Any = ()) -> Any:
    """Photos → features by a Cast, the nodes, and an Add of what they call "y"."""
    last = "y" if nodes else "w"
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["photos"], ["x"], to=1),
            *nodes,
            helper.make_node("Add", ["x", last], ["features"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("photos", TensorProto.UINT8, SHAPE)],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, SHAPE)],
        [numpy_helper.from_array(np.arange(3, dtype=np.float32), "w"), *(constants or [])],
    )
    ids = [helper.make_opsetid("", 17), *(helper.make_opsetid(*pair) for pair in opsets)]
    return helper.make_model(graph, opset_imports=ids, ir_version=8)


def inner_graph() -> Any:
    out = helper.make_tensor_value_info("z", TensorProto.FLOAT, [3])
    return helper.make_graph([helper.make_node("Identity", ["w"], ["z"])], "inner", [], [out])


def with_external_data(model: Any, key: str = "location") -> Any:
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key=key, value="/etc/passwd")
    return model


def with_location_only(model: Any) -> Any:
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    return model


def with_functions(model: Any) -> Any:
    node = helper.make_node("Identity", ["a"], ["b"])
    function = helper.make_function("", "Mine", ["a"], ["b"], [node], [helper.make_opsetid("", 17)])
    model.functions.append(function)
    return model


def with_training(model: Any) -> Any:
    model.training_info.add().algorithm.CopyFrom(inner_graph())
    return model


def with_sparse(model: Any) -> Any:
    values = numpy_helper.from_array(np.ones(1, np.float32), "s")
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "i")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [10**6]))
    return model


def with_dims(*dims: int) -> Callable[[Any], Any]:
    def change(model: Any) -> Any:
        del model.graph.initializer[0].dims[:]
        model.graph.initializer[0].dims.extend(dims)
        return model

    return change


def with_input_type(model: Any) -> Any:
    model.graph.input[0].type.sequence_type.elem_type.tensor_type.elem_type = 1
    return model


def with_segment(model: Any) -> Any:
    model.graph.initializer[0].segment.begin = 0
    model.graph.initializer[0].segment.end = 3
    return model


def same(model: Any) -> Any:
    return model


BRANCH = [
    helper.make_node("If", ["c"], ["y"], then_branch=inner_graph(), else_branch=inner_graph())
]
LOOP = [helper.make_node("Loop", ["n", ""], ["y"], body=inner_graph())]
SCAN = [helper.make_node("Scan", ["w"], ["y"], body=inner_graph(), num_scan_inputs=1)]
MAPPED = [helper.make_node("SequenceMap", ["w"], ["y"], body=inner_graph())]
HOSTILE: dict[str, tuple[list[Any], Callable[[Any], Any], str]] = {
    "If": (BRANCH, same, "a graph within an operator"),
    "Loop": (LOOP, same, "a graph within an operator"),
    "Scan": (SCAN, same, "a graph within an operator"),
    "SequenceMap": (MAPPED, same, "a graph within an operator"),
    "vendor operator": (
        [helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")],
        same,
        "'Gelu' is of 'com.microsoft'",
    ),
    "custom operator": (
        [helper.make_node("Run", ["x"], ["y"], domain="evil")],
        same,
        "'Run' is of 'evil'",
    ),
    "classical operator": (
        [helper.make_node("Scaler", ["x"], ["y"], domain="ai.onnx.ml")],
        same,
        "'Scaler' is of 'ai.onnx.ml'",
    ),
    "external data": ([], with_external_data, "in another file"),
    "external data without a place": ([], with_location_only, "in another file"),
    "external data by another key": ([], lambda m: with_external_data(m, "x"), "in another file"),
    "functions": ([], with_functions, "functions of its own"),
    "training": ([], with_training, "training steps"),
    "sparse": ([], with_sparse, "sparse tensors"),
    "huge constant": ([], with_dims(2**40), "declares 1099511627776 and brings 3 elements"),
    "huge constant in parts": ([], with_dims(2**20, 2**20), "1048576 x 1048576 and brings 3"),
    "negative constant": ([], with_dims(-3), "and brings 3 elements"),
    "constant too small": ([], with_dims(2), "declares 2 and brings 3"),
    "constant without shape": ([], with_dims(), "declares a single number and brings 3"),
    "sequence": ([], with_input_type, "a sequence"),
    "segments": ([], with_segment, "a tensor in segments"),
    "text": (
        [helper.make_node("Constant", [], ["y"], value=helper.make_tensor("t", 8, [1], [b"a"]))],
        same,
        "a tensor of text",
    ),
    "huge constant in an attribute": (
        [
            helper.make_node(
                "Constant",
                [],
                ["y"],
                value=TensorProto(dims=[2**33], data_type=1, float_data=[1.0]),
            )
        ],
        same,
        "declares 8589934592 and brings 1",
    ),
    "sparse attribute": (
        [
            helper.make_node(
                "Constant",
                [],
                ["y"],
                sparse_value=helper.make_sparse_tensor(
                    numpy_helper.from_array(np.ones(1, np.float32), "s"),
                    numpy_helper.from_array(np.zeros(1, np.int64), "i"),
                    [10**9],
                ),
            )
        ],
        same,
        "sparse tensors",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_refused_before_a_session_is_built(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes, change, words = HOSTILE[name]
    data = change(make_model(*nodes)).SerializeToString()
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda *_, **__: pytest.fail("a session was built")
    )
    with pytest.raises(BundleError) as caught:
        onnx_runtime.open_graph(data)
    assert str(caught.value).startswith("The graph is refused: ")
    assert words in str(caught.value)


@pytest.mark.parametrize("domain", ["com.microsoft", "evil", "ai.onnx.training"])
def test_foreign_operator_sets_are_refused(domain: str) -> None:
    data = make_model(opsets=[(domain, 1)]).SerializeToString()
    with pytest.raises(BundleError, match=f"needs the operators of '{domain}'"):
        check_graph(data)


def test_too_many_operators_are_refused() -> None:
    nodes = [helper.make_node("Identity", ["w"], ["y"])] * 50_001
    with pytest.raises(BundleError, match="50,003 operators, more than the limit of 50,000"):
        check_graph(make_model(*nodes).SerializeToString())


def test_what_readers_would_merge_is_refused() -> None:
    data = make_model().SerializeToString()
    graph = make_model().graph.SerializeToString()
    doubled = data + b"\x3a" + encode_varint(len(graph)) + graph
    onnx.load_from_string(doubled)  # legal: the second is merged into the first
    with pytest.raises(BundleError, match=r"a model says the same \(field 7\) twice"):
        check_graph(doubled)


def encode_varint(value: int) -> bytes:
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


# ---- what is sound


@pytest.mark.parametrize("kind", sorted({1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 16}))
@pytest.mark.parametrize("is_raw", [True, False])
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3)])
def test_constants_of_every_type_pass(kind: int, is_raw: bool, shape: tuple[int, ...]) -> None:
    values = np.arange(int(np.prod(shape))) % 2
    if is_raw:
        kinds = helper.tensor_dtype_to_np_dtype(kind)
        constant = numpy_helper.from_array(values.reshape(shape).astype(kinds), "c")
    else:
        constant = helper.make_tensor("c", kind, shape, values)
    assert constant.data_type == kind
    check_graph(make_model(constants=[constant]).SerializeToString())


def test_negative_numbers_in_constants_pass() -> None:
    constant = helper.make_tensor("c", TensorProto.INT64, [3], [-1, 0, 2**62])
    assert len(constant.int64_data) == 3
    check_graph(make_model(constants=[constant]).SerializeToString())


def test_our_own_graphs_pass() -> None:
    graph = load_prefix("efficientnet-lite0").write_graph()
    check_graph(graph)
    check_graph(onnx_runtime.append_head(graph, np.ones((1280, 3)), np.zeros(3)))


def test_converted_graphs_pass() -> None:
    import keras

    photo = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(4, 3, activation="swish")(keras.layers.Rescaling(1 / 255)(photo))
    x = keras.layers.LayerNormalization()(x)
    x = keras.layers.UpSampling2D()(x)
    x = keras.layers.GlobalMaxPooling2D()(x)
    prefix = load_prefix(keras.Model(photo, keras.layers.Dense(3)(x)))
    graph = onnx_convert.convert(build_prefix_model(prefix))
    check_graph(graph)
    images = np.zeros((2, 32, 32, 3), np.uint8)
    assert onnx_runtime.open_graph(graph)(images).shape == (2, 3)


def test_neither_onnx_nor_protobuf_is_needed(tmp_path: Path) -> None:
    (tmp_path / "graph.onnx").write_bytes(make_model().SerializeToString())
    code = """
        import sys
        sys.modules["onnx"] = sys.modules["google.protobuf"] = None
        from pathlib import Path
        import numpy as np
        from headstart.runtimes.onnx_runtime import open_graph
        session = open_graph(Path(sys.argv[1]).read_bytes())
        print(session(np.ones((1, 4, 4, 3), np.uint8))[0, 0, 0].tolist())
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "graph.onnx")]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout == "[1.0, 2.0, 3.0]\n"


# ---- memory that no reading could foresee


@pytest.mark.parametrize("kind", ["MatMul", "ConstantOfShape"])
def test_a_small_graph_that_computes_a_huge_tensor_is_stopped(kind: str) -> None:
    side = 40_000  # squared, four bytes each: more than the limit
    assert 4 * side**2 > MEMORY_BYTES
    constants = [
        numpy_helper.from_array(np.ones((side, 1), np.float32), "column"),
        numpy_helper.from_array(np.ones((1, side), np.float32), "row"),
        numpy_helper.from_array(np.array([side, side]), "sides"),
    ]
    inputs = ["column", "row"] if kind == "MatMul" else ["sides"]
    nodes = [
        helper.make_node(kind, inputs, ["huge"]),
        helper.make_node("ReduceMax", ["huge"], ["y"], keepdims=0),
    ]
    data = make_model(*nodes, constants=constants).SerializeToString()
    with pytest.raises(BundleError, match="onnxruntime"):
        onnx_runtime.open_graph(data)(np.ones((1, 4, 4, 3), np.uint8))
    sound = onnx_runtime.open_graph(make_model().SerializeToString())
    assert sound(np.ones((1, 4, 4, 3), np.uint8)).shape == (1, 4, 4, 3)


# ---- damage


TINY = make_model(
    helper.make_node("Constant", [], ["y"], value=numpy_helper.from_array(np.ones(3, np.float32))),
    constants=[helper.make_tensor("c", TensorProto.INT64, [2], [1, -1])],
).SerializeToString()


@settings(max_examples=600, deadline=None)
@given(
    places=st.lists(st.tuples(st.integers(0, len(TINY) - 1), st.integers(0, 255)), max_size=4),
    length=st.integers(0, len(TINY)),
)
def test_any_damage_is_refused_or_is_a_graph_for_onnx_too(
    places: list[tuple[int, int]], length: int
) -> None:
    changed = bytearray(TINY)
    for place, value in places:
        changed[place] = value
    data = bytes(changed[: length or None])
    try:
        check_graph(data)
    except BundleError:
        return
    # What is accepted here means the same to protobuf: nothing refused has hidden in it.
    try:
        model = onnx.load_from_string(data)
    except Exception:  # text that is not UTF-8: onnxruntime refuses it as well
        return
    tensors = [*model.graph.initializer]
    for node in model.graph.node:
        assert node.domain in ("", "ai.onnx")
        for attribute in node.attribute:
            assert not attribute.HasField("g")
            assert not attribute.graphs
            tensors += [attribute.t] if attribute.HasField("t") else attribute.tensors
    assert not model.functions
    assert not model.graph.sparse_initializer
    for tensor in tensors:
        assert not tensor.external_data
        assert tensor.data_location == TensorProto.DEFAULT
        assert int(np.prod(tensor.dims, dtype=object)) <= len(data)


@given(st.binary(max_size=300))
def test_any_bytes_are_refused(data: bytes) -> None:
    if b"\x3a" not in data:  # no graph
        with pytest.raises(BundleError, match="The graph is refused"):
            check_graph(data)


def test_damaged_graphs_do_not_crash_onnxruntime(tmp_path: Path) -> None:
    """In a child, which would not survive it."""
    (tmp_path / "graph.onnx").write_bytes(TINY)
    code = """
        import sys
        from pathlib import Path
        import numpy as np
        from headstart.errors import BundleError
        from headstart.runtimes.onnx_runtime import open_graph
        data = Path(sys.argv[1]).read_bytes()
        refused = 0
        for position in range(len(data)):
            for mask in (0x01, 0x10, 0x80, 0xFF):
                changed = bytearray(data)
                changed[position] ^= mask
                try:
                    open_graph(bytes(changed))(np.ones((1, 4, 4, 3), np.uint8))
                except BundleError:
                    refused += 1
        print(refused)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "graph.onnx")]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(found.stdout) > len(TINY)


def test_onnxruntime_is_loaded_with_its_telemetry_off(tmp_path: Path) -> None:
    """Else it queues events and writes an id of the machine into the user's cache."""
    code = (
        "import os\n"
        "from headstart.models.loaders import load_prefix\n"
        "from headstart.runtimes import get_runtime\n"
        "prefix = load_prefix('efficientnet-lite0')\n"
        "get_runtime('onnxruntime').open(prefix, lambda: None)\n"
        "assert os.environ['ORT_DISABLE_TELEMETRY'] == '1'\n"
    )
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", code], env={**os.environ, **home}, check=True)
    assert not list(tmp_path.rglob("*onnxruntime*"))
