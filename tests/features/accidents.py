"""Training runs that are started to be interrupted; for test_accidents.py and benchmarks/kills.py.

One process imports everything once and forks the runs, so that a run takes a second, and most of
it is work that can be interrupted. Shards are closed after a few photos.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
from conftest import encode

from headstart.features.cache import ActivationCache, Space
from headstart.features.connection import open_index, shards_folder

# A run takes a second; one that takes so long hangs.
_RUN_SECONDS = 120.0

PHASES = ("start", "scan", "extract", "save")

# Runs in the child. What a run reaches is told as a line: its process, the phases, shards, the end.
_DRIVER = """
import json, os, signal, sys
import onnx, onnxruntime, scipy.linalg, scipy.optimize, threadpoolctl
import headstart.classifier, headstart.cli.commands, headstart.training.fit
import headstart.training.pack
from headstart import bundle
from headstart.cli import main
from headstart.data import scan
from headstart.features import cache, extract

def tell(*words):
    os.write(lines, (" ".join(map(str, words)) + "\\n").encode())

def told(owner, name, phase):
    real = getattr(owner, name)
    def call(*arguments, **options):
        tell(phase)
        return real(*arguments, **options)
    setattr(owner, name, call)

lines = os.dup(1)
os.dup2(2, 1)
cache.SHARD_SECONDS = 0.0
told(scan, "_list_root", "scan")
told(extract._Pass, "forward", "extract")
told(cache, "write_bytes", "shard")
told(bundle, "atomic_write", "save")
exec(sys.argv[1])

