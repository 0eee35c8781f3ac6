"""How much of the machine does the server turn into answers, and what does it do when overrun?

    HEADSTART_TEST_PHOTOS=... python benchmarks/serving.py [--seconds 20]

The load generator is ApacheBench (``ab``, Debian: apache2-utils) on loopback; its own processor
time is stated, since it shares the cores. Every request is a form with the same photo of clothing.
Beside the server: prediction in this process on the same photo (decoding and runtime, without
HTTP); a plain FastAPI handler that decodes and computes with the same bundle, as tutorials have
it; and LitServe (``pip install litserve``, best in an environment of its own: ``--peer-python``)
with as many workers as cores and batches of eight. Latencies are measured with fewer connections.
At twice the connections that the queue takes, only 200 and 429 may be answered, memory may not
grow, and afterwards a request must be answered within two seconds.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import photos as photo_sets
from measure import make_parser, save_rows

import headstart
from headstart.predictor import Predictor

PLAIN = """
import io, sys
import numpy as np
import uvicorn
from fastapi import FastAPI, UploadFile
from headstart.bundle import GRAPH, load_bundle
from headstart.data.decode import decode_photo
from headstart.runtimes.onnx_runtime import open_outputs
bundle = load_bundle(__import__("pathlib").Path(sys.argv[1]))
run = open_outputs(bundle.members[GRAPH], ("probabilities",))
app = FastAPI()
@app.post("/predict")
def predict(file: UploadFile):
    row = run(decode_photo(file.file.read(), bundle.image_size)[None])[0][0]
    return {"label": bundle.class_names[row.argmax()], "probability": float(row.max())}
@app.get("/readyz")
def ready():
    return {}
uvicorn.run(app, port=int(sys.argv[2]), log_level="warning")
"""

LITSERVE = """
import os, sys
import litserve
from headstart.bundle import GRAPH, load_bundle
from headstart.data.decode import decode_photo
from headstart.runtimes.onnx_runtime import open_outputs
class Classifier(litserve.LitAPI):
    def setup(self, device):
        self.bundle = load_bundle(__import__("pathlib").Path(sys.argv[1]))
        self.run = open_outputs(self.bundle.members[GRAPH], ("probabilities",))
    def decode_request(self, request):
        return decode_photo(request["file"].file.read(), self.bundle.image_size)
    def predict(self, pixels):
        return self.run(pixels)[0]
    def encode_response(self, row):
        return {
            "label": self.bundle.class_names[row.argmax()],
            "probability": float(row.max()),
        }
if __name__ == "__main__":
    api = Classifier(max_batch_size=8, batch_timeout=0.005, api_path="/predict")
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=os.cpu_count(), healthcheck_path="/readyz"
    )
    server.run(port=int(sys.argv[2]), generate_client_file=False, log_level="warning")
"""

PEERS = {"a plain FastAPI handler": PLAIN, "LitServe": LITSERVE}


class Server:
    """A process that answers on a port."""

    def __init__(self, command: list[str], port: int) -> None:
        self.port = port
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
        for _ in range(300):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2).read()
                return
            except OSError:
                time.sleep(0.2)
        raise SystemExit("the server does not start")

    def measure_megabytes(self) -> float:
        """Resident memory of it and its children."""
        total = 0
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
                if self.process.pid in (parent, int(folder.name)):
                    total += int((folder / "statm").read_text().split()[1])
            except OSError:
                continue
        return total * os.sysconf("SC_PAGE_SIZE") / 1e6

    def stop(self) -> None:
        """End it, and what it leaves running: LitServe's workers outlive a signal."""
        self.process.terminate()
        self.process.wait(60)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


def load(server: Server, body: Path, connections: int, seconds: float) -> dict[str, float]:
    """What ``ab`` measures, and the share of a core that it takes itself."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [
            "ab",
            "-q",
            "-t",
            str(int(seconds)),
            "-n",
            "1000000",
            "-c",
            str(connections),
            "-k",
            "-s",
            "60",
            "-p",
            str(body),
            "-T",
            "multipart/form-data; boundary=edge",
            f"http://127.0.0.1:{server.port}/predict",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    text = done.stdout

    def find(pattern: str) -> float:
        match = re.search(pattern, text)
        return float(match.group(1)) if match else 0.0

    return {
        "answered": find(r"Complete requests:\s+(\d+)"),
        "not 2xx": find(r"Non-2xx responses:\s+(\d+)"),
        "per second": find(r"Requests per second:\s+([\d.]+)"),
        "p50": find(r"\b50%\s+(\d+)"),
        "p95": find(r"\b95%\s+(\d+)"),
        "p99": find(r"\b99%\s+(\d+)"),
        "generator": used / wall,
    }


def list_statuses(server: Server) -> str:
    """Of all answers that it has given to photos."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=10).read()
    found = re.findall(r'headstart_requests_total\{route="/predict",status="(\d+)"', text.decode())
    return " ".join(sorted(set(found)))


