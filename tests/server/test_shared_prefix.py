"""Bundles with the same frozen prefix: a photo goes through it once for all of them."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

from starlette.testclient import TestClient

from headstart import ImageClassifier
from headstart.bundle import GRAPH, load_bundle, save_bundle
from headstart.predictor import Predictor
from headstart.server.app import create_app
from headstart.server.registry import Registry
from headstart.server.settings import Settings


@pytest.fixture(scope="module")
def bundles(trained_bundle: Path, few_digits: Path, tmp_path_factory: Any) -> list[Path]:
    other = ImageClassifier(seed=5).fit(few_digits)
    return [trained_bundle, other.save(tmp_path_factory.mktemp("other") / "few.headstart")]


@pytest.fixture(scope="module")
def photos(digits_folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(digits_folder.glob("*/00[12].png"))]


def count_computed(client: TestClient) -> float:
    lines = client.get("/metrics").text.splitlines()
    (found,) = [line for line in lines if line.startswith("headstart_batch_photos_sum ")]
    return float(found.split()[1])


def test_several_models_of_one_request_take_one_pass(
    bundles: list[Path], photos: list[bytes]
) -> None:
    expected = [list(Predictor(bundle).predict(photos)) for bundle in bundles]
    form = [("file", ("a.png", photo)) for photo in photos]
    form.append(("file", ("bad.jpg", b"no image")))
    with TestClient(create_app(Registry(bundles, Settings()))) as client:
        answers = client.post("/predict?model=digits&model=few", files=form).json()["models"]
        assert count_computed(client) == len(photos)
    assert [answer["model"] for answer in answers] == ["digits", "few"]
    for answer, said in zip(answers, expected, strict=True):
        *rows, bad = answer["results"]
        assert bad["problem"] == "not an image of a known format"
        for row, each in zip(rows, said, strict=True):
            assert row["label"] == each.label
            odds = list(row["probabilities"].values())
            assert odds == pytest.approx(list(each.probabilities), abs=1e-5)
            assert row["novelty"] == (each.novelty and pytest.approx(each.novelty, abs=1e-4))
            assert row["set"] == (each.prediction_set and list(each.prediction_set))


def test_requests_for_different_models_share_what_is_on_its_way(
    bundles: list[Path], photos: list[bytes]
) -> None:
    registry = Registry(bundles, Settings())

    async def ask() -> list[Any]:
        deadline = time.monotonic() + 30
        engines = list(registry.engines.values()) * 2
        return await asyncio.gather(*(e.answer(photos[:3], deadline) for e in engines))

    with TestClient(create_app(registry)) as client:
        assert client.portal is not None
        first, second, again, _ = client.portal.call(ask)
        assert count_computed(client) == 3
        client.portal.call(registry.reload)  # the lane outlives the engine that began it
        client.portal.call(ask)
        assert count_computed(client) == 6
    assert [a.label for a in first] == [a.label for a in again]
    assert [a.probabilities.tolist() for a in first] != [a.probabilities.tolist() for a in second]


def test_a_deadline_of_one_request_is_not_that_of_another(
    bundles: list[Path], photos: list[bytes]
) -> None:
    registry = Registry(bundles, Settings())

    async def ask() -> list[Any]:
        now = time.monotonic()
        one, two = registry.engines.values()
        jobs = one.answer(photos[:1], now - 1), two.answer(photos[:1], now + 30)
        return await asyncio.gather(*jobs, return_exceptions=True)

    with TestClient(create_app(registry)) as client:
        assert client.portal is not None
        late, in_time = client.portal.call(ask)
    assert late.status == 504
    assert in_time[0].label


def change(bundle: Path, pick: Any, target: Path) -> Path:
    """The bundle with other weights in one convolution, which ``pick`` takes out of all of them."""
    import onnx

    loaded = load_bundle(bundle)
    model = onnx.load_from_string(loaded.members[GRAPH])
    used = [name for node in model.graph.node for name in node.input]
    convolutions = [w for w in model.graph.initializer if len(w.dims) == 4]
    weights = pick(sorted(convolutions, key=lambda each: used.index(each.name)))
    changed = onnx.numpy_helper.to_array(weights) * 1.5
    weights.CopyFrom(onnx.numpy_helper.from_array(changed, weights.name))
    save_bundle(target, loaded.manifest, {**loaded.members, GRAPH: model.SerializeToString()})
    return target


def test_what_follows_the_common_part_is_each_ones_own(
    bundles: list[Path], photos: list[bytes], tmp_path: Path
) -> None:
    paths = [*bundles, change(bundles[0], lambda each: each[-1], tmp_path / "tuned.headstart")]
    expected = [list(Predictor(path).predict(photos)) for path in paths]
    assert expected[0][0].probabilities.tolist() != expected[2][0].probabilities.tolist()
    form = [("file", ("a.png", photo)) for photo in photos]
    with TestClient(create_app(Registry(paths, Settings()))) as client:
        address = "/predict?model=digits&model=few&model=tuned"
        answers = client.post(address, files=form).json()["models"]
        assert count_computed(client) == len(photos)
    for answer, said in zip(answers, expected, strict=True):
        for row, each in zip(answer["results"], said, strict=True):
            odds = list(row["probabilities"].values())
            assert odds == pytest.approx(list(each.probabilities), abs=1e-5)
            assert row["novelty"] == (each.novelty and pytest.approx(each.novelty, abs=1e-4))


def test_another_prefix_is_not_shared(
    trained_bundle: Path, photos: list[bytes], tmp_path: Path
) -> None:
    other = change(trained_bundle, lambda each: each[0], tmp_path / "other.headstart")
    with TestClient(create_app(Registry([trained_bundle, other], Settings()))) as client:
        form = {"file": ("a.png", photos[0])}
        client.post("/predict?model=digits&model=other", files=form).raise_for_status()
        assert count_computed(client) == 2
