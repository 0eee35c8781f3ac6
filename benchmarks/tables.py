"""Write the tables of the documents from the files in results/.

    python benchmarks/tables.py            write them
    python benchmarks/tables.py --check    exit with 1 if a document is out of date

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``; NAME is a key of `TABLES`.
"""

from __future__ import annotations

import csv
import itertools
import re
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCUMENTS = ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))

Row = dict[str, str]


def read(name: str) -> list[Row]:
    """The rows of a results file; none when it is not there yet."""
    path = ROOT / "benchmarks" / "results" / f"{name}.csv"
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def squaring() -> list[list[str]]:
    header = ["way", "filter", "clothing", "ants-bees", "right of ImageNet's", "ms per resize"]
    rows = [
        [
            f"**{row['way']}**" if row["ours"] == "yes" else row["way"],
            row["filter"],
            f"{row['clothing log loss']} / {float(row['clothing accuracy']):.1%}",
            f"{row['ants-bees log loss']} / {float(row['ants-bees accuracy']):.1%}",
            f"{row['imagenet right']} of {row['imagenet photos']}",
            f"{float(row['resize ms']):.1f}",
        ]
        for row in read("squaring")
        if row["filter"]
    ]
    return [header, *rows]


def squaring_small() -> list[list[str]]:
    rows = sorted(read("squaring_small"), key=lambda row: (int(row["shorter side"]), row["photos"]))
    shares = sorted({row["share"] for row in rows}, key=float)
    table = [["shorter side", "photos", *(f"{share} of it" for share in shares)]]
    for key, group in itertools.groupby(rows, lambda row: (row["shorter side"], row["photos"])):
        cells = {}
        for row in group:
            text = f"{float(row['accuracy']):.1%}"
            text = f"{row['log loss']} / {text}" if row["log loss"] else text
            cells[row["share"]] = f"**{text}**" if row["ours"] == "yes" else text
        table.append([*key, *(cells[share] for share in shares)])
    return table


def float16() -> list[list[str]]:
    header = [
        "photos",
        "features",
        "accuracy",
        "decisions changed",
        "largest change of probability",
    ]
    rows = [
        [
            row["dataset"],
            row["features"],
            f"{float(row['accuracy']):.1%}",
            row["decisions changed"],
            row["max probability difference"] or "0",
        ]
        for row in read("float16")
        if "strength" not in row["features"]
    ]
    return [header, *rows]


def first_light() -> list[list[str]]:
    header = ["what", "photos", "ours", "beside it", "its figure", "times better"]
    rows = [
        [
            row["row"],
            row["dataset"] or "–",
            _figure(row["ours"], row["unit"]),
            row["peer_name"] or "–",
            _figure(row["peer"], row["unit"]),
            f"{float(row['ratio']):.3g}" if row["ratio"] else "",
        ]
        for row in read("first_light")
    ]
    return [header, *rows]


def targets() -> list[list[str]]:
    """The rows of `first_light` that have something to reach, on the named photos."""
    header, *rows = first_light()
    aimed = [bool(row["target"]) for row in read("first_light")]
    return [header, *(row for row, is_aimed in zip(rows, aimed, strict=True) if is_aimed)]


def suggest() -> list[list[str]]:
    rows = [
        [
            row["photos"],
            row["labelled"],
            f"{float(row['accuracy before']):.1f}%",
            row["chosen by"],
            f"{float(row['gain']):+.2f} ± {float(row['± (standard error)']):.2f}",
            f"{float(row['over random']):+.2f} ± {float(row['± (standard error of it)']):.2f}",
        ]
        for row in read("suggest")
    ]
    return [["photos", "labelled", "accuracy", "chosen by", "gain", "more than random"], *rows]


