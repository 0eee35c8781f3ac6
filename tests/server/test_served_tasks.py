"""Several labels and numbers, served: what is answered is what predict says."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")

from starlette.testclient import TestClient

from headstart import ImageClassifier
from headstart.predictor import Predictor
from headstart.server.app import create_app
from headstart.server.registry import Registry
from headstart.server.settings import Settings


@pytest.fixture(scope="module")
def folder(drawn: Path, fitted_labels: ImageClassifier, fitted_sizes: ImageClassifier) -> Path:
    """A bundle of each task, and their photos."""
    return drawn


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[TestClient]:
    paths = [folder / "labels.headstart", folder / "sizes.headstart"]
    with TestClient(create_app(Registry(paths, Settings()))) as found:
        yield found


def photos(folder: Path, prefix: str) -> list[bytes]:
    return [(folder / f"{prefix}{number}.png").read_bytes() for number in range(4)]


def ask(client: TestClient, address: str, key: str, contents: list[bytes]) -> Any:
    return client.post(
        address, json={key: [{"b64": base64.b64encode(c).decode()} for c in contents]}
    )


def infer(client: TestClient, model: str, contents: list[bytes]) -> dict[str, Any]:
    data = [base64.b64encode(each).decode() for each in contents]
    inputs = [{"name": "image_bytes", "shape": [len(data)], "datatype": "BYTES", "data": data}]
    found = client.post(f"/v2/models/{model}/infer", json={"inputs": inputs}).json()["outputs"]
    described = client.get(f"/v2/models/{model}").json()["outputs"]
    assert [(o["name"], o["datatype"]) for o in found] == [
        (o["name"], o["datatype"]) for o in described
    ]
    return {each["name"]: each["data"] for each in found}


def test_labels(folder: Path, client: TestClient) -> None:
    contents = photos(folder, "")
    expected = list(Predictor(folder / "labels.headstart").predict(contents))
    assert len({said.labels for said in expected}) > 1
    names = ["blue", "red"]
    form = [("file", ("a.png", each)) for each in [*contents, b"no image"]]
    *rows, bad = client.post("/predict?model=labels", files=form).json()["results"]
    assert bad == {"file": "a.png", "problem": "not an image of a known format"}
    for row, said in zip(rows, expected, strict=True):
        assert row["labels"] == list(said.labels or ())
        assert list(row["probabilities"]) == names
        assert list(row["probabilities"].values()) == pytest.approx(said.probabilities, abs=1e-5)
        assert "set" not in row
    first = ask(client, "/v1/models/labels:predict", "instances", contents).json()["predictions"]
    assert [row["labels"] for row in first] == [said.label for said in expected]
    said = [[name in (each.labels or ()) for name in names] for each in expected]
    assert [row["is_said"] for row in first] == said
    classified = ask(client, "/v1/models/labels:classify", "examples", contents).json()["results"]
    assert [[name for name, _ in row] for row in classified] == [names] * 4
    found = infer(client, "labels", contents)
    assert found["labels"] == [each.label for each in expected]
    assert np.reshape(found["is_said"], (4, 2)).tolist() == said
    refused = ask(client, "/v1/models/labels:regress", "examples", contents)
    assert refused.status_code == 400
    assert "labels has the task multilabel, which is no regress" in refused.json()["error"]


def test_numbers(folder: Path, client: TestClient) -> None:
    contents = photos(folder, "size")
    expected = list(Predictor(folder / "sizes.headstart").predict(contents))
    values = [each.value for each in expected]
    assert np.ptp(values) > 0.1
    form = [("file", ("a.png", each)) for each in contents]
    rows = client.post("/predict?model=sizes", files=form).json()["results"]
    assert [row["value"] for row in rows] == pytest.approx(values, rel=1e-4)
    intervals = [value for row in rows for value in row["interval"]]
    assert intervals == pytest.approx([v for e in expected for v in e.interval or ()], rel=1e-4)
    assert "label" not in rows[0]
    regressed = ask(client, "/v1/models/sizes:regress", "examples", contents).json()["results"]
    assert regressed == pytest.approx(values, rel=1e-4)
    first = ask(client, "/v1/models/sizes:predict", "instances", contents).json()["predictions"]
    assert [(r["low"] < r["value"] < r["high"]) for r in first] == [True] * 4
    signature = client.get("/v1/models/sizes/metadata").json()["metadata"]["signature_def"]
    outputs = signature["signature_def"]["serving_default"]["outputs"]
    assert sorted(outputs) == ["high", "low", "value"]
    assert infer(client, "sizes", contents)["value"] == pytest.approx(values, rel=1e-4)
    refused = ask(client, "/v1/models/sizes:classify", "examples", contents)
    assert refused.status_code == 400
    why = client.post("/explain?model=sizes", files={"file": ("a.png", contents[0])})
    assert why.status_code == 400
    assert "task regression" in why.json()["error"]
    tasks = [each["task"] for each in client.get("/models").json()["models"]]
    assert tasks == ["multilabel", "regression"]
