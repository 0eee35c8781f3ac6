"""The main job against its peers: train, second run, extraction, probe, cold start.

Every timing is a fresh process with a fresh cache folder in a temporary place; ours and the peers
take turns, so that a slow minute of the machine hits both. A row's figures are medians over the
turns in which both ran; its ratio is the median of the ratios within a turn, and is always "times
better": peer / ours for seconds and memory, ours / peer for photos per second.

    HEADSTART_TEST_PHOTOS=... python benchmarks/first_light.py [--limit 5]
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from measure import HERE, Child, make_parser, run_headstart, run_python, save_rows
from photos import DATASETS, dataset_folder, list_photos

from headstart.evaluation.intervals import compare_hits, estimate_share, wilson

SCRIPT = "the usual Keras script"
SKLEARN = "keras predict + scikit-learn"
PROBE_TARGETS = {"clothing": 0.85, "ants-bees": 0.93}


@dataclass
class Figure:
    """One row of the CSV; see benchmarks/README.md."""

    row: str
    dataset: str
    ours: float
    unit: str
    peer_name: str = ""
    peer: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    target: str = ""
    reached: bool | None = None
    repeats: int = 1

    def aim(self, target: str, reached: bool, *, applies: bool = True) -> Figure:
        """Set the target, where there is one for this dataset; returns self."""
        if applies:
            self.target, self.reached = target, bool(reached)
        return self


def compare(
    row: str,
    dataset: str,
    ours: Sequence[float],
    peer_name: str,
    peers: Sequence[float],
    *,
    unit: str = "s",
) -> Figure:
    """A figure of paired measurements; turns in which the peer did not run are left out."""
    pairs = list(zip(ours, peers, strict=False))
    ratios = [our / peer if unit == "photos/s" else peer / our for our, peer in pairs]
    our_median, peer_median = (median(column) for column in zip(*pairs, strict=True))
    ratio = median(ratios)
    return Figure(row, dataset, our_median, unit, peer_name, peer_median, ratio, repeats=len(pairs))


# ---- train and second run


def measure_training(name: str, folder: Path, scratch: Path, options: Any) -> list[Figure]:
    """`headstart train`, again from its cache, and the peers; then what became of the accuracy."""
    runs: dict[str, list[Any]] = defaultdict(list)
    for turn in range(options.repeats):
        place = scratch / f"{name}-{turn}"
        place.mkdir()
        ours, bundle = place / "cache", place / "a.headstart"
        train = ("train", folder, "--recipe", "probe", "--json", "-o")
        runs["train"].append(run_headstart(*train, bundle, cache=ours))
        if turn < options.script_repeats:
            for peer in ("keras_script", "predict_then_sklearn"):
                script, answers = HERE / "peers" / f"{peer}.py", place / f"{peer}.npz"
                cache = place / f"cache-{peer}"
                runs[peer].append(run_python(script, folder, answers, cache=cache))
        runs["again"].append(run_headstart(*train, place / "b.headstart", cache=ours))
        runs["limit"].append(_measure_limit(folder, ours))
    first = scratch / f"{name}-0"
    cache = first / "cache"
    traced = (HERE / "inside.py", "traced", *train, first / "c.headstart")
    imported = run_python(*traced, cache=cache).json
    return [
        *_training_figures(name, runs),
        *_second_run_figures(name, runs, imported),
        *_memory_figures(name, runs),
        *_compare_accuracy(name, folder, first, runs),
        *_probe_figures(name, folder, first),
    ]


def _measure_limit(folder: Path, cache: Path) -> float:
    """One pass of the runtime over all photos in memory, and the imports."""
    one_pass = run_python(HERE / "inside.py", "limit", folder, cache=cache)
    imports = run_python(HERE / "inside.py", "imports", cache=cache)
    return float(one_pass.json["seconds"]) + imports.seconds


def _training_figures(name: str, runs: dict[str, list[Any]]) -> list[Figure]:
    ours, is_named = _seconds(runs["train"]), name == "clothing"
    script = compare("train", name, ours, SCRIPT, _seconds(runs["keras_script"]))
    limit = compare("train", name, ours, "limit: one pass + imports", runs["limit"])
    reached = (script.ratio or 0) >= 20 or (limit.ratio or 0) >= 0.8
    target = "20 times the script, or 0.8 of the limit"
    figures = [figure.aim(target, reached, applies=is_named) for figure in (script, limit)]
    peers = runs["predict_then_sklearn"]
    figures.append(compare("train", name, ours, SKLEARN, _seconds(peers)))
    probes = [child.json["seconds"]["probe"] for child in runs["train"]]
    fits = [child.json["seconds"]["fit"] for child in peers]
    figures.append(compare("train, only the head", name, probes, SKLEARN, fits))
    return figures


def _second_run_figures(
    name: str, runs: dict[str, list[Any]], imported: dict[str, bool]
) -> list[Figure]:
    again, scripts = _seconds(runs["again"]), _seconds(runs["keras_script"])
    figure = compare("second run", name, again, SCRIPT, scripts)
    figure.aim("100 times", (figure.ratio or 0) >= 100, applies=name == "clothing")
    count = sum(imported.values())
    unloaded = Figure("second run: imports of tensorflow and keras", name, count, "packages")
    return [figure, unloaded.aim("0", count == 0)]


def _memory_figures(name: str, runs: dict[str, list[Any]]) -> list[Figure]:
    ours = [child.peak_mb for child in runs["train"]]
    peers = {SCRIPT: "keras_script", SKLEARN: "predict_then_sklearn"}
    return [
        compare("train, peak memory", name, ours, label, [c.peak_mb for c in runs[peer]], unit="MB")
        for label, peer in peers.items()
    ]


def _seconds(children: Sequence[Child]) -> list[float]:
    return [child.seconds for child in children]


# ---- accuracy


def _compare_accuracy(
    name: str, folder: Path, first: Path, runs: dict[str, list[Any]]
) -> list[Figure]:
    """Paired over the test photos, matched by path; ours as `headstart predict` answers."""
    command = ("predict", first / "a.headstart", folder / "test", "--json")
    lines = run_headstart(*command, cache=first / "cache").stdout.splitlines()
    ours = {row["path"]: row["label"] for row in map(json.loads, lines) if "label" in row}
    figures = []
    for label, peer in ((SCRIPT, "keras_script"), (SKLEARN, "predict_then_sklearn")):
        if not runs[peer]:
            continue
        theirs = _read_answers(first / f"{peer}.npz")
        paths = sorted({str(path) for path in list_photos(folder / "test")})
        right = np.array([[a.get(p) == Path(p).parent.name for a in (ours, theirs)] for p in paths])
        figures += _accuracy_figures(name, label, right)
    return figures


def _accuracy_figures(name: str, label: str, right: np.ndarray) -> list[Figure]:
    """Both accuracies with ours' interval, and their paired difference with its own."""
    count, (our_hits, peer_hits) = len(right), right.T
    own, gain = estimate_share(our_hits), compare_hits(our_hits, peer_hits).difference
    accuracy = Figure(
        f"train, accuracy on {count} photos",
        name,
        own.value,
        "share",
        label,
        float(peer_hits.mean()),
        low=own.low,
        high=own.high,
    )
    difference = Figure(
        f"train, accuracy: ours - peer on {count} photos",
        name,
        gain.value * 100,
        "points",
        label,
        low=gain.low * 100,
        high=gain.high * 100,
    )
    is_named = name == "clothing" and label == SCRIPT
    difference.aim("lower bound above -2 points", gain.low > -0.02, applies=is_named)
    return [accuracy, difference]