def exports() -> list[list[str]]:
    rows = []
    for row in read("exports"):
        if row["refused"]:
            why = row["refused"].partition(". ")[0]
            rows.append([row["network"], row["format"], f"refused: {why}", *[""] * 6])
            continue
        rows.append(
            [
                row["network"],
                row["format"],
                f"{float(row['pixels: largest']):.1g}",
                f"{row['pixels: changed']} of {row['photos']}",
                f"{float(row['files: largest']):.2g} / {float(row['files: mean']):.2g}",
                f"{row['files: changed']}, {row['files: unread']} unread",
                f"{float(row['MB']):.1f}",
                f"{float(row['ms']):.1f} ({float(row['bundle ms']):.1f})",
                " / ".join(row[f"twin: {t}"] or "–" for t in _TWINS),
            ]
        )
    header = ["network", "format", "pixels: largest", "changed", "files: largest / mean"]
    return [[*header, "changed", "MB", "ms (bundle's)", "twins"], *rows]


def onnx_decoder() -> list[list[str]]:
    rows = [[row["file"], row["what happens"]] for row in read("onnx_decoder")]
    return [["file", "what happens"], *rows]


_TWINS = ("colour order", "resize", "temperature")


def doctor_speed() -> list[list[str]]:
    rows = [
        [row["row"], row["photos"], row["classes"], f"{float(row['seconds']):.1f}"]
        for row in read("doctor_speed")
    ]
    return [["", "photos", "classes", "seconds"], *rows]


def serving() -> list[list[str]]:
    rows = []
    for row in read("serving"):
        latencies = " / ".join(row[name] for name in ("p50", "p95", "p99") if row[name])
        share = f"{float(row['of in process']):.2f}" if row["of in process"] else ""
        generator = f"{float(row['generator']):.0%}" if row["generator"] else ""
        refused = row["not 2xx"] and f"{float(row['not 2xx']):.0f} of {float(row['answered']):.0f}"
        speed = f"{float(row['per second']):.1f}"
        rows.append(
            [row["row"], row["connections"], speed, share, latencies, refused or "", generator]
        )
    header = ["", "connections", "per second", "of in process", "ms, p50 / p95 / p99", "429"]
    return [[*header, "generator"], *rows]


def learning_curve() -> list[list[str]]:
    rows = [
        [
            row["photos"],
            row["figure"],
            f"{float(row['mean']):.0%}"
            if "interval" in row["figure"]
            else f"{float(row['mean']):.2f} ± {float(row['±']):.2f}",
        ]
        for row in read("learning_curve")
    ]
    return [["photos", "figure", "mean"], *rows]


def quality() -> list[list[str]]:
    kinds = ("blurred", "dark", "blank")
    rows = [
        [
            row["photos"],
            f"{float(row['blur, share of the side']):.1%}",
            f"{float(row['light']):.0%}",
            *(f"{float(row[kind]):.1%}" for kind in kinds),
        ]
        for row in read("quality")
    ]
    return [["photos", "blur", "light", *kinds], *rows]


def budget() -> list[list[str]]:
    rows = [
        [
            row["photos"],
            row["count"],
            row["one core busy"],
            f"{float(row['budget']):.0f} s",
            f"{float(row['seconds']):.0f} s",
            f"{float(row['of the budget']):.0%}",
            row["kept"] or row["outcome"],
            f"{float(found):.1%}" if (found := row["accuracy on the test photos"]) else "",
        ]
        for row in read("budget")
    ]
    header = ["photos", "how many", "one core busy", "budget", "took", "of it", "kept", "accuracy"]
    return [header, *rows]


def few_shot() -> list[list[str]]:
    rows, found = [], read("few_shot")
    sizes = sorted({int(row["photos a class"]) for row in found})
    for name, network in dict.fromkeys((row["dataset"], row["network"]) for row in found):
        of = {
            int(row["photos a class"]): f"{float(row['accuracy']):.1%} ± "
            f"{100 * float(row['spread']):.1f} ({float(row['CPU seconds']):.1f} s)"
            for row in found
            if (row["dataset"], row["network"]) == (name, network)
        }
        rows.append([name, network, *(of[size] for size in sizes)])
    return [["photos", "network", *map(str, sizes)], *rows]


