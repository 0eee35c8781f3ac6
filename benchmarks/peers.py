"""Accuracy against seconds: Headstart, scikit-learn on features, Keras, fastai, timm, AutoKeras.

    HEADSTART_TEST_PHOTOS=... python benchmarks/peers.py [--torch PYTHON] [--autokeras PYTHON]

All start from the weights of EfficientNet-Lite0 (AutoKeras, which takes no weights of a user, from
its own search space without any), see the same training photos, and are measured on the same test
photos, of which none is seen in training. Seconds are those of the whole process, imports included,
with empty caches; what a peer needs only once (fastai's and timm's: weights under other names) is
taken off. ``--torch`` and ``--autokeras`` name the interpreters of environments that have the
peers (peers/torch_peers.py and peers/autokeras_script.py say what is to be installed); without one,
those rows are left out, and said to be. A run that was stopped goes on from ``--rows``. ``--draw``
only draws docs/peers.svg from the results. It takes an hour and a quarter.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import photos as photo_sets
from measure import (
    HERE,
    RESULTS,
    make_parser,
    read_journal,
    run_child,
    run_headstart,
    run_python,
    save_rows,
    write_journal,
)

DATASETS = ("clothing", "ants-bees")
PICTURE = HERE.parent / "docs" / "peers.svg"
OURS = {
    "probe": ("--recipe", "probe"),
    "auto, 1 min": ("--recipe", "auto", "--budget", "60s"),
    "auto, 3 min": ("--recipe", "auto", "--budget", "180s"),
}
EPOCHS = {"fastai": (1, 4), "timm": (2, 8)}


# A tool, how it was set, and what measures it.
Job = tuple[str, str, Callable[[], dict[str, Any]]]


def list_ours(folder: Path, scratch: Path) -> Iterator[Job]:
    """A job per recipe, each with an empty cache."""

    def measure(name: str, options: tuple[str, ...]) -> dict[str, Any]:
        bundle, cache = scratch / f"{name}.headstart", scratch / f"cache {name}"
        child = run_headstart(
            "train", folder / "train", *options, "--json", "-o", bundle, cache=cache
        )
        asked = run_headstart("predict", bundle, folder / "test", "--json", cache=cache)
        answers = [json.loads(line) for line in asked.stdout.splitlines()]
        hits = [answer["label"] == Path(answer["path"]).parent.name for answer in answers]
        return {"seconds": child.seconds + asked.seconds, "accuracy": float(np.mean(hits))}

    for number, (setting, options) in enumerate(OURS.items()):
        yield "Headstart", setting, partial(measure, str(number), options)


def list_scripts(folder: Path, scratch: Path) -> Iterator[Job]:
    """scikit-learn on features, and the usual Keras script."""

    def measure(script: str, options: tuple[str, ...]) -> dict[str, Any]:
        target, cache = scratch / "a.npz", scratch / "peer"
        child = run_python(HERE / "peers" / script, folder, target, *options, cache=cache)
        return {"seconds": child.seconds, "accuracy": child.json["accuracy"]}

    tool = "Keras features, scikit-learn"
    yield tool, "", partial(measure, "predict_then_sklearn.py", ())
    for epochs in ("3", "10"):
        options = ("--epochs", epochs)
        yield "Keras script", f"{epochs} epochs", partial(measure, "keras_script.py", options)


def measure_apart(python: Path, arguments: tuple[str, ...], scratch: Path) -> dict[str, Any]:
    """A peer in an environment of its own."""
    child = run_child(python, *arguments, cache=scratch / "peer")
    found = json.loads(child.stdout.strip().splitlines()[-1])
    return {
        "seconds": child.seconds - found["seconds"].get("apart", 0.0),
        "accuracy": found["accuracy"],
        "versions": found["versions"],
    }


def list_jobs(name: str, options: argparse.Namespace, scratch: Path) -> Iterator[Job]:
    """What is measured on one set of photos."""
    scratch = scratch / name  # with caches of its own
    scratch.mkdir()
    folder = photo_sets.dataset_folder(name, options.limit, scratch)
    yield from list_ours(folder, scratch)
    yield from list_scripts(folder, scratch)
    if options.torch:
        script = str(HERE / "peers" / "torch_peers.py")
        for tool, counts in EPOCHS.items():
            for count in counts:
                target = str(scratch / f"{tool} {count}.npz")
                arguments = (script, tool, str(folder), target, "--epochs", str(count))
                job = partial(measure_apart, options.torch, arguments, scratch)
                yield tool, f"{count} epoch{'s' if count > 1 else ''}", job
    if options.autokeras:
        arguments = (str(HERE / "peers" / "autokeras_script.py"), str(folder))
        yield (
            "AutoKeras",
            "one trial",
            partial(measure_apart, options.autokeras, arguments, scratch),
        )


def measure_all(options: argparse.Namespace, scratch: Path) -> list[dict[str, Any]]:
    """A row per job; each is written down at once, and not measured again."""
    rows = read_journal(options.rows)
    known = {(row["photos"], row["tool"], row["setting"]) for row in rows}
    for name in options.datasets:
        for tool, setting, measure in list_jobs(name, options, scratch):
            if (name, tool, setting) in known:
                continue
            row = {"photos": name, "tool": tool, "setting": setting, "versions": "", **measure()}
            rows.append(row)
            write_journal(options.rows, row)
            print(row, flush=True)
    return rows


def draw(rows: list[dict[str, str]]) -> None:
    """A panel per set of photos; a line per tool."""
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(row["photos"] for row in rows))
    figure, panels = plt.subplots(1, len(names), figsize=(5 * len(names), 4), squeeze=False)
    for panel, name in zip(panels[0], names, strict=True):
        for tool in dict.fromkeys(row["tool"] for row in rows):
            of = [row for row in rows if (row["photos"], row["tool"]) == (name, tool)]
            x, y = ([float(row[key]) for row in of] for key in ("seconds", "accuracy"))
            width = 2.5 if tool == "Headstart" else 1.2
            panel.plot(x, [100 * value for value in y], "o-", label=tool, linewidth=width)
        panel.set(title=name, xscale="log", xlabel="seconds, imports included")
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("accuracy on test photos, %")
    panels[0][-1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(PICTURE, metadata={"Date": None})


def main() -> None:
    parser = make_parser((__doc__ or "").splitlines()[0], has_repeats=False)
    parser.add_argument("--datasets", nargs="+", default=["clothing"], choices=DATASETS)
    parser.add_argument("--torch", type=Path, help="interpreter with fastai and timm")
    parser.add_argument("--autokeras", type=Path, help="interpreter with AutoKeras")
    parser.add_argument("--draw", action="store_true", help="only draw what results/ holds")
    parser.add_argument(
        "--rows", type=Path, default=Path("peers.jsonl"), help="what is measured; it goes on there"
    )
    options = parser.parse_args()
    if not options.draw:
        with tempfile.TemporaryDirectory() as scratch:
            rows = measure_all(options, Path(scratch))
        for tool in ("torch", "autokeras"):
            if getattr(options, tool) is None:
                print(f"left out: --{tool} names no interpreter")
        save_rows("peers", rows, options, is_full="clothing" in options.datasets)
        if options.limit:
            return
    with (RESULTS / "peers.csv").open(encoding="utf-8", newline="") as file:
        draw(list(csv.DictReader(file)))


if __name__ == "__main__":
    main()