def _read_answers(path: Path) -> dict[str, str]:
    with np.load(path) as saved:
        names = saved["class_names"][saved["probabilities"].argmax(1)]
        return {str(p): str(n) for p, n in zip(saved["paths"], names, strict=True)}


def _probe_figures(name: str, folder: Path, first: Path) -> list[Figure]:
    script = (HERE / "inside.py", "probe", folder, first / "a.headstart")
    found = run_python(*script, cache=first / "cache").json
    photos, target = found["photos"], PROBE_TARGETS[name]
    ours = wilson(found["right"], photos)
    peers = {
        f"scikit-learn's optimum at C={found['strength']}": "sklearn_right",
        f"scikit-learn's own C={found['sklearn_own_strength']:.3g}": "sklearn_own_right",
    }
    return [
        Figure(
            f"accuracy of the probe on {photos} photos",
            name,
            ours.value,
            "share",
            label,
            found[key] / photos,
            low=ours.low,
            high=ours.high,
        ).aim(f"{target} at least", ours.value >= target)
        for label, key in peers.items()
    ]


# ---- extraction


def measure_extraction(name: str, folder: Path, scratch: Path, options: Any) -> list[Figure]:
    """Photos per second, all in one process; see inside.py."""
    script = (HERE / "inside.py", "extraction", folder, str(options.repeats))
    rates = run_python(*script, cache=scratch / f"cache-extraction-{name}").json
    ours = rates["headstart"]

    def against(label: str, peer: str) -> Figure:
        row = "extraction from files"
        return compare(row, name, ours, label, rates[peer], unit="photos/s")

    runtime = against("the runtime alone on arrays, our batches", "runtime")
    keras = against("keras.Model.predict on arrays", "keras")
    return [
        runtime.aim("0.85 of it", (runtime.ratio or 0) >= 0.85),
        against("the runtime alone on arrays, its own threads, batch 32", "runtime_default"),
        keras.aim("2 times", (keras.ratio or 0) >= 2),
    ]