def shared_pass() -> list[list[str]]:
    rows = [
        [
            row["trained"],
            f"{float(row['MB']):.0f} MB",
            f"{float(row['reading s']):.2f} s",
            f"{float(row['one network s']):.1f} s",
            f"{float(row['reading of it']):.1%}",
            f"{float(row['two apart s']):.1f} s",
            f"{float(row['two on one reading s']):.1f} s",
            f"{float(row['times faster together']):.2f}",
        ]
        for row in read("shared_pass")
    ]
    header = ["trained", "activations", "reading", "an epoch", "reading is", "two epochs apart"]
    return [[*header, "on one reading", "times faster"], *rows]


def scaling() -> list[list[str]]:
    found = read("scaling")
    shares = list(dict.fromkeys(row["share"] for row in found))
    ours = {row["share"] for row in found if row["ours"]}
    keys = list(dict.fromkeys((row["dataset"], row["photos a class"]) for row in found))
    groups = {
        f"{name}, {size} a class": [
            row for row in found if (row["dataset"], row["photos a class"]) == (name, size)
        ]
        for name, size in keys
    }
    rows = []
    for name, group in {**groups, "mean": found}.items():
        cells = []
        for share in shares:
            of = [row for row in group if row["share"] == share]
            accuracy, loss = (
                sum(float(row[key]) for row in of) / len(of) for key in ("accuracy", "log loss")
            )
            cells.append(f"{accuracy:.1%} / {loss:.3f}")
        rows.append([name, *cells])
    header = [f"**{share}**" if share in ours else share for share in shares]
    return [["photos", *header], *rows]


def regret() -> list[list[str]]:
    rows = []
    for row in read("regret"):
        if row["row"] == "recipe":
            recipe = row["recipe"]
            if row["budget"]:
                recipe = f"**{recipe}**, {row['budget']} s: {row['kept']}"
            seconds, accuracy = f"{float(row['seconds']):.0f} s", f"{float(row['accuracy']):.1%}"
            rows.append([f"{row['photos']}, {row['count']}", recipe, seconds, accuracy, ""])
        elif row["row"] == "regret":  # after the row of the largest budget
            rows[-1][-1] = f"{float(row['regret']):+.1f} points"
        else:
            rows.append(["mean", "**auto**", "", "", f"{float(row['regret']):+.1f} points"])
    return [["photos", "recipe", "seconds", "accuracy", "regret"], *rows]


def peers() -> list[list[str]]:
    rows = [
        [
            row["photos"],
            f"**{row['tool']}**" if row["tool"] == "Headstart" else row["tool"],
            row["setting"],
            f"{float(row['seconds']):.0f} s",
            f"{float(row['accuracy']):.1%}",
            row["versions"] or f"keras {row['keras']}, scikit-learn {row['scikit-learn']}"
            if row["tool"] != "Headstart"
            else f"headstart {row['headstart']}",
        ]
        for row in read("peers")
    ]
    return [["photos", "tool", "setting", "seconds", "accuracy", "versions"], *rows]


def duplicates() -> list[list[str]]:
    rows = [
        [
            row["dataset"],
            row["photos"],
            row["what"],
            f"{row['found']} of {row['of']}",
            f"{float(row['share']):.1%} [{float(row['low']):.1%}, {float(row['high']):.1%}]",
        ]
        for row in read("duplicates")
        if row["what"].startswith(("planted", "precision")) and row["share"]
    ]
    return [["photos", "how many", "what", "right", "share, 95 % interval"], *rows]


def duplicates_worth() -> list[list[str]]:
    rows = [
        [row["what"].removeprefix("accuracy: "), row["photos"], f"{float(row['share']):.1%}"]
        for row in read("duplicates")
        if row["what"].startswith("accuracy")
    ]
    return [["photos and split", "how many", "accuracy"], *rows]