def measure_in_process(bundle: Path, photo: bytes, count: int) -> float:
    """Photos per second without HTTP."""
    predictor = Predictor(bundle)
    list(predictor.predict([photo] * 32))
    start = time.perf_counter()
    list(predictor.predict([photo] * count))
    return count / (time.perf_counter() - start)


def overrun(server: Server, body: Path, seconds: float) -> dict[str, Any]:
    """A row: what becomes of it at twice the connections that its queue takes."""
    load(server, body, 128, 5)  # buffers of so many connections
    size = server.measure_megabytes()
    found = load(server, body, 128, seconds)
    grown = server.measure_megabytes() - size
    start = time.perf_counter()
    urllib.request.urlopen(f"http://127.0.0.1:{server.port}/readyz", timeout=10).read()
    after = load(server, body, 1, 2)
    return {
        "row": f"headstart serve, twice its queue for {seconds:g} s",
        "connections": 128,
        **found,
        "MB grown": grown,
        "recovered after s": time.perf_counter() - start if not after["answered"] else 0.0,
        "alive": server.process.poll() is None,
        "statuses": list_statuses(server),
    }


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0], has_repeats=False)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--overrun-seconds", type=float, default=60)
    parser.add_argument(
        "--peer-python", default=sys.executable, help="An interpreter that has litserve."
    )
    options = parser.parse_args()
    root = photo_sets.data_root() / "clothing"
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "clothing.headstart"
        headstart.ImageClassifier().fit(root / "train", test=root / "test").save(bundle)
        photo = sorted((root / "test").glob("*/*.jpg"))[0].read_bytes()
        body = Path(folder) / "body"
        head = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
        body.write_bytes(head + photo + b"\r\n--edge--\r\n")
        before = measure_in_process(bundle, photo, 1000)
        ours = [sys.executable, "-m", "headstart", "serve", str(bundle), "--port", "8931"]
        server = Server(ours, 8931)
        load(server, body, 8, 3)
        full = load(server, body, 16, options.seconds)
        # On both sides of it: the machine is faster at some times than at others.
        alone = (before + measure_in_process(bundle, photo, 1000)) / 2
        rows.append({"row": "in this process, without HTTP", "per second": alone})
        rows.append({"row": "headstart serve, saturated", "connections": 16, **full})
        rows[-1]["of in process"] = full["per second"] / alone
        for connections in (1, 2, 4):
            found = load(server, body, connections, options.seconds)
            share = found["per second"] / full["per second"]
            rows.append(
                {
                    "row": f"headstart serve, {share:.0%} of that",
                    "connections": connections,
                    **found,
                }
            )
        rows.append(overrun(server, body, options.overrun_seconds))
        server.stop()
        for name, script in PEERS.items():
            needs = "import headstart, litserve" if name == "LitServe" else "import fastapi"
            if subprocess.run([options.peer_python, "-c", needs], check=False).returncode:
                print(f"{name} is left out: {options.peer_python} cannot {needs}")
                continue
            path = Path(folder) / "peer.py"
            path.write_text(script)
            server = Server([options.peer_python, str(path), str(bundle), "8932"], 8932)
            load(server, body, 8, 3)
            found = load(server, body, 16, options.seconds)
            server.stop()
            if found["not 2xx"] or not found["answered"]:
                raise SystemExit(f"{name} does not answer as it should: {found}")
            rows.append({"row": f"{name}, saturated", "connections": 16, **found})
            rows[-1]["of in process"] = found["per second"] / alone
    columns = list(dict.fromkeys(key for row in rows for key in row))
    save_rows("serving", [{key: row.get(key, "") for key in columns} for row in rows], options)


if __name__ == "__main__":
    main()