# ---- cold start


def measure_cold(name: str, folder: Path, scratch: Path, options: Any) -> list[Figure]:
    """One photo predicted by a new process against an import; the lightest commands."""
    cache, bundle = scratch / "cache-cold", scratch / "cold.headstart"
    run_headstart("train", folder, "--recipe", "probe", "-o", bundle, cache=cache)
    photo = list_photos(folder / "test")[0]
    commands: dict[str, Callable[[], Child]] = {
        "predict": lambda: run_headstart("predict", bundle, photo, cache=cache),
        "tensorflow": lambda: run_python("-c", "import tensorflow", cache=cache),
        "import": lambda: run_python("-c", "import headstart", cache=cache),
        "help": lambda: run_headstart("--help", cache=cache),
        "pass": lambda: run_python("-c", "pass", cache=cache),
    }
    for run in commands.values():  # files come from memory afterwards, for everyone
        run()
    seconds: dict[str, list[float]] = defaultdict(list)
    for _ in range(options.cold_repeats):
        for command, run in commands.items():
            seconds[command].append(run().seconds)
    label = "python -c 'import tensorflow'"
    cold = compare("predict one photo", name, seconds["predict"], label, seconds["tensorflow"])
    return [
        cold.aim("answers first", (cold.ratio or 0) > 1),
        _extra_figure("import headstart", seconds["import"], seconds["pass"], 0.3),
        _extra_figure("headstart --help", seconds["help"], seconds["pass"], 0.5),
    ]


def _extra_figure(row: str, ours: list[float], bare: list[float], most: float) -> Figure:
    extra = median(one - nothing for one, nothing in zip(ours, bare, strict=True))
    figure = Figure(f"{row}: more than the peer", "", extra, "s", "python -c pass", median(bare))
    figure.repeats = len(ours)
    return figure.aim(f"{most} s more at most", extra <= most)


PARTS = {"train": measure_training, "extraction": measure_extraction, "cold": measure_cold}


def main() -> None:
    parser = make_parser((__doc__ or "").splitlines()[0])
    parser.add_argument("--script-repeats", type=int, default=1, help="of the two training peers")
    parser.add_argument("--cold-repeats", type=int, default=7, help="of the cold starts")
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=list(DATASETS))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    if min(options.repeats, options.script_repeats, options.cold_repeats) < 1:
        parser.error("every repeat count must be 1 or more")
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        for name in options.datasets:
            folder = dataset_folder(name, options.limit, scratch)
            for part in options.parts:
                if part == "cold" and name != options.datasets[0]:
                    continue
                print(f"{name}: {part}", file=sys.stderr, flush=True)
                figures += PARTS[part](name, folder, scratch, options)
    is_full = set(options.datasets) == set(DATASETS) and set(options.parts) == set(PARTS)
    save_rows("first_light", [vars(figure) for figure in figures], options, is_full=is_full)


if __name__ == "__main__":
    main()