def duplicates_cost() -> list[list[str]]:
    rows = [
        [
            row["what"].removeprefix("groups: "),
            row["photos"],
            f"{float(row['seconds']):.2f}",
            f"{float(row['share']):.0%}",
        ]
        for row in read("duplicates")
        if row["what"].startswith("groups")
    ]
    return [["`headstart train`", "photos", "seconds", "of the whole run"], *rows]


def _percent(row: Row, column: str) -> str:
    return f"{float(row[column]):.0%}"


def runtimes() -> list[list[str]]:
    header = ["network", "runtime", "photos per second", "times keras.predict", "relative error"]
    rows = [
        [
            row["backbone"],
            f"{row['runtime']} {row['version']}",
            f"{float(row['photos per second']):.3g}",
            f"{float(row['times keras.predict']):.2f}",
            row["largest relative error"],
        ]
        for row in read("runtimes")
    ]
    return [header, *rows]


def _figure(value: str, unit: str) -> str:
    if not value:
        return ""
    number = float(value)
    if unit == "share":
        return f"{number:.1%}"
    return f"{number:.3g} {unit}" if abs(number) < 1000 else f"{number:,.0f} {unit}"


def coverage() -> list[list[str]]:
    header = ["figure", "photos", "interval", "holds the truth", "mean width"]
    rows = []
    for row in read("coverage"):
        mark = "**" if row["ours"] == "yes" else ""
        held = f"{mark}{float(row['coverage']):.1%}{mark}"
        method = f"{mark}{row['method']}{mark}"
        truth = f"{row['photos']}, truth {float(row['truth']):.3g}"
        rows.append([row["figure"], truth, method, held, row["mean width"]])
    return [header, *rows]


def damage() -> list[list[str]]:
    header = ["photos", "damage", "refused", "of the others flagged"]
    rows = []
    for row in read("damage"):
        flagged = f"{row['flagged']} of {row['accepted']}"
        rows.append([row["dataset"], row["damage"], row["refused"], flagged])
    return [header, *rows]


def decoding() -> list[list[str]]:
    header = ["photo", "MB", "decode ms", "of it loading", "Pillow ms", "network ms", "part"]
    columns = ("MB", "decode ms", "load ms", "Pillow ms", "network ms")
    rows = [
        [
            row["kind"],
            *(f"{float(row[column]):.3g}" for column in columns),
            _percent(row, "decoding's part"),
        ]
        for row in read("decoding")
    ]
    return [header, *rows]


def classic() -> list[list[str]]:
    header = ["what", "seconds", "times faster"]
    rows = [
        [row["what"], f"{float(row['seconds']):.0f}", f"{float(row['times']):.1f}"]
        for row in read("classic")
    ]
    return [header, *rows]


def converting() -> list[list[str]]:
    header = ["network", "weights", "Headstart", "tf2onnx", "times", "memory", "tf2onnx's", "times"]
    rows = [
        [
            f"`{row['network']}`",
            f"{float(row['MB of weights']):.0f} MB",
            f"{float(row['seconds']):.1f} s",
            f"{float(row['seconds, tf2onnx']):.1f} s",
            f"{float(row['seconds, times']):.1f}",
            f"{float(row['MB']):,.0f} MB",
            f"{float(row['MB, tf2onnx']):,.0f} MB",
            f"{float(row['MB, times']):.1f}",
        ]
        for row in read("converting")
    ]
    return [header, *rows]


def suffix() -> list[list[str]]:
    header = ["trained", "of the multiply-adds", "photos/s", "as convolutions", "times"]
    rows = [
        [
            row["depth"],
            _percent(row, "share of multiply-adds"),
            f"{float(row['photos/s']):.0f}",
            f"{float(row['photos/s, convolutions']):.0f}",
            f"{float(row['times']):.2f}",
        ]
        for row in read("suffix")
    ]
    return [header, *rows]


