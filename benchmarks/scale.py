"""Beyond one machine: a Ray cluster of two nodes on this one, beside one process on the same cores.

Usage: python benchmarks/scale.py [--parts same kills memory tuning]

The cluster is a real one: two raylets with half of the cores each, of which one can be killed. They
listen on 127.0.0.1 only. What is compared are commands and calls as users make them, each in a
process of its own with a cache of its own; photos are generated (`memory.write_photos`), with some
that are corrupt; the accuracy is of ants-bees, if HEADSTART_TEST_PHOTOS has it.

same: features bit for bit, problems, accuracy; photos per second once warm, and the start.
kills: a node killed with -9 in the middle of a run; the command killed in the middle and run again.
memory: of the command, for 2,000 and for 50,000 small photos, without what it shares with others
    (Ray's object store, whose size is set); with a network of one layer that gives as many features
    as the default one, because neither memory nor processor time of the command depend on it.
tuning: the loss of every step of fine-tuning beside that of one process on the same batches, with a
    node killed in the middle, too; seconds of an epoch, and what is sent for a step. Where half of
    the network is trained rounding grows from step to step, as much in one process on one core that
    adds up the gradients of two halves of each batch: beside that one there. Of clothing, if
    HEADSTART_TEST_PHOTOS has it.

Each part replaces its rows of results/scale.csv.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from measure import (
    RESULTS,
    describe_context,
    print_table,
    run_headstart,
    run_python,
    write_csv,
)
from memory import CLASSES, write_photos

PHOTOS, FEW, MANY = 3_000, 2_000, 50_000
TUNED, EPOCHS = 512, 3
WARM, SAME_LOSS = 0.9, 1e-3
# MB that 48,000 more photos may take besides their names and digests.
MORE = 16.0


# ---- what runs in processes of its own


def extract(folder: Path, out: Path, engine: str, address: str | None) -> None:
    """One extraction; prints what it took as JSON, and marks of progress on stderr."""
    from headstart.engines import use_engine
    from headstart.features.extract import extract_features

    start, marks = time.perf_counter(), [(0.0, 0)]

    def report(done: int, total: int) -> None:
        marks.append((time.perf_counter() - start, done))
        print(done, file=sys.stderr, flush=True)

    with use_engine(engine, address=address):
        found = extract_features(
            "efficientnet-lite0", folder, runtime="onnxruntime", progress=report
        )
    np.save(out, found.array)
    # From the first tenth on all is warm; the end is not yet reached at nine tenths.
    total = len(found.samples) - found.forwarded
    warm = [mark for mark in marks if 0.1 <= (mark[1] - total) / max(found.forwarded, 1) <= 0.9]
    (begin, first), (end, last) = (warm[0], warm[-1]) if len(warm) > 1 else (marks[0], marks[-1])
    record = {
        "photos": len(found.samples),
        "forwarded": found.forwarded,
        "problems": sorted(f"{p.path.name}: {p.reason}" for p in found.problems),
        "first": next((seconds for seconds, done in marks if done > marks[1][1]), 0.0),
        "per_second": (last - first) / max(end - begin, 1e-9),
        "seconds": time.perf_counter() - start,
    }
    print(json.dumps(record))


def tune(folder: Path, unfreeze: str, engine: str, address: str | None) -> None:
    """Fine-tuning of all photos; prints losses and seconds as JSON, and steps on stderr."""
    import headstart
    from headstart.engines import use_engine
    from headstart.engines.local import LocalEngine
    from headstart.training.network import Network

    class Halves(LocalEngine):
        """Two nodes, one after the other on one core of this process."""

        is_remote, nodes, work = True, 2, None

        def map(self, open_work: Any, items: Any, *, by_node: bool = False, **named: Any) -> Any:
            if not by_node:
                yield from super().map(open_work, items, **named)
                return
            self.work = self.work or contextlib.ExitStack().enter_context(open_work(1))
            yield from self.work(items)

    losses, train_step, sizes = [], Network.train_step, {}

    def watch(self: Network, activations: Any, *arguments: Any) -> tuple[float, float]:
        sizes["weights"] = sum(variable.value.numpy().nbytes for variable in self.variables)
        sizes["photos"] = 2 * activations.nbytes  # with those that they are mixed with
        found = train_step(self, activations, *arguments)
        losses.append(found[0])
        print(len(losses), file=sys.stderr, flush=True)
        return found

    Network.train_step = watch  # type: ignore[method-assign]
    if engine == "halves":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(1)
    with use_engine(Halves() if engine == "halves" else engine, address=address):
        found = headstart.fine_tune(
            "efficientnet-lite0",
            folder,
            unfreeze=unfreeze,
            epochs=EPOCHS,
            learning_rate=2e-4,
            holdout=0.0,
            views=2,
        )
    assert not found.tuning.why_here, found.tuning.why_here
    seconds = [epoch["seconds"] for epoch in found.tuning.history]
    record = {"losses": losses, "seconds": seconds, **{k: v / 1e6 for k, v in sizes.items()}}
    print(json.dumps(record))


def measure_memory(folder: Path, address: str) -> None:
    """A pass of a network of one layer on the cluster; prints the peak of this process in MB."""
    from headstart.data.scan import scan_folder
    from headstart.engines import use_engine
    from headstart.features.extract import open_features
    from headstart.models.boundary import Prefix

    watch: list[float] = []

    def look() -> None:
        while True:
            watch.append(measure_private())
            time.sleep(0.05)

    threading.Thread(target=look, daemon=True).start()
    before = measure_private()
    manifest = scan_folder(folder)
    names = measure_private() - before
    start = time.process_time()
    prefix = Prefix("one layer", "0" * 64, "pooled", 32, (1280,), write_layer, None, None)  # type: ignore[arg-type]
    with (
        use_engine("ray", address=address),
        open_features(prefix, manifest, runtime="onnxruntime") as found,
    ):
        used = time.process_time() - start  # of all threads
        record = {"photos": len(found.samples), "forwarded": found.forwarded, "cpu": used}
    print(json.dumps({**record, "MB": max(watch), "names": names}))


def measure_private() -> float:
    """Memory of this process in MB, without what it shares with others (Ray's object store)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 2**10


def write_small(folder: Path, count: int) -> Path:
    """Photos of 32 pixels, all different."""
    from PIL import Image

    for name in CLASSES:
        (folder / name).mkdir(parents=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(folder / CLASSES[number % 2] / f"{number:06d}.png")
    return folder


def write_layer() -> bytes:
    """ONNX: photos of 32 pixels → as many features as the default network has."""
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(0).normal(size=(1280, 3, 8, 8)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["photos"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["x"], ["y"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["y", "w"], ["z"], strides=[8, 8]),
        helper.make_node("GlobalAveragePool", ["z"], ["p"]),
        helper.make_node("Flatten", ["p"], ["features"]),
    ]
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("photos", TensorProto.UINT8, ["batch", 32, 32, 3])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 1280])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


# ---- the cluster


@contextlib.contextmanager
def start_cluster() -> Iterator[Any]:
    """Two nodes with half of the cores each."""
    private = {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    os.environ.update(private)
    from ray.cluster_utils import Cluster

    half = {"num_cpus": max(1, (os.cpu_count() or 2) // 2), "object_store_memory": 2**28}
    cluster = Cluster(initialize_head=True, head_node_args={**half, "include_dashboard": False})
    cluster.half = half
    cluster.add_node(**half)
    try:
        yield cluster
    finally:
        cluster.shutdown()


def kill_node(cluster: Any) -> None:
    """All processes of the node that is not the head, with -9."""
    [node] = cluster.worker_nodes
    cluster.remove_node(node, allow_graceful=False)


def run_extract(folder: Path, scratch: Path, name: str, address: str | None) -> dict[str, Any]:
    """`extract` in a process, with a cache of that name."""
    out = scratch / f"{name}.npy"
    engine = "ray" if address else "local"
    child = run_python(
        *(__file__, "--extract", folder, out, engine, address or ""), cache=scratch / name
    )
    return {**child.json, "array": np.load(out)}


def run_until(
    folder: Path, scratch: Path, name: str, address: str, at: int, act: Callable[[Any], None]
) -> dict[str, Any] | None:
    """The same; ``act`` is given the process once so many photos are done."""
    out = scratch / f"{name}.npy"
    told = watch(("--extract", folder, out, "ray", address), scratch / name, at, act)
    return None if told is None else {**told, "array": np.load(out)}


def watch(
    arguments: tuple[Any, ...], cache: Path, at: int, act: Callable[[Any], None]
) -> dict[str, Any] | None:
    """What this script tells with these arguments; None where ``act`` killed it."""
    command = [sys.executable, __file__, *map(str, arguments)]
    environment = {**os.environ, "HEADSTART_CACHE": str(cache)}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stderr is not None
    said, is_done = [], False
    for line in process.stderr:
        said.append(line)
        if not is_done and line.strip().isdigit() and int(line) >= at:
            is_done = True
            act(process)
    told = process.stdout.read() if process.stdout else ""
    if process.wait() == -signal.SIGKILL:
        return None
    assert process.returncode == 0, "".join(said)[-3000:]
    record: dict[str, Any] = json.loads(told.splitlines()[-1])
    return record


# ---- parts


def make_photos(folder: Path, count: int) -> Path:
    """Generated photos, of which three are corrupt."""
    write_photos(folder, count)
    whole = (folder / "dusk" / "000000.jpg").read_bytes()
    (folder / "dusk" / "cut.jpg").write_bytes(whole[:600])
    (folder / "noon" / "text.jpg").write_bytes(b"no photo")
    (folder / "noon" / "empty.jpg").write_bytes(b"")
    return folder


def row(what: str, ours: Any, beside: Any, target: str, reached: bool) -> dict[str, Any]:
    return {"what": what, "ray": ours, "beside": beside, "target": target, "reached": reached}


def check_same(cluster: Any, scratch: Path) -> list[dict[str, Any]]:
    folder = make_photos(scratch / "photos", PHOTOS)
    near = run_extract(folder, scratch, "near", None)
    far = run_extract(folder, scratch, "far", cluster.address)
    again = run_extract(folder, scratch, "far", None)
    is_same = np.array_equal(near["array"], far["array"])
    share = far["per_second"] / near["per_second"]
    start = far["first"]
    rows = [
        row("photos", far["photos"], near["photos"], "the same", far["photos"] == near["photos"]),
        row("features, bit for bit", is_same, True, "the same", is_same),
        row(
            *("problems, of three corrupt photos", len(far["problems"]), len(near["problems"])),
            *("the same", far["problems"] == near["problems"]),
        ),
        row(
            *("computed again by local in the cache of ray", again["forwarded"], 0, "0"),
            again["forwarded"] == 0,
        ),
        row(
            "photos/s, warm", far["per_second"], near["per_second"], f"{WARM} times", share >= WARM
        ),
        row("seconds to the first photos", start, near["first"], "stated", True),
    ]
    photos = Path(os.environ.get("HEADSTART_TEST_PHOTOS", "nowhere")) / "ants-bees" / "train"
    if photos.is_dir():
        found = [
            train(photos, scratch, name, address)
            for name, address in (("trained-near", None), ("trained-far", cluster.address))
        ]
        ours, beside = (record["evaluation"]["accuracy"]["value"] for record in found[::-1])
        is_same = found[0]["evaluation"] == found[1]["evaluation"]
        rows.append(row("accuracy, ants-bees", ours, beside, "the same", is_same))
    return rows


def train(photos: Path, scratch: Path, name: str, address: str | None) -> dict[str, Any]:
    options = ["--engine", "ray", "--ray-address", address] if address else []
    command = ["train", photos, "--recipe", "probe", "--runtime", "onnxruntime", "--json"]
    bundle = scratch / f"{name}.headstart"
    return run_headstart(*command, "-o", bundle, *options, cache=scratch / name).json


def check_kills(cluster: Any, scratch: Path) -> list[dict[str, Any]]:
    folder = make_photos(scratch / "photos", PHOTOS)
    whole = run_extract(folder, scratch, "whole", cluster.address)
    lost = run_until(
        *(folder, scratch, "lost", cluster.address, PHOTOS // 4), lambda _: kill_node(cluster)
    )
    assert lost is not None
    cluster.add_node(**cluster.half)
    run_until(
        *(folder, scratch, "stopped", cluster.address, 2 * PHOTOS // 3),
        lambda process: process.send_signal(signal.SIGKILL),
    )
    resumed = run_extract(folder, scratch, "stopped", cluster.address)
    kept = whole["forwarded"] - resumed["forwarded"]
    rows = []
    for what, found in (("a node killed", lost), ("the command killed, run again", resumed)):
        is_same = np.array_equal(found["array"], whole["array"])
        is_same = is_same and found["problems"] == whole["problems"]
        rows.append(
            row(f"{what}: photos", found["photos"], whole["photos"], "the same", is_same),
        )
    rows.append(
        row("a node killed: computed", lost["forwarded"], whole["forwarded"], "none twice",
            lost["forwarded"] == whole["forwarded"]),
    )  # fmt: skip
    rows.append(row("a node killed: seconds", lost["seconds"], whole["seconds"], "stated", True))
    rows.append(
        row("the command killed: not computed again", kept, whole["forwarded"], "some", kept > 0)
    )
    return rows


def check_memory(cluster: Any, scratch: Path) -> list[dict[str, Any]]:
    found = []
    for count in (FEW, MANY):
        folder = write_small(scratch / str(count), count)
        child = run_python(
            *(__file__, "--memory", folder, cluster.address), cache=scratch / f"cache-{count}"
        )
        assert child.json["forwarded"] == count, child.json
        index = (scratch / f"cache-{count}").rglob("index.sqlite")
        found.append({**child.json, "index": sum(path.stat().st_size for path in index)})
    few, many = found
    beside = f"{MANY:,} photos"
    # The start is in both.
    each = 1000 * (many["cpu"] - few["cpu"]) / (MANY - FEW)
    per_photo = {
        name: (many[name] - few[name]) / (MANY - FEW) / unit
        for name, unit in (("names", 1e-3), ("index", 1e3))
    }
    rest, least = many["MB"] - many["names"], few["MB"] - few["names"]
    return [
        row(f"MB of the command, {beside}", many["MB"], few["MB"], "stated", True),
        row(f"of it names and digests, {beside}", many["names"], few["names"], "stated", True),
        row(f"all else, {beside}", rest, least, f"{MORE:.0f} MB more", rest - least <= MORE),
        row("kB of names and digests per photo", per_photo["names"], None, "stated", True),
        row("kB of the index on disk per photo", per_photo["index"], None, "stated", True),
        row("CPU ms of the command per photo", each, None, "stated", True),
    ]


def check_tuning(cluster: Any, scratch: Path) -> list[dict[str, Any]]:
    folder, cache, rows = choose_photos(scratch / "photos"), scratch / "cache", []

    def run(part: str, engine: str) -> dict[str, Any]:
        address = cluster.address if engine == "ray" else ""
        child = run_python(__file__, "--tune", folder, part, engine, address, cache=cache)
        return dict(child.json)

    def compare(found: dict[str, Any], near: dict[str, Any]) -> float:
        return float(np.abs(np.array(found["losses"]) / np.array(near["losses"]) - 1).max())

    for part in ("half", "last_block"):
        name = f"fine-tuning, {part.replace('_', ' ')}"
        near, halves, far = (run(part, engine) for engine in ("local", "halves", "ray"))
        ours, theirs = compare(far, near), compare(halves, near)
        target = f"{SAME_LOSS:g}, or as in halves"
        is_same = ours <= max(SAME_LOSS, 2 * theirs)
        rows.append(row(f"{name}: loss of a step, relative", ours, theirs, target, is_same))
        most = compare(far, halves)
        what = f"{name}: the same, beside halves"
        rows.append(row(what, most, 0.0, f"{SAME_LOSS:g}", most <= SAME_LOSS))
        # TensorFlow starts on the nodes in the first epoch.
        for what, of in (("of an epoch", np.median), ("of the first", None)):
            seconds = [of(f["seconds"][1:]) if of else f["seconds"][0] for f in (far, near)]
            rows.append(row(f"{name}: seconds {what}", *map(float, seconds), "stated", True))
        sent = 2 * far["weights"] + far["photos"] / 2
        rows.append(row(f"{name}: MB to and from a node for a step", sent, None, "stated", True))
    arguments = ("--tune", folder, "last_block", "ray", cluster.address)
    lost = watch(arguments, cache, len(near["losses"]) // 2, lambda _: kill_node(cluster))
    assert lost is not None
    most = compare(lost, near)
    what = "fine-tuning, a node killed: loss of a step, relative"
    return [*rows, row(what, most, 0.0, f"{SAME_LOSS:g}", most <= SAME_LOSS)]


def choose_photos(folder: Path) -> Path:
    """So many of clothing, of all classes; else generated ones."""
    found = Path(os.environ.get("HEADSTART_TEST_PHOTOS", "nowhere")) / "clothing" / "train"
    photos = sorted(found.glob("*/*"))
    if not photos:
        write_photos(folder, TUNED)
    for photo in photos[:: max(1, len(photos) // TUNED)][:TUNED]:
        (folder / photo.parent.name).mkdir(parents=True, exist_ok=True)
        (folder / photo.parent.name / photo.name).symlink_to(photo)
    return folder


PARTS = {"same": check_same, "kills": check_kills, "memory": check_memory, "tuning": check_tuning}


def save(part: str, rows: list[dict[str, Any]]) -> None:
    """The rows of a part, in the place of those of an earlier run."""
    print_table(rows)
    path, kept = RESULTS / "scale.csv", []
    if path.exists():
        with path.open(encoding="utf-8", newline="") as file:
            kept = [row for row in csv.DictReader(file) if row["part"] != part]
    context = describe_context()
    new = [{**context, "part": part, **row, "limit": ""} for row in rows]
    write_csv(path, [*kept, *new])


def main() -> None:
    if sys.argv[1:2] == ["--extract"]:
        folder, out, engine, address = sys.argv[2:]
        extract(Path(folder), Path(out), engine, address or None)
        return
    if sys.argv[1:2] == ["--tune"]:
        folder, unfreeze, engine, address = sys.argv[2:]
        tune(Path(folder), unfreeze, engine, address or None)
        return
    if sys.argv[1:2] == ["--memory"]:
        measure_memory(Path(sys.argv[2]), sys.argv[3])
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS])
    options = parser.parse_args()
    for part in options.parts:
        with tempfile.TemporaryDirectory() as name, start_cluster() as cluster:
            save(part, PARTS[part](cluster, Path(name)))


if __name__ == "__main__":
    main()
