"""Whatever comes: no 500, and nothing left behind of ten thousand bad requests."""

from __future__ import annotations

import base64
import json
import logging
import os
import random
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytest.importorskip("fastapi")

from server.test_live_server import Live, list_children, start

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")

LOGGER = logging.getLogger(__name__)

# The number that docs/serve.md speaks of is 10000; that takes minutes.
REQUESTS = int(os.environ.get("HEADSTART_BAD_REQUESTS", "400"))


@pytest.fixture(scope="module")
def live(trained_bundle: Path) -> Iterator[Live]:
    found = start(trained_bundle, "--max-mb", "1")
    assert found.process.stderr is not None
    # It has a line for whatever is no HTTP, and would wait for ever for room in a full pipe.
    reader = threading.Thread(target=found.process.stderr.read)
    reader.start()
    yield found
    found.process.terminate()
    found.process.wait(30)
    reader.join(30)
    found.process.stderr.close()


@pytest.fixture(scope="module")
def photo(digits_folder: Path) -> bytes:
    return (digits_folder / "1" / "001.png").read_bytes()


def test_schemathesis_finds_no_failure_of_the_server(live: Live, photo: bytes) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, given, seed, settings
    from hypothesis import strategies as st

    modes = schemathesis.GenerationMode
    text = base64.b64encode(photo).decode()
    # Else no request would come as far as the network.
    schemathesis.openapi.format("byte", st.one_of(st.just(text), st.text()))
    schemathesis.openapi.format("binary", st.one_of(st.just(photo), st.binary()))
    names = {"name": "digits", "version": "1", "model": "digits"}
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{live.port}/openapi.json")
    statuses: Counter[tuple[str, int]] = Counter()

    def check(operation: Any) -> None:
        cases = [operation.as_strategy(generation_mode=m) for m in (modes.POSITIVE, modes.NEGATIVE)]
        target = ("1:" if "version" in operation.path else "digits:") + "predict"
        known = {**names, "target": target}

        @seed(9)
        @settings(
            max_examples=20 if operation.method == "post" else 3,
            deadline=None,
            database=None,
            phases=(Phase.generate,),  # the message has the request: nothing to be made smaller
            suppress_health_check=list(HealthCheck),
        )
        @given(case=st.one_of(cases), is_known=st.sampled_from((True, True, True, False)))
        def ask(case: Any, is_known: bool) -> None:
            # Names drawn at random are never that of the model.
            for drawn in (case.path_parameters, case.query) if is_known else ():
                drawn.update({name: known[name] for name in drawn if name in known})
            response = case.call(timeout=30)
            statuses[operation.path, response.status_code] += 1
            assert response.status_code < 500, (response.request.body, response.text)

        ask()

    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 15
    for operation in operations:
        check(operation)
    answered = {path.split("/")[1] for path, status in statuses if status == 200}
    assert {"predict", "v1", "v2"} <= answered, statuses


# ---- nothing is left of bad requests


