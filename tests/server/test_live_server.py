"""A server of its own process: others' clients, odd files, killed decoders, signals under load."""

from __future__ import annotations

import glob
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

pytest.importorskip("fastapi")

from server.test_serve import find_port

from headstart import ImageClassifier
from headstart.predictor import Predictor

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")


class Live(NamedTuple):
    """A server that answers."""

    process: subprocess.Popen[str]
    port: int

    def post(self, content: bytes, name: str = "a.png") -> tuple[int, Any]:
        """Status and JSON of a file's answer."""
        edge = b"edge"
        head = f'Content-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
        body = b"--" + edge + b"\r\n" + head + content + b"\r\n--" + edge + b"--\r\n"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        kind = {"Content-Type": "multipart/form-data; boundary=edge"}
        connection.request("POST", "/predict", body, kind)
        answer = connection.getresponse()
        try:
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()


def start(bundle: Path, *options: str) -> Live:
    port = find_port()
    command = [sys.executable, "-m", "headstart", "serve", str(bundle), "--port", str(port)]
    process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert "serving on" in process.stderr.readline()
    return Live(process, port)


def end(live: Live) -> None:
    live.process.send_signal(signal.SIGTERM)
    try:
        live.process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        live.process.kill()
        live.process.communicate()


@pytest.fixture(scope="module")
def live(trained_bundle: Path) -> Iterator[Live]:
    found = start(trained_bundle)
    yield found
    end(found)


@pytest.fixture(scope="module")
def photos(digits_folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(digits_folder.glob("*/00[12].png"))]


def test_tritons_own_client_needs_no_change(
    live: Live, trained_bundle: Path, photos: list[bytes]
) -> None:
    triton = pytest.importorskip("tritonclient.http")
    client = triton.InferenceServerClient(f"127.0.0.1:{live.port}")
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    given = triton.InferInput("image_bytes", [len(photos)], "BYTES")
    given.set_data_from_numpy(np.array(photos, object))
    found = client.infer("digits", [given])
    expected = list(Predictor(trained_bundle).predict(photos))
    odds = found.as_numpy("probabilities")
    np.testing.assert_allclose(odds, [said.probabilities for said in expected], rtol=1e-5)
    assert [label.decode() for label in found.as_numpy("label")] == [s.label for s in expected]
    assert found.as_numpy("is_sure").tolist() == [said.is_sure for said in expected]
    ranked = triton.InferRequestedOutput("probabilities", class_count=1)
    best = client.infer("digits", [given], outputs=[ranked]).as_numpy("probabilities")
    assert [row[0].decode().split(":")[2] for row in best] == [said.label for said in expected]
    with pytest.raises(triton.InferenceServerException, match="no model 'other'"):
        client.infer("other", [given])
    client.close()


def test_every_odd_file_is_answered(live: Live, photos_folder: Path) -> None:
    files = [Path(name) for name in glob.glob(f"{photos_folder}/odd-images/**/*", recursive=True)]
    files = [path for path in files if path.is_file() and path.stat().st_size < 2**25]
    assert len(files) > 100
    for path in files:
        status, told = live.post(path.read_bytes())
        assert status == 200, path
        assert told["results"][0]["problem"] or told["results"][0]["label"], path
    assert live.process.poll() is None


