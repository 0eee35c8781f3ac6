"""What does `--recipe auto` cost beside the best fixed recipe, in accuracy and in seconds?

    HEADSTART_TEST_PHOTOS=... python benchmarks/regret.py [--budgets 60 600] [--draw]

Each recipe trains on the same random part of a set's training photos, in a process of its own with
an empty cache; seconds are those of the whole process. Which fixed recipe is the best is only known
afterwards: it is chosen on one half of the test photos and measured, beside auto, on the other
half, both ways round, over many random halvings. Regret is the mean of what it has more than auto
with the largest budget. The smaller budgets make the curve of accuracy against seconds beside the
fixed recipes, docs/regret.svg; ``--draw`` only draws it from the results. A run that was stopped
goes on from ``--rows``.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import photos as photo_sets
from budget import link_part
from measure import (
    HERE,
    RESULTS,
    make_parser,
    read_journal,
    run_headstart,
    save_rows,
    write_journal,
)

PICTURE = HERE.parent / "docs" / "regret.svg"

FIXED = {
    "probe": ("--recipe", "probe"),
    "last block": ("--unfreeze", "last_block"),
    "half": ("--unfreeze", "half"),
    "most": ("--unfreeze", "most"),
}
AUTO = "auto"
# Sets and numbers of photos.
PARTS = (("clothing", 400), ("ants-bees", 244), ("cifar", 1000))
HALVINGS = 200


def measure(name: str, count: int, budgets: list[int]) -> list[dict[str, Any]]:
    """A row per recipe, and the regret of auto with the largest budget."""
    rows, hits = [], {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "photos"
        count = link_part(name, count, folder, seed=100)
        tries = [(recipe, options, "") for recipe, options in FIXED.items()]
        for budget in sorted(budgets):
            tries.append((AUTO, ("--recipe", "auto", "--budget", f"{budget}s"), str(budget)))
        for recipe, options, budget_seconds in tries:
            bundle = Path(scratch) / f"{recipe}{budget_seconds}.headstart"
            cache = Path(scratch) / f"cache {recipe}{budget_seconds}"
            child = run_headstart("train", folder, *options, "--json", "-o", bundle, cache=cache)
            hits[recipe] = test(bundle, photo_sets.data_root() / name / "test")
            rows.append(
                {
                    "row": "recipe",
                    "photos": name,
                    "count": count,
                    "recipe": recipe,
                    "budget": budget_seconds,
                    "kept": describe_kept(child.json),
                    "seconds": child.seconds,
                    "accuracy": float(hits[recipe].mean()),
                    "test photos": len(hits[recipe]),
                }
            )
    regret = compute_regret({k: v for k, v in hits.items() if k != AUTO}, hits[AUTO])
    rows.append({"row": "regret", "photos": name, "count": count, "recipe": AUTO, "regret": regret})
    return rows


def describe_kept(found: dict[str, Any]) -> str:
    """What was unfrozen in the network that was kept."""
    tuned = found["fine_tune"] and found["recipe"].get("fine_tune")
    return str(tuned["unfreeze"]) if tuned else "probe"


def test(bundle: Path, folder: Path) -> npt.NDArray[np.bool_]:
    """Whether each test photo is answered rightly, in the order of their paths."""
    import headstart

    paths = sorted(folder.glob("*/*"))
    answers = headstart.load(bundle).predict(paths)
    return np.array([a == p.parent.name for a, p in zip(answers, paths, strict=True)])


def compute_regret(
    fixed: dict[str, npt.NDArray[np.bool_]], auto: npt.NDArray[np.bool_], seed: int = 0
) -> float:
    """In points of accuracy; negative where auto is better than what would have been chosen."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(HALVINGS):
        order = rng.permutation(len(auto))
        halves = order[: len(auto) // 2], order[len(auto) // 2 :]
        for chosen_on, measured_on in (halves, halves[::-1]):
            best = max(fixed, key=lambda name: fixed[name][chosen_on].mean())
            found.append(fixed[best][measured_on].mean() - auto[measured_on].mean())
    return 100 * float(np.mean(found))


def draw(rows: list[dict[str, str]]) -> None:
    """A panel per set of photos: auto as a line, each fixed recipe as a point."""
    import matplotlib.pyplot as plt

    sets = list(dict.fromkeys((row["photos"], row["count"]) for row in rows))
    figure, panels = plt.subplots(1, len(sets), figsize=(3.4 * len(sets), 3.4), squeeze=False)
    for panel, (name, count) in zip(panels[0], sets, strict=True):
        of = [row for row in rows if (row["photos"], row["count"]) == (name, count)]
        for recipe in dict.fromkeys(row["recipe"] for row in of):
            found = [row for row in of if row["recipe"] == recipe]
            x, y = ([float(row[key]) for row in found] for key in ("seconds", "accuracy"))
            style = "o-" if recipe == AUTO else "s"
            panel.plot(x, [100 * value for value in y], style, label=recipe)
        panel.set(title=f"{name}, {count} photos", xscale="log", xlabel="seconds")
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("accuracy on test photos, %")
    panels[0][-1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(PICTURE, metadata={"Date": None})


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0], has_repeats=False)
    parser.add_argument(
        "--budgets", type=int, nargs="+", default=[60, 600], help="seconds that auto may take"
    )
    parser.add_argument("--draw", action="store_true", help="only draw what results/ holds")
    parser.add_argument(
        "--rows", type=Path, default=Path("regret.jsonl"), help="what is measured; it goes on there"
    )
    options = parser.parse_args()
    if not options.draw:
        measure_all(options)
        if options.limit:
            return
    with (RESULTS / "regret.csv").open(encoding="utf-8", newline="") as file:
        draw([row for row in csv.DictReader(file) if row["row"] == "recipe"])


def measure_all(options: argparse.Namespace) -> None:
    """Write results/regret.csv."""
    done = {(row["photos"], row["count"]) for row in read_journal(options.rows)}
    for name, most in PARTS:
        count = min(most, 10 * options.limit) if options.limit else most
        if (name, count) not in done:
            write_journal(options.rows, *measure(name, count, options.budgets))
    rows = read_journal(options.rows)
    regrets = [row["regret"] for row in rows if "regret" in row]
    rows.append({"row": "mean regret", "recipe": AUTO, "regret": float(np.mean(regrets))})
    columns = list(dict.fromkeys(key for row in rows for key in row))
    save_rows("regret", [{key: row.get(key, "") for key in columns} for row in rows], options)


if __name__ == "__main__":
    main()