def doctor() -> list[list[str]]:
    columns = (
        *("AUROC", "precision", "recall", "precision at k", "suggested the truth"),
        *("accuracy, planted", "accuracy, corrected"),
    )
    rows = [
        [
            _percent(row, "planted"),
            f"{float(row['flags']):.0f}",
            *(f"{float(row[c]):.3f}" if row[c] else "" for c in columns),
        ]
        for row in read("doctor")
    ]
    return [["planted", "flags", *columns], *rows]


def extraction() -> list[list[str]]:
    header = ["photos", "photos/s", "runtime alone", "decoding alone", "ratio", "at most"]
    columns = ("photos/s", "runtime alone, photos/s", "decoding alone, photos/s")
    rows = [
        [
            row["photos"],
            *(f"{float(row[column]):.0f}" for column in columns),
            *(f"{float(row[column]):.2f}" for column in ("ratio", "bound")),
        ]
        for row in read("extraction")
    ]
    return [header, *rows]


def fine_tuning_speed() -> list[list[str]]:
    header = [
        "network",
        "AVX-512",
        "photos",
        "Headstart",
        "of it extraction",
        "plain Keras",
        "times",
        "ceiling",
    ]
    rows = [
        [
            row["network"],
            "yes" if "AVX-512" in row["machine"] else "no",
            row["photos"],
            *(
                f"{float(row[c]):.0f} s"
                for c in ("headstart s", "of it extraction s", "plain Keras s")
            ),
            f"{float(row['times']):.1f}",
            f"{float(row['ceiling by multiply-adds']):.1f}",
        ]
        for row in read("fine_tuning_speed")
    ]
    return [header, *rows]


def fine_tuning_few() -> list[list[str]]:
    header = ["photos", "a class", "draws", "probe", "tuned", "mean gain in points", "worst"]
    header.append("draws in which the network was changed")
    rows = [
        [
            row["data"],
            row["photos a class"],
            row["draws"],
            f"{float(row['probe']):.1%}",
            f"{float(row['tuned']):.1%}",
            describe_difference(row, ("mean gain", "low", "high"), 100, 1),
            f"{100 * float(row['worst']):+.1f}",
            row["draws with a change"],
        ]
        for row in read("fine_tuning_few")
    ]
    return [header, *rows]


def out_of_fold() -> list[list[str]]:
    header = ["photos", "settings", "cut at", "probe", "tuned", "gain in points"]
    header += ["over the first in points", "log loss over the first", "MB"]
    rows = []
    for row in read("out_of_fold"):
        held = f"{row['data']}, {row['photos']}"
        if row["side"] == "train":
            held += f" of the training photos ({row['folds']} of 5 folds)"
        rows.append(
            [
                held,
                f"`{row['settings']}`",
                row["boundary"],
                f"{float(row['probe']):.1%}",
                f"{float(row['tuned']):.1%}",
                describe_difference(row, ("gain", "gain low", "gain high"), 100, 1),
                describe_difference(row, list_over_first("accuracy"), 100, 1),
                describe_difference(row, list_over_first("log loss"), 1, 3),
                f"{float(row['MB']):.0f}",
            ]
        )
    return [header, *rows]


def list_over_first(name: str) -> tuple[str, str, str]:
    """Columns of a difference to the first settings of a run."""
    column = f"{name} over the first"
    return column, f"{column}, low", f"{column}, high"


def describe_difference(
    row: dict[str, str], columns: tuple[str, str, str], factor: float, digits: int
) -> str:
    """A difference with its interval; a dash where there is none."""
    if not row.get(columns[0]):
        return "–"
    value, low, high = (f"{factor * float(row[column]):+.{digits}f}" for column in columns)
    return f"{value} [{low}, {high}]"


def trust() -> list[list[str]]:
    header = ["figure", "mean", "95 % of the splits"]
    rows = [
        [
            row["figure"],
            f"{float(row['mean']):.3f}",
            f"{float(row['2.5 %']):.3f} to {float(row['97.5 %']):.3f}",
        ]
        for row in read("trust")
    ]
    return [header, *rows]


