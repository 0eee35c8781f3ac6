"""What does `--recipe auto` cost beside the best fixed recipe, in accuracy and in seconds?

    HEADSTART_TEST_PHOTOS=... python benchmarks/regret.py [--budget 600]

Each recipe trains on the same random part of a set's training photos, in a process of its own with
an empty cache; seconds are those of the whole process. Which fixed recipe is the best is only known
afterwards: it is chosen on one half of the test photos and measured, beside auto, on the other
half, both ways round, over many random halvings. Regret is the mean of what it has more than auto.
A run that was stopped goes on from ``--rows``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import photos as photo_sets
from budget import link_part
from measure import make_parser, read_journal, run_headstart, save_rows, write_journal

FIXED = {
    "probe": ("--recipe", "probe"),
    "last block": ("--unfreeze", "last_block"),
    "half": ("--unfreeze", "half"),
}
AUTO = "auto"
# Sets and numbers of photos.
PARTS = (("clothing", 400), ("cifar", 400), ("ants-bees", 244), ("cifar", 1000))
HALVINGS = 200


def measure(name: str, count: int, budget: int) -> list[dict[str, Any]]:
    """A row per recipe, and the regret of auto."""
    rows, hits = [], {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "photos"
        count = link_part(name, count, folder, seed=100)
        recipes = {**FIXED, AUTO: ("--recipe", "auto", "--budget", f"{budget}s")}
        for recipe, options in recipes.items():
            bundle = Path(scratch) / f"{recipe}.headstart"
            cache = Path(scratch) / f"cache {recipe}"
            child = run_headstart("train", folder, *options, "--json", "-o", bundle, cache=cache)
            hits[recipe] = test(bundle, photo_sets.data_root() / name / "test")
            rows.append(
                {
                    "row": "recipe",
                    "photos": name,
                    "count": count,
                    "recipe": recipe,
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


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0], has_repeats=False)
    parser.add_argument("--budget", type=int, default=600, help="seconds that auto may take")
    parser.add_argument(
        "--rows", type=Path, default=Path("regret.jsonl"), help="what is measured; it goes on there"
    )
    options = parser.parse_args()
    done = {(row["photos"], row["count"]) for row in read_journal(options.rows)}
    for name, most in PARTS:
        count = min(most, 10 * options.limit) if options.limit else most
        if (name, count) not in done:
            write_journal(options.rows, *measure(name, count, options.budget))
    rows = read_journal(options.rows)
    regrets = [row["regret"] for row in rows if "regret" in row]
    rows.append({"row": "mean regret", "recipe": AUTO, "regret": float(np.mean(regrets))})
    columns = list(dict.fromkeys(key for row in rows for key in row))
    save_rows("regret", [{key: row.get(key, "") for key in columns} for row in rows], options)


if __name__ == "__main__":
    main()
