"""Plots as SVG text for a page: by Matplotlib, in the page's own colours, light or dark."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.errors import require_package
from headstart.evaluation.calibration import Calibration
from headstart.evaluation.intervals import Estimate, wilson
from headstart.evaluation.metrics import Evaluation

Floats = npt.NDArray[np.floating]

# Stand-ins that Matplotlib draws with, and the page's colours that take their place.
_INK, _FAINT, _ACCENT, _OTHER, _BAND = "#010203", "#020304", "#030405", "#040506", "#050607"
_COLOURS = {
    _INK: "var(--ink)",
    _FAINT: "var(--faint)",
    _ACCENT: "var(--accent)",
    _OTHER: "var(--other)",
    _BAND: "var(--band)",
}
_MOST_CLASSES = 40

_STYLE = {
    "svg.fonttype": "none",  # text stays text: it can be read aloud, and has the page's font
    "font.family": "sans-serif",
    "font.size": 10,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    "axes.edgecolor": _FAINT,
    "legend.frameon": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), _INK),
}


class _Plot:
    """A figure that becomes SVG text when its block ends."""

    def __init__(self, figure: Any, axes: Any) -> None:
        self.figure, self.axes, self.svg = figure, axes, ""


@contextmanager
def _draw(name: str, width: float = 6.0, height: float = 3.2) -> Iterator[_Plot]:
    require_package("matplotlib", purpose="writing a report")
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # A salt of its own: the ids of two plots on a page must differ, and be the same every time.
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(width, height), layout="constrained")
        plot = _Plot(figure, figure.subplots())
        yield plot
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    for stand_in, colour in _COLOURS.items():
        text = text.replace(stand_in, colour)
    plot.svg = text.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)


def _percent_axis(axis: Any) -> None:
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))


def plot_reliability(calibration: Calibration) -> str:
    """Accuracy beside confidence, with the intervals of the bins.

    Args:
        calibration: With its bins.
    """
    with _draw("reliability", 4.6, 3.8) as plot:
        axes, bins = plot.axes, calibration.bins
        axes.plot([0, 1], [0, 1], color=_FAINT, linestyle="--")
        xs, shares = [b.confidence for b in bins], [b.accuracy for b in bins]
        _draw_intervals(axes, xs, shares, vertical=True)
        sizes = [20 + 180 * b.photos / max(b.photos for b in bins) for b in bins]
        ys = [share.value for share in shares]
        axes.scatter(xs, ys, s=sizes, color=_ACCENT, alpha=0.75, zorder=3, clip_on=False)
        axes.set(xlim=(0, 1.02), ylim=(0, 1.04), xlabel="said to be right", ylabel="was right")
        _percent_axis(axes.xaxis)
        _percent_axis(axes.yaxis)
    return plot.svg


def plot_classes(evaluation: Evaluation) -> str:
    """How many photos of each class are found, with 95 % intervals, the worst at the top.

    Args:
        evaluation: Of the test photos.
    """
    rows = [
        (figures.name, wilson(evaluation.confusion[number][number], figures.photos))
        for number, figures in enumerate(evaluation.per_class)
        if figures.photos
    ]
    rows = sorted(rows, key=lambda row: row[1].value)[:_MOST_CLASSES][::-1]
    with _draw("classes", 6.0, 0.9 + 0.27 * len(rows)) as plot:
        axes = plot.axes
        places = list(range(len(rows)))
        _draw_intervals(axes, places, [share for _, share in rows], vertical=False)
        axes.scatter(
            [share.value for _, share in rows], places, s=36, color=_ACCENT, zorder=3, clip_on=False
        )
        axes.set_yticks(places, [_shorten(name) for name, _ in rows], parse_math=False)
        axes.set(xlim=(0, 1.02), xlabel="of its photos answered right")
        axes.grid(axis="y", visible=False)
        _percent_axis(axes.xaxis)
    return plot.svg


def _draw_intervals(
    axes: Any,
    places: Sequence[float],
    shares: Sequence[Estimate],
    *,
    vertical: bool,
    color: str = _ACCENT,
) -> None:
    lows, highs = [s.low for s in shares], [s.high for s in shares]
    lines = axes.vlines if vertical else axes.hlines
    lines(places, lows, highs, color=color, linewidth=2, alpha=0.45)


def plot_history(history: Sequence[Mapping[str, Any]]) -> str:
    """Loss by epoch: of the photos trained on, and of those held out where there are any.

    Args:
        history: Epochs of one run of fine-tuning, as they are recorded.

    >>> rows = [{"number": n, "loss": 0.1, "validation_loss": None} for n in (1, 2)]
    >>> ">1.2<" in plot_history(rows), ">2<" in plot_history(rows)  # no parts of epochs
    (False, True)
    """
    with _draw("history", 6.0, 3.0) as plot:
        epochs = [row["number"] for row in history]
        plot.axes.plot(epochs, [row["loss"] for row in history], color=_OTHER, label="trained on")
        held_out = [row["validation_loss"] for row in history]
        if all(value is not None for value in held_out):
            plot.axes.plot(epochs, held_out, color=_ACCENT, marker="o", label="held out")
        plot.axes.set(xlabel="epoch", ylabel="loss")
        plot.axes.xaxis.get_major_locator().set_params(integer=True)
        plot.axes.legend()
    return plot.svg


def plot_learning_curve(curve: Any) -> str:
    """Accuracy by number of training photos, and the forecast.

    Args:
        curve: A `headstart.evaluation.learning_curve.LearningCurve`.
    """
    with _draw("learning", 6.0, 3.4) as plot:
        axes = plot.axes
        xs, shares = [p.photos for p in curve.points], [p.accuracy for p in curve.points]
        _draw_intervals(axes, xs, shares, vertical=True)
        axes.plot(xs, [share.value for share in shares], color=_ACCENT, marker="o")
        if curve.forecast:
            ahead = [curve.points[-1], *curve.forecast]
            xs = [point.photos for point in ahead]
            lows, highs = [p.accuracy.low for p in ahead], [p.accuracy.high for p in ahead]
            axes.fill_between(xs, lows, highs, color=_BAND, alpha=0.35, linewidth=0)
            values = [point.accuracy.value for point in ahead]
            axes.plot(xs, values, color=_OTHER, linestyle="--", label="forecast")
            axes.legend(loc="lower right")
        axes.set(xlabel="training photos", ylabel="accuracy", xlim=(0, None))
        _percent_axis(axes.yaxis)
    return plot.svg


def plot_labels(rows: Sequence[tuple[str, int, int, int]]) -> str:
    """For each label how many of its photos are found, and how often it is right when it is said.

    Args:
        rows: Name; of how many photos it is rightly said, how many have it, of how many it is said.
    """
    known = sorted((row for row in rows if row[2]), key=lambda row: row[1] / row[2])
    known = known[:_MOST_CLASSES][::-1]
    with _draw("labels", 6.0, 1.3 + 0.36 * len(known)) as plot:
        axes = plot.axes
        for step, colour, words, totals in (
            (0.14, _ACCENT, "of its photos, found", [row[2] for row in known]),
            (-0.14, _OTHER, "of those it is said of, right", [row[3] for row in known]),
        ):
            found = [(n + step, known[n][1], total) for n, total in enumerate(totals) if total]
            shares = [wilson(right, count) for _, right, count in found]
            places = [place for place, _, _ in found]
            _draw_intervals(axes, places, shares, vertical=False, color=colour)
            values = [share.value for share in shares]
            axes.scatter(values, places, s=30, color=colour, zorder=3, clip_on=False, label=words)
        names = [_shorten(row[0]) for row in known]
        axes.set_yticks(range(len(known)), names, parse_math=False)
        axes.set(xlim=(0, 1.02), ylim=(-0.6, len(known) - 0.4))
        axes.grid(axis="y", visible=False)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
        _percent_axis(axes.xaxis)
    return plot.svg


def plot_values(values: Floats, truths: Floats, half_width: float | None) -> str:
    """Answers by truths.

    Args:
        values: ``(photo,)`` answers.
        truths: ``(photo,)``.
        half_width: Of the interval around each answer, if there is one.
    """
    with _draw("values", 5.2, 4.4) as plot:
        axes = plot.axes
        low, high = _span(np.append(values, truths))
        axes.plot([low, high], [low, high], color=_INK, linestyle="--", linewidth=1, alpha=0.6)
        for shift in () if half_width is None else (-half_width, half_width):
            axes.plot([low, high], [low + shift, high + shift], color=_ACCENT, linewidth=0.8)
        axes.scatter(truths, values, s=26, color=_ACCENT, alpha=0.6, linewidth=0, zorder=3)
        axes.set(xlim=(low, high), ylim=(low, high), xlabel="true", ylabel="predicted")
    return plot.svg


def plot_residuals(values: Floats, truths: Floats, half_width: float | None) -> str:
    """Answers minus truths, by answers.

    Args:
        values: ``(photo,)`` answers.
        truths: ``(photo,)``.
        half_width: Of the interval around each answer, if there is one.
    """
    with _draw("residuals", 6.0, 3.0) as plot:
        axes, errors = plot.axes, values - truths
        axes.axhline(0, color=_INK, linestyle="--", linewidth=1, alpha=0.6)
        for shift in () if half_width is None else (-half_width, half_width):
            axes.axhline(shift, color=_ACCENT, linewidth=0.8)
        axes.scatter(values, errors, s=26, color=_OTHER, alpha=0.65, linewidth=0, zorder=3)
        axes.set(xlabel="predicted", ylabel="predicted minus true")
    return plot.svg


def _span(values: Floats) -> tuple[float, float]:
    """Ends of an axis with a little space, also where all values are the same."""
    low, high = float(values.min()), float(values.max())
    margin = 0.04 * (high - low) or max(abs(high), 1.0) * 0.05
    return low - margin, high + margin


def get_heat_colours() -> npt.NDArray[np.uint8]:
    """``(256, 3)`` colours of heat maps, from cold to hot, in steps that look equal.

    Raises:
        MissingPackageError: Matplotlib is not installed.
    """
    require_package("matplotlib", purpose="drawing heat maps")
    from matplotlib import colormaps

    table = colormaps["inferno"](np.arange(256))
    return np.asarray(np.round(255 * table[:, :3]), np.uint8)


def _shorten(name: str, most: int = 28) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