def temperature() -> list[list[str]]:
    """Log losses of new photos: a row per case, a column per width of the prior."""
    cases: dict[tuple[str, str], dict[str, dict[str, str]]] = {}
    for row in read("temperature"):
        cases.setdefault((row["data"], row["photos"]), {})[row["spread"]] = row
    spreads = list(next(iter(cases.values())))
    titles = {"0": "always 1", "inf": "no prior"}
    shown = [titles.get(spread, f"prior {spread}") for spread in spreads]
    header = [
        "photos",
        "trained on",
        "right of those held out",
        *shown,
        "lowest temperature: no prior, ours",
    ]
    table = [header]
    for (data, photos), found in cases.items():
        ours = next(row for row in found.values() if row["ours"] == "yes")
        losses = [f"{float(found[spread]['log loss']):.3f}" for spread in spreads]
        ours_at = spreads.index(ours["spread"])
        losses[ours_at] = f"**{losses[ours_at]}**"
        right = f"{float(ours['right of those held out']):.1%}"
        coldest = f"{float(found['inf']['lowest']):.2f}, {float(ours['lowest']):.2f}"
        table.append([data, photos, right, *losses, coldest])
    return table


def scale() -> list[list[str]]:
    header = ["what", "Ray, two nodes", "beside it", "wanted"]
    rows = [
        [row["what"], *(_round(row[name]) for name in ("ray", "beside")), row["target"]]
        for row in read("scale")
    ]
    return [header, *rows]


def addresses() -> list[list[str]]:
    header = ["what", "files", "addresses", "one at a time"]
    names = ("files", "addresses", "one at a time")
    return [header, *([r["what"], *(_round(r[n]) for n in names)] for r in read("addresses"))]


def _round(cell: str) -> str:
    return f"{float(cell):.3g}" if "." in cell else cell


TABLES: dict[str, Callable[[], list[list[str]]]] = {
    "addresses": addresses,
    "suggest": suggest,
    "serving": serving,
    "doctor_speed": doctor_speed,
    "exports": exports,
    "onnx_decoder": onnx_decoder,
    "learning_curve": learning_curve,
    "quality": quality,
    "budget": budget,
    "few_shot": few_shot,
    "regret": regret,
    "peers": peers,
    "scale": scale,
    "scaling": scaling,
    "shared_pass": shared_pass,
    "duplicates": duplicates,
    "duplicates_cost": duplicates_cost,
    "duplicates_worth": duplicates_worth,
    "classic": classic,
    "coverage": coverage,
    "damage": damage,
    "decoding": decoding,
    "first_light": first_light,
    "doctor": doctor,
    "extraction": extraction,
    "fine_tuning_few": fine_tuning_few,
    "fine_tuning_speed": fine_tuning_speed,
    "float16": float16,
    "out_of_fold": out_of_fold,
    "runtimes": runtimes,
    "squaring": squaring,
    "squaring_small": squaring_small,
    "converting": converting,
    "suffix": suffix,
    "targets": targets,
    "trust": trust,
    "temperature": temperature,
}


def render(rows: list[list[str]]) -> str:
    """Rows as a Markdown table; the first is the header."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def update(text: str) -> str:
    """A document with its tables written anew."""

    def replace(found: re.Match[str]) -> str:
        return f"{found[1]}\n{render(TABLES[found[2]]())}\n{found[3]}"

    return re.sub(r"(<!-- table: (\w+) -->)\n.*?(<!-- end -->)", replace, text, flags=re.DOTALL)


def main() -> int:
    is_check, outdated = "--check" in sys.argv, []
    for name in DOCUMENTS:
        path = ROOT / name
        text = path.read_text(encoding="utf-8")
        if update(text) != text:
            outdated.append(name)
            if not is_check:
                path.write_text(update(text), encoding="utf-8")
    if outdated:
        print(("out of date: " if is_check else "wrote: ") + ", ".join(outdated))
    return 1 if is_check and outdated else 0


if __name__ == "__main__":
    sys.exit(main())
