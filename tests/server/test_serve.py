"""The server: what it answers is what predict says; what it refuses, and how it ends."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")

from starlette.testclient import TestClient

from headstart import ImageClassifier
from headstart.data.decode import decode_photo
from headstart.errors import HeadstartError
from headstart.predictor import Predictor
from headstart.server.app import create_app
from headstart.server.registry import Registry, name_model
from headstart.server.settings import Settings


@pytest.fixture(scope="module")
def photos(digits_folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(digits_folder.glob("*/00[12].png"))]


@pytest.fixture(scope="module")
def expected(trained_bundle: Path, photos: list[bytes]) -> list[Any]:
    return list(Predictor(trained_bundle).predict(photos))


@pytest.fixture(scope="module")
def client(trained_bundle: Path) -> Iterator[TestClient]:
    app = create_app(Registry([trained_bundle], Settings()))
    with TestClient(app, raise_server_exceptions=False) as found:
        yield found


def serve(bundle: Path, **settings: Any) -> TestClient:
    app = create_app(Registry([bundle], Settings(**settings)))
    return TestClient(app, raise_server_exceptions=False)


def b64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode()}


def post(client: TestClient, path: str, body: Any, **headers: str) -> Any:
    return client.post(path, content=json.dumps(body), headers=headers)


def fails(response: Any, status: int, says: str) -> None:
    assert response.status_code == status, response.text
    assert says in response.json()["error"]


# ---- the same answers by every door


def test_files_of_a_form(client: TestClient, photos: list[bytes], expected: list[Any]) -> None:
    form = [("file", (f"{n}.png", photo)) for n, photo in enumerate(photos)]
    found = client.post("/predict", files=[*form, ("file", ("bad.jpg", b"no image"))])
    *rows, bad = found.json()["results"]
    assert bad == {"file": "bad.jpg", "problem": "not an image of a known format"}
    for row, said in zip(rows, expected, strict=True):
        assert row["label"] == said.label
        assert list(row["probabilities"].values()) == pytest.approx(list(said.probabilities))
        assert row["set"] == list(said.prediction_set)
        assert (row["sure"], row["novel"]) == (said.is_sure, said.is_novel)


@pytest.mark.parametrize("place", ["digits", "digits/versions/1"])
def test_tensorflow_servings_rows_and_columns(
    client: TestClient, photos: list[bytes], expected: list[Any], place: str
) -> None:
    url = f"/v1/models/{place}:predict"
    bare = {"signature_name": "serving_default", "instances": [b64(p) for p in photos]}
    named = {"instances": [{"image_bytes": b64(p)} for p in photos]}
    for body in (bare, named):
        rows = post(client, url, body).json()["predictions"]
        for row, said in zip(rows, expected, strict=True):
            assert row["label"] == said.label
            assert row["probabilities"] == pytest.approx(list(said.probabilities))
            assert row["is_sure"] == said.is_sure
            assert sum(row["set"]) == len(said.prediction_set)
    for given in ([b64(p) for p in photos], {"image_bytes": [b64(p) for p in photos]}):
        outputs = post(client, url, {"inputs": given}).json()["outputs"]
        assert outputs["label"] == [said.label for said in expected]
    single = post(client, url, {"inputs": b64(photos[0])}).json()["outputs"]
    assert single["label"] == [expected[0].label]


def test_tensorflow_servings_other_answers(
    client: TestClient, photos: list[bytes], expected: list[Any]
) -> None:
    status = client.get("/v1/models/digits").json()["model_version_status"]
    assert status[0]["state"] == "AVAILABLE"
    told = client.get("/v1/models/digits/metadata").json()["metadata"]
    assert told["class_names"] == ["0", "1", "2", "3"]
    assert "serving_default" in told["signature_def"]["signature_def"]
    found = post(client, "/v1/models/digits:classify", {"examples": [{"image": b64(photos[0])}]})
    ((*pairs,),) = found.json()["results"]
    assert dict(map(tuple, pairs))[expected[0].label] == pytest.approx(expected[0].probability)


def test_v2_in_json(client: TestClient, photos: list[bytes], expected: list[Any]) -> None:
    data = [b64(photo)["b64"] for photo in photos]
    given = {"name": "image_bytes", "shape": [len(data)], "datatype": "BYTES", "data": data}
    body = {"id": "42", "parameters": {"unknown": 1}, "inputs": [given]}
    found = post(client, "/v2/models/digits/versions/1/infer", body).json()
    assert (found["id"], found["model_name"], found["model_version"]) == ("42", "digits", "1")
    outputs = {each["name"]: each for each in found["outputs"]}
    assert outputs["probabilities"]["shape"] == [len(data), 4]
    odds = np.reshape(outputs["probabilities"]["data"], (-1, 4))
    np.testing.assert_allclose(odds, [said.probabilities for said in expected], rtol=1e-5)
    assert outputs["label"]["data"] == [said.label for said in expected]
    assert outputs["is_sure"]["data"] == [said.is_sure for said in expected]


def test_v2_in_binary(client: TestClient, photos: list[bytes], expected: list[Any]) -> None:
    tail = b"".join(struct.pack("<I", len(p)) + p for p in photos)
    given = {"name": "image_bytes", "shape": [len(photos)], "datatype": "BYTES"}
    head = json.dumps(
        {
            "inputs": [{**given, "parameters": {"binary_data_size": len(tail)}}],
            "parameters": {"binary_data_output": True},
            "outputs": [{"name": "probabilities"}, {"name": "label"}],
        }
    ).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    found = client.post("/v2/models/digits/infer", content=head + tail, headers=headers)
    length = int(found.headers["Inference-Header-Content-Length"])
    told, rest = json.loads(found.content[:length]), found.content[length:]
    size = told["outputs"][0]["parameters"]["binary_data_size"]
    odds = np.frombuffer(rest[:size], "<f4").reshape(-1, 4)
    np.testing.assert_allclose(odds, [said.probabilities for said in expected], rtol=1e-5)
    assert rest[size:] == b"".join(b"\x01\0\0\0" + said.label.encode() for said in expected)


def test_v2_takes_pixels_and_ranks(
    client: TestClient, photos: list[bytes], expected: list[Any]
) -> None:
    pixels = np.kron(decode_photo(photos[0], 64), np.ones((2, 2, 1), np.uint8))
    given = {"name": "pixels", "datatype": "UINT8", "data": pixels.ravel().tolist()}
    body = {
        "inputs": [{**given, "shape": [1, *pixels.shape]}],
        "outputs": [{"name": "probabilities", "parameters": {"classification": 2}}],
    }
    (output,) = post(client, "/v2/models/digits/infer", body).json()["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [1, 2])
    probability, number, label = output["data"][0].split(":")
    assert label == ("0", "1", "2", "3")[int(number)]
    assert 0 < float(probability) <= 1
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data", "classification"]
    told = client.get("/v2/models/digits").json()
    assert told["inputs"] == [{"name": "image_bytes", "datatype": "BYTES", "shape": [-1]}]
    assert client.get("/v2/models/digits/ready").json() == {"name": "digits", "ready": True}


def test_many_at_once_are_answered_each(
    client: TestClient, photos: list[bytes], expected: list[Any]
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def ask(number: int) -> str:
        form = {"file": ("a.png", photos[number % len(photos)])}
        return client.post("/predict", files=form).json()["results"][0]["label"]

    with ThreadPoolExecutor(8) as pool:
        labels = list(pool.map(ask, range(40)))
    assert labels == [expected[n % len(photos)].label for n in range(40)]


def test_heat_and_the_page(client: TestClient, photos: list[bytes], expected: list[Any]) -> None:
    found = client.post("/explain", files={"file": ("a.png", photos[0])}).json()
    assert found["label"] == expected[0].label
    assert np.shape(found["heat"]) == (7, 7)
    page = client.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "http://" not in page.text
    assert client.get("/models").json()["models"][0]["class_names"] == ["0", "1", "2", "3"]
    assert client.get("/openapi.json").json()["info"]["title"] == "Headstart"


# ---- what is refused


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/v1/models/digits:predict", {}, 400, 'either "instances" or "inputs"'),
        ("/v1/models/digits:predict", {"instances": [], "inputs": []}, 400, "either"),
        ("/v1/models/digits:predict", {"instances": []}, 400, "a list of photos"),
        ("/v1/models/digits:predict", {"instances": [{"b64": "?"}]}, 400, "not valid base64"),
        ("/v1/models/digits:predict", {"instances": [{"b64": 3}]}, 400, "Expected base64"),
        ("/v1/models/digits:predict", {"instances": [[1, 2]]}, 400, "the file in base64"),
        ("/v1/models/digits:predict", {"instances": [b64(b"x")]}, 400, "Photo 0 cannot be read"),
        ("/v1/models/digits:predict", {"signature_name": "x", "inputs": []}, 400, "no signature"),
        ("/v1/models/digts:predict", {}, 404, "Did you mean digits"),
        ("/v1/models/digits/versions/7:predict", {}, 404, "the version 1 only, not 7"),
        ("/v1/models/digits:train", {}, 404, "There is nothing at"),
        ("/v2/models/digits/infer", {}, 400, "Expected one input"),
        ("/v2/models/digits/infer", {"inputs": [{"shape": "x"}]}, 400, "not a list of sizes"),
        ("/v2/models/digits/infer", {"inputs": [{"shape": [1]}]}, 400, "datatype is None"),
        ("/v2/models/other/infer", {}, 404, "no model 'other'"),
        ("/predict", {}, 400, "multipart/form-data"),
    ],
)
def test_wrong_requests_are_told_why(
    client: TestClient, path: str, body: Any, status: int, says: str
) -> None:
    fails(post(client, path, body), status, says)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"shape": [2], "datatype": "BYTES", "data": [""]}, "does not fit 1 photos"),
        ({"shape": [1], "datatype": "BYTES"}, "has no data"),
        ({"shape": [1, 2, 2, 3], "datatype": "UINT8", "data": [1] * 11}, "do not fit"),
        ({"shape": [1, 2, 2, 3], "datatype": "UINT8", "data": [300] * 12}, "0 to 255"),
        ({"shape": [4], "datatype": "UINT8", "data": [1] * 4}, "Pixels need the shape"),
        (
            {"shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 9}},
            "0 bytes came",
        ),
        ({"shape": [10**30, 10**30], "datatype": "BYTES", "data": ["", ""]}, "does not fit"),
        ({"shape": [1, 10**30, 1, 3], "datatype": "UINT8", "data": [1] * 12}, "do not fit"),
    ],
)
def test_wrong_tensors_are_told_why(client: TestClient, given: Any, says: str) -> None:
    fails(post(client, "/v2/models/digits/infer", {"inputs": [given]}), 400, says)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (3, "outputs are 3"),
        ({"name": "label"}, "not a list."),
        ([3], "no output None"),
        ([{"name": ["label"]}], "no output"),
        ([{"name": "label", "parameters": "x"}], "parameters are 'x'"),
        ([{"name": "probabilities", "parameters": {"classification": "x"}}], "classification"),
    ],
)
def test_wrong_outputs_are_told_why(
    client: TestClient, photos: list[bytes], asked: Any, says: str
) -> None:
    data = [b64(photos[0])["b64"]]
    given = {"name": "image_bytes", "shape": [1], "datatype": "BYTES", "data": data}
    body = {"inputs": [given], "outputs": asked}
    fails(post(client, "/v2/models/digits/infer", body), 400, says)


@pytest.mark.parametrize("length", ["²", "9" * 5000, "-1", "7"])
def test_a_wrong_length_of_the_header_is_told(client: TestClient, length: str) -> None:
    headers = {"Inference-Header-Content-Length": length.encode("latin-1")}
    found = client.post("/v2/models/digits/infer", content=b"{}", headers=headers)
    fails(found, 400, "Inference-Header-Content-Length")


def test_names_that_are_no_unicode_are_answered(client: TestClient) -> None:
    kind = {"content-type": "multipart/form-data; boundary=x; charset=utf-7"}
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="+2AA-"\r\n\r\n'
    found = client.post("/predict", content=head + b"a\r\n--x--\r\n", headers=kind)
    assert found.status_code == 200
    assert found.json()["results"][0]["problem"]


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_no_json_is_told_so(client: TestClient, body: bytes) -> None:
    for path in ("/v1/models/digits:predict", "/v2/models/digits/infer"):
        fails(client.post(path, content=body), 400, "JSON")


def test_compressed_bodies_and_broken_forms_are_refused(client: TestClient) -> None:
    headers = {"content-encoding": "gzip"}
    fails(client.post("/v1/models/digits:predict", content=b"x", headers=headers), 415, "Compress")
    headers = {"content-type": "multipart/form-data; boundary=x"}
    fails(client.post("/predict", content=b"--y", headers=headers), 400, "form")
    fails(client.post("/predict", files=[("file", ("a", b""))] * 40), 413, "Too many")


def test_bodies_that_are_too_large_are_refused_before_they_are_read(
    trained_bundle: Path,
) -> None:
    with serve(trained_bundle, body_bytes=10_000) as client:
        large = b"x" * 20_000
        fails(client.post("/predict", files={"file": ("a", large)}), 413, "larger than")

        def stream() -> Iterator[bytes]:  # without a length
            for _ in range(20):
                yield b"x" * 1000

        fails(client.post("/v1/models/digits:predict", content=stream()), 413, "larger than")
        assert 'rejected_total{reason="size"} 2.0' in client.get("/metrics").text


def test_a_full_queue_and_a_deadline(trained_bundle: Path, photos: list[bytes]) -> None:
    with serve(trained_bundle, queue=2) as client:
        three = [("file", ("a.png", photo)) for photo in photos[:3]]
        full = client.post("/predict", files=three)
        fails(full, 429, "queue is full")
        assert full.headers["retry-after"] == "1"
        late = client.post("/predict", files=three[:1], headers={"X-Request-Timeout": "0"})
        fails(late, 504, "deadline passed")
        wrong = client.post("/predict", files=three[:1], headers={"X-Request-Timeout": "soon"})
        fails(wrong, 400, "not seconds")
        assert client.post("/predict", files=three[:2]).status_code == 200
        text = client.get("/metrics").text
        assert "headstart_pending_photos 0.0" in text
        assert 'rejected_total{reason="deadline"} 1.0' in text


def test_a_token_is_wanted_where_it_was_set(trained_bundle: Path, photos: list[bytes]) -> None:
    with serve(trained_bundle, token="secret") as client:
        form = {"file": ("a.png", photos[0])}
        fails(client.post("/predict", files=form), 401, "Bearer")
        fails(client.post("/predict", files=form, headers={"Authorization": "Bearer x"}), 401, "B")
        right = {"Authorization": "Bearer secret"}
        assert client.post("/predict", files=form, headers=right).status_code == 200
        assert client.get("/readyz").status_code == client.get("/").status_code == 200
        fails(client.get("/metrics"), 401, "Bearer")


# ---- the exchange of models, names, the end


def test_a_bundle_is_exchanged_while_it_answers(
    trained_bundle: Path, few_digits: Path, tmp_path: Path, photos: list[bytes]
) -> None:
    path = Path(shutil.copy(trained_bundle, tmp_path / "live.headstart"))
    registry = Registry([path], Settings())
    with TestClient(create_app(registry)) as client:
        form = {"file": ("a.png", photos[0])}

        def ask() -> dict[str, float]:
            return client.post("/predict", files=form).json()["results"][0]["probabilities"]

        before = ask()
        good = path.read_bytes()
        path.write_bytes(b"broken")
        assert client.portal is not None
        client.portal.call(registry.reload)
        assert ask() == before
        path.write_bytes(good)
        other = ImageClassifier(seed=5).fit(few_digits)
        other.save(path, force=True)
        client.portal.call(registry.reload)
        after = ask()
        (said,) = other.predictor.predict([photos[0]])
        assert list(after.values()) == pytest.approx(list(said.probabilities))
        assert after != before
        assert client.get("/metrics").text.count("headstart_model{") == 2


def test_names_of_models(trained_bundle: Path, tmp_path: Path) -> None:
    assert name_model(Path("my flowers (2).headstart")) == "my_flowers__2_"
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shutil.copy(trained_bundle, tmp_path / folder / "same.headstart")
    with pytest.raises(HeadstartError, match="Two bundles would be served as 'same'"):
        Registry([tmp_path / f / "same.headstart" for f in ("a", "b")], Settings())


def find_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_the_command_serves_without_tensorflow_and_ends_in_order(
    trained_bundle: Path, tmp_path: Path
) -> None:
    port = find_port()
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('tensorflow', 'keras'):\n"
        "            raise ImportError('blocked: ' + name)\n"
        "sys.meta_path.insert(0, Block())\n"
    )
    command = [sys.executable, "-m", "headstart", "serve", str(trained_bundle), "--port", str(port)]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert f"serving on http://127.0.0.1:{port}" in line
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10) as answer:
            assert json.load(answer) == {"ready": True}
        process.send_signal(signal.SIGTERM)
        start = time.monotonic()
        rest = process.stderr.read()
        process.wait(20)
    assert time.monotonic() - start < 15
    assert "Traceback" not in rest
    # uvicorn raises the signal again once all is done, so that whoever sent it sees it obeyed.
    assert process.returncode in (0, -signal.SIGTERM)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["missing.headstart"], "missing.headstart"),
        (["BUNDLE", "--tls-key", "key.pem"], "TLS needs both"),
        (["BUNDLE", "--tls-key", "key.pem", "--tls-certificate", "c.pem"], "does not exist"),
    ],
)
def test_the_command_refuses_in_a_sentence(
    trained_bundle: Path, options: list[str], says: str
) -> None:
    from typer.testing import CliRunner

    from headstart.cli.commands import app

    given = [str(trained_bundle) if each == "BUNDLE" else each for each in options]
    done = CliRunner().invoke(app, ["serve", *given])
    assert done.exit_code == 1
    assert says in str(done.exception)