def send(port: int, *parts: bytes, is_answered: bool = True) -> int:
    """The status of raw bytes; 0 where none was waited for, or the server hung up."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        try:
            for part in parts:
                connection.sendall(part)
            if not is_answered:
                return 0
            line = connection.makefile("rb").readline().split()
        except (ConnectionResetError, BrokenPipeError):  # refused before all was read
            return 0
        return int(line[1]) if len(line) > 1 else 0


def make_request(path: str, body: bytes, *headers: str, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {size}", "Connection: close"]
    return "\r\n".join([*lines, *headers, "", ""]).encode("latin-1") + body


def make_form(*files: bytes) -> bytes:
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
    return b"".join(head + content + b"\r\n" for content in files) + b"--x--\r\n"


FORM = "Content-Type: multipart/form-data; boundary=x"
Maker = Callable[[random.Random, bytes], tuple[bytes, bool]]


def list_makers() -> dict[str, Maker]:
    """Bad requests by kind: their bytes, and whether an answer is waited for."""

    def v1(body: Any, *headers: str) -> bytes:
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        return make_request("/v1/models/digits:predict", text, *headers)

    def v2(given: Any, tail: bytes = b"", *headers: str) -> bytes:
        text = json.dumps({"inputs": [given]}).encode()
        own = (f"Inference-Header-Content-Length: {len(text)}",) if tail else ()
        return make_request("/v2/models/digits/infer", text + tail, *own, *headers)

    def damage(draw: random.Random, photo: bytes) -> bytes:
        place = draw.randrange(20, len(photo))
        return photo[:place] + draw.randbytes(8) + photo[place + 8 :]

    tensor = {"name": "image_bytes", "datatype": "BYTES", "shape": [1]}
    binary = {**tensor, "parameters": {"binary_data_size": 9}}
    long = struct.pack("<I", 99) + b"short"
    return {
        "noise as a photo": lambda d, _: (
            make_request("/predict", make_form(d.randbytes(d.randrange(9999))), FORM),
            True,
        ),
        "a damaged photo": lambda d, p: (
            make_request("/predict", make_form(damage(d, p), p[: d.randrange(len(p))]), FORM),
            True,
        ),
        "no photo to explain": lambda d, _: (
            make_request("/explain", make_form(d.randbytes(99)), FORM),
            True,
        ),
        "too many files": lambda _, p: (make_request("/predict", make_form(*[p] * 33), FORM), True),
        "a broken form": lambda d, p: (make_request("/predict", p + d.randbytes(9), FORM), True),
        "no model": lambda d, p: (
            make_request(f"/predict?model={d.randrange(10**6)}", make_form(p), FORM),
            True,
        ),
        "too late": lambda _, p: (
            make_request("/predict", make_form(p), FORM, "X-Request-Timeout: 0"),
            True,
        ),
        "too large": lambda _, p: (
            make_request("/predict", make_form(bytes(2**20 + 1)), FORM),
            True,
        ),
        "too large, unannounced": lambda _, p: (
            b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
            + FORM.encode()
            + b"\r\n\r\n200000\r\n"
            + make_form(bytes(2**21))[: 2**21],
            True,
        ),
        "no JSON": lambda d, _: (v1(d.randbytes(99)), True),
        "deep JSON": lambda _, __: (v1(b'{"instances":' + b"[" * 50_000), True),
        "no base64": lambda d, _: (v1({"instances": [{"b64": d.randbytes(9).hex() + "?"}]}), True),
        "compressed": lambda d, _: (v1(d.randbytes(99), "Content-Encoding: gzip"), True),
        "a wrong shape": lambda d, _: (v2({**tensor, "shape": [d.randrange(9**40)]}), True),
        "a cut tensor": lambda _, __: (v2(binary, long), True),
        "nowhere": lambda d, _: (make_request(f"/{d.randrange(10**6)}", b"x"), True),
        "no HTTP": lambda d, _: (d.randbytes(99) + b"\r\n\r\n", True),
        "gone before the end": lambda _, p: (
            make_request("/predict", make_form(p)[:-9], FORM, length=9999),
            False,
        ),
        "gone before the answer": lambda _, p: (
            make_request("/predict", make_form(p), FORM),
            False,
        ),
    }


class Held(NamedTuple):
    """What a server holds at a moment."""

    megabytes: float
    descriptors: int
    processes: int


def weigh(pid: int) -> Held:
    """Of a server and its decoding processes; the descriptors are those of the server."""
    children = list_children(pid)
    pages = sum(
        int(Path(f"/proc/{each}/statm").read_text().split()[1]) for each in (pid, *children)
    )
    megabytes = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    return Held(megabytes, len(os.listdir(f"/proc/{pid}/fd")), len(children))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_bad_requests_leave_nothing_behind(live: Live, photo: bytes) -> None:
    makers, draw = list_makers(), random.Random(9)
    statuses: Counter[tuple[str, int]] = Counter()

    def ask(count: int) -> Held:
        for number in range(count):
            name = list(makers)[number % len(makers)]
            content, is_answered = makers[name](draw, photo)
            statuses[name, send(live.port, content, is_answered=is_answered)] += 1
        status, told = live.post(photo)  # what was in the air has ended, and it still answers
        assert status == 200
        assert told["results"][0]["label"] == "1"
        time.sleep(0.5)
        return weigh(live.process.pid)

    # Allocators, caches and the largest batches come first.
    form = make_form(*[photo] * 32)
    assert [send(live.port, make_request("/predict", form, FORM)) for _ in range(8)] == [200] * 8
    before = ask(max(200, REQUESTS // 10))
    after = ask(REQUESTS)
    LOGGER.info("%d bad requests: %s before, %s after; %s", REQUESTS, before, after, statuses)
    assert {status for _, status in statuses} <= {0, 200, 400, 404, 413, 415, 504}, statuses
    assert all(
        statuses[name, 0] == 0 for name in makers if "gone" not in name and "large" not in name
    )
    assert after.descriptors <= before.descriptors + 2
    assert after.processes == before.processes
    assert after.megabytes < before.megabytes + 12