def run(request):
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    output = os.open(request["stderr"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1), os.dup2(output, 2)
    os.environ.update(request["environment"])
    sys.argv = ["headstart", *request["arguments"]]
    tell("start", os.getpid())
    try:
        main()
    except SystemExit as leaving:
        return leaving.code or 0
    return 0

tell("ready")
for line in iter(sys.stdin.readline, ""):
    pid = os.fork()
    if not pid:
        status = 9
        try:
            status = run(json.loads(line))
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(status)
    tell("end", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


# Fine-tuning: TensorFlow is imported before the fork, and every step is followed by a checkpoint.
# There is one run with photos held out and one with all photos: a gain that may be chance is taken
# as well, else the bundle would be the probe's.
TUNING = """
import keras, tensorflow
import headstart.training.fine_tune
from headstart.training import checkpoint, loop, network, stage
choose = stage.choose_share
stage.choose_share = lambda *arguments: (0.75, choose(*arguments)[1])
stage.ENOUGH_HELD_OUT = 1
loop.CHECKPOINT_SECONDS = -1.0
told(network.Network, "train_step", "step")
told(checkpoint, "write_bytes", "checkpoint")
"""


@dataclass
class Run:
    """How a run ended.

    Attributes:
        status: Exit code; minus the signal if it was killed.
        stderr: What it said.
        moments: Phase → when it began, in seconds since the start of the run.
        counts: Word → how often it was told: ``shard``, and with `TUNING` ``step`` and
            ``checkpoint``, each when it begins.
    """

    status: int = -1
    stderr: str = ""
    moments: dict[str, float] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Stop:
    """When a run is sent a signal: some seconds after a word was told for the n-th time."""

    phase: str
    seconds: float = 0.0
    count: int = 1
    signal: int = signal.SIGTERM if os.name == "nt" else signal.SIGKILL


class Trainer:
    """Starts ``headstart train`` on one folder of photos again and again.

    Args:
        photos: The folder.
        scratch: A folder for what the runs say.
        options: More arguments of ``headstart train``.
        prepare: Code that the process runs before the first run, such as `TUNING`.
    """

    def __init__(
        self, photos: Path, scratch: Path, options: Sequence[str] = (), prepare: str = ""
    ) -> None:
        self._photos, self._options, self._stderr = photos, options, scratch / "stderr.txt"
        self._process = subprocess.Popen(
            [sys.executable, "-c", _DRIVER, prepare], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout
        assert self._process.stdout.readline() == b"ready\n"  # imports are no part of a run

    def run(self, cache: Path, bundle: Path, stop: Stop | None = None, seed: int = 0) -> Run:
        """Train, or be stopped; returns when the process has ended."""
        assert self._process.stdin
        assert self._process.stdout
        # Not the recipe auto: what it does depends on the time that it takes.
        recipe = "tune" if "--unfreeze" in self._options else "probe"
        arguments = ["train", str(self._photos), "-o", str(bundle), "--force", "--recipe", recipe]
        arguments += ["--seed", str(seed)]
        request = {
            "arguments": [*arguments, *self._options],
            "environment": {"HEADSTART_CACHE": str(cache)},
            "stderr": str(self._stderr),
        }
        guard = threading.Timer(_RUN_SECONDS, self._process.kill)
        guard.start()
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        run, start, pid, left = Run(), time.perf_counter(), 0, stop.count if stop else 0
        for line in iter(self._process.stdout.readline, b""):
            word, *rest = line.decode().split()
            run.moments.setdefault(word, time.perf_counter() - start)
            run.counts[word] += 1
            if word == "start":
                pid = int(rest[0])
            if word == "end":
                run.status = int(rest[0])
                break
            if stop and word == stop.phase:
                left -= 1
                if not left:
                    time.sleep(stop.seconds)
                    _send(pid, stop.signal)
        guard.cancel()
        run.stderr = self._stderr.read_text()
        return run

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended in time
        if number == signal.SIGINT:
            os.killpg(pid, number)  # Ctrl-C reaches the decoding processes as well
        else:
            os.kill(pid, number)


def choose_stop(whole: Run, chance: random.Random) -> Stop:
    """A random moment of a random phase of a run such as ``whole``, or about a random shard."""
    phase = chance.choice([*PHASES, "shard"])
    if phase == "shard":  # writing one and entering it takes some milliseconds
        return Stop(phase, chance.uniform(0, 0.02), chance.randint(1, whole.counts["shard"]))
    ends = [*PHASES[1:], "end"]
    length = whole.moments[ends[PHASES.index(phase)]] - whole.moments[phase]
    return Stop(phase, chance.uniform(0, length))


def new_cache(folder: Path, weights: Path) -> Path:
    """A cache without activations, with a link to weights that are converted already."""
    folder.mkdir()
    (folder / "weights").symlink_to(weights, target_is_directory=True)
    return folder


def read_features(cache: Path, photos: Path) -> npt.NDArray[np.float16]:
    """The activations of all photos of a cache of one network, sorted by their digests."""
    index = open_index(shards_folder(cache))
    found = index.execute("SELECT description FROM spaces").fetchall()
    others = "near duplicates", "photo quality", "solved heads"
    [description] = [text for (text,) in found if not any(name in text for name in others)]
    index.close()
    record = json.loads(description)
    activations = ActivationCache(Space(**{**record, "shape": tuple(record["shape"])}), cache)
    digests = {hashlib.sha256(path.read_bytes()).hexdigest() for path in photos.glob("*/*")}
    found = activations.read(sorted(digests))
    activations.close()
    return found


def write_gratings(folder: Path, photos: int, seed: int = 0) -> Path:
    """Noisy stripes in three directions, a class each: not easy, and no two are near duplicates."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64]
    for name in range(3):
        (folder / str(name)).mkdir(parents=True)
        across = x * np.cos(np.pi * name / 3) + y * np.sin(np.pi * name / 3)
        for number in range(photos):
            wave = rng.uniform(20, 40) * np.sin(0.8 * across + rng.uniform(0, 2 * np.pi))
            pixels = 128 + wave[..., None] + rng.normal(0, 100, (64, 64, 3))
            path = folder / str(name) / f"{number:03d}.png"
            path.write_bytes(encode(pixels.clip(0, 255)))
    return folder


def link_weights(cache: Path, scratch: Path) -> Path:
    """The folder of converted weights, shared by all caches of a test."""
    weights = scratch / "weights"
    if (cache / "weights").is_dir():
        shutil.copytree(cache / "weights", weights, copy_function=os.link)
    weights.mkdir(exist_ok=True)
    return weights