def list_children(pid: int) -> list[int]:
    """Processes that a process has started."""
    found = []
    for path in glob.glob("/proc/[0-9]*/stat"):
        try:
            fields = Path(path).read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(Path(path).parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_killed_decoder_loses_no_request(live: Live, photos: list[bytes]) -> None:
    live.post(photos[0])
    for _ in range(3):
        for pid in list_children(live.process.pid):
            os.kill(pid, signal.SIGKILL)
        answers = [live.post(photo) for photo in photos]
        assert [status for status, _ in answers] == [200] * len(photos)
        # The photo that was being decoded may be told to have broken its decoder, no other.
        assert sum(told["results"][0]["problem"] is not None for _, told in answers) <= 2


def test_sigterm_under_load_loses_no_accepted_request(
    trained_bundle: Path, photos: list[bytes]
) -> None:
    found = start(trained_bundle)
    statuses: list[int] = []
    refused = lost = 0

    def ask(number: int) -> None:
        nonlocal refused, lost
        while found.process.poll() is None:
            try:
                status, _ = found.post(photos[number % len(photos)])
            except http.client.RemoteDisconnected:  # taken, and not answered
                lost += 1
                return
            except (ConnectionRefusedError, ConnectionResetError, BrokenPipeError):  # not taken
                refused += 1
                return
            statuses.append(status)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    start_of_load = time.monotonic()
    while len(statuses) <= 10 and time.monotonic() - start_of_load < 30:
        time.sleep(0.1)
    found.process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join(30)
    _, told = found.process.communicate(timeout=30)
    assert found.process.returncode in (0, -signal.SIGTERM)
    assert "Traceback" not in told
    assert len(statuses) > 10
    assert lost == 0
    assert set(statuses) <= {200, 503}


def test_sighup_exchanges_the_model(
    trained_bundle: Path, few_digits: Path, tmp_path: Path, photos: list[bytes]
) -> None:
    path = Path(shutil.copy(trained_bundle, tmp_path / "live.headstart"))
    found = start(path)
    try:
        _, before = found.post(photos[0])
        other = ImageClassifier(seed=5).fit(few_digits)
        other.save(path, force=True)
        found.process.send_signal(signal.SIGHUP)
        (said,) = other.predictor.predict([photos[0]])
        expected = pytest.approx(list(said.probabilities))
        for _ in range(100):
            status, told = found.post(photos[0])
            assert status == 200
            probabilities = list(told["results"][0]["probabilities"].values())
            if probabilities == expected:
                break
            assert told == before
            time.sleep(0.1)
        assert probabilities == expected
    finally:
        end(found)


# ---- the page, where Playwright and a Chromium are


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as found:
        opened = found.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any, live: Live) -> Iterator[Any]:
    found = browser.new_page(viewport={"width": 390, "height": 900}, color_scheme="dark")
    found.errors = []
    found.on("pageerror", lambda error: found.errors.append(str(error)))
    found.outside = []
    found.on(
        "request",
        lambda r: (
            r.url.startswith(("http", "ws"))
            and f":{live.port}/" not in r.url
            and found.outside.append(r.url)
        ),
    )
    found.goto(f"http://127.0.0.1:{live.port}/")
    found.wait_for_selector("#model option", state="attached")
    yield found
    assert found.errors == []
    assert found.outside == []
    found.close()


def test_the_page_answers_files_and_explains(
    page: Any, digits_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "<b>bad.jpg").write_bytes(b"no image")
    files = [digits_folder / "1" / "000.png", tmp_path / "<b>bad.jpg"]
    page.set_input_files("#file", [str(path) for path in files])
    page.wait_for_selector("#results li:nth-child(2)")
    text = page.inner_text("#results")
    assert "<b>bad.jpg" in text
    assert "Cannot be read: not an image of a known format" in text
    assert " %" in text
    page.click("text=why?")
    page.wait_for_selector("#results canvas")
    with page.expect_download() as download:
        page.click("#csv")
    lines = Path(download.value.path()).read_text().splitlines()
    assert lines[0] == "file,label,probability,sure,novel,set,problem"
    assert len(lines) == 3
    width = page.eval_on_selector("body", "body => body.scrollWidth")
    assert width <= 390
    page.click("#clear")
    assert page.inner_text("#results") == ""


def test_the_page_takes_drops_and_keys(page: Any, digits_folder: Path) -> None:
    import base64

    data = base64.b64encode((digits_folder / "2" / "001.png").read_bytes()).decode()
    transfer = page.evaluate_handle(
        """data => {
            const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0));
            const found = new DataTransfer();
            found.items.add(new File([bytes], "dropped.png", {type: "image/png"}));
            return found;
        }""",
        data,
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})
    page.wait_for_selector("#results li")
    assert "dropped.png" in page.inner_text("#results")
    page.focus("#file")
    reached = []
    for _ in range(6):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("() => document.activeElement.textContent"))
    assert "why?" in reached
    page.focus("text=why?")
    page.keyboard.press("Enter")
    page.wait_for_selector("#results canvas")


def test_the_page_shows_similar_photos(browser: Any, digits_folder: Path, tmp_path: Path) -> None:
    classifier = ImageClassifier(keep_thumbnails=True).fit(digits_folder)
    found = start(classifier.save(tmp_path / "kept.headstart"))
    page = browser.new_page(viewport={"width": 390, "height": 900}, color_scheme="dark")
    try:
        page.goto(f"http://127.0.0.1:{found.port}/")
        page.wait_for_selector("#model option", state="attached")
        page.set_input_files("#file", str(digits_folder / "1" / "000.png"))
        page.wait_for_selector("#results .similar li:nth-child(3)")
        images = page.locator(".similar img")
        assert images.count() == 3
        for number in range(3):
            image = images.nth(number)
            assert image.evaluate("image => image.complete && image.naturalWidth > 0")
            assert image.get_attribute("alt") in {f"a training photo of {n}" for n in range(4)}
        assert page.eval_on_selector("body", "body => body.scrollWidth") <= 390
        if folder := os.environ.get("HEADSTART_SCREENSHOTS"):
            page.screenshot(path=f"{folder}/similar.png", full_page=True)
    finally:
        page.close()
        end(found)
