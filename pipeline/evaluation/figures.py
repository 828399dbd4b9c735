"""Figures of the report: Matplotlib's charts as SVG in the page's colours and font, so that they follow it into dark mode."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from pipeline.evaluation.metrics import Comparison, Scores

NAMES = {"frozen": "Frozen", "finetuned": "Fine-tuned"}
STYLES = {"frozen": "first", "finetuned": "second"}  # the page's CSS variables and classes
LEGEND = {NAMES[name]: style for name, style in STYLES.items()}
PAGE_COLOURS = ("ink", "soft", "line", "faint", "card", *STYLES.values(), "right", "wrong")
COLOURS = {name: f"#0000{number:02x}" for number, name in enumerate(PAGE_COLOURS, 16)}  # stand in for the page's variables
WIDTH, HEIGHT = 380, 300  # in the SVG's own units; a chart scales with the page
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 12, 48
NAMED, ROW = 96, 34  # left margin and height of the rows of a chart with named rows
CONFIDENCE_BINS = 20
CORNERS = (0.02, 0.05, 0.1, 0.2, 0.5)  # how far ROC and precision-recall curves are zoomed in
STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 13,
    "axes.autolimit_mode": "round_numbers",
    "axes.xmargin": 0,
    "axes.ymargin": 0,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "grid.color": COLOURS["line"],
    "grid.linewidth": 1,
    "lines.linewidth": 2.2,
    "axes.labelcolor": COLOURS["soft"],
    **{f"axes.spines.{side}": False for side in ("left", "right", "top", "bottom")},
    **{f"{axis}tick.labelcolor": COLOURS["soft"] for axis in "xy"},
    **{f"{axis}tick.labelsize": 11.5 for axis in "xy"},
    **{f"{axis}tick.major.size": 0 for axis in "xy"},
    "xtick.major.pad": 8,
    "ytick.major.pad": 6,
}


class Chart(NamedTuple):
    """A chart with a title, a sentence and a legend (name -> CSS class)."""

    title: str
    text: str
    svg: Markup
    legend: Mapping[str, str]


@rc_context(STYLE)
def draw_charts(scores: Mapping[str, Scores], epochs: pd.DataFrame, best_epoch: int, alpha: float) -> list[Chart]:
    """Fine-tuning by epoch, where there are any; reliability, ROC, precision and recall, and confidence."""
    classes = scores["finetuned"].classes
    pairs = "every pair of a photo and a class counts alike, while the table’s areas are means over the classes"
    whose = f"“{classes[-1]}”" if len(classes) == 2 else pairs
    found = f"How many photos of a class are found, by how many others are taken for it: {whose}."
    correct = f"How many predictions of a class are correct, by how many of its photos are found: {whose}."
    lowest = 0.5 if len(classes) == 2 else 0.0  # confidence
    return [
        *([_training(epochs, best_epoch, alpha)] if len(epochs) > 1 else []),
        _reliability(scores, lowest),
        _curves({name: one.roc for name, one in scores.items()}, "ROC", found, ideal=(0, 1)),
        _curves({name: one.precision_recall for name, one in scores.items()}, "Precision and recall", correct, ideal=(1, 1)),
        _confidence(scores["finetuned"], lowest),
    ]


@rc_context(STYLE)
def accuracy_chart(scores: Mapping[str, Scores]) -> Markup:
    """Both checkpoints' accuracy with its interval."""
    rows = {NAMES[name]: (STYLES[name], one.metrics["accuracy"], *one.accuracy_interval) for name, one in scores.items()}
    return _intervals(rows, "accuracy on the test photos", percent="x")


@rc_context(STYLE)
def gain_charts(comparison: Comparison) -> list[Markup]:
    """The gains in accuracy and log-loss with their intervals; to the right of zero is better."""
    return [
        _intervals({"Accuracy": ("second", *comparison.accuracy_gain)}, "gain in accuracy", percent="x", zero=True),
        _intervals({"Log-loss": ("second", *comparison.log_loss_gain)}, "gain in log-loss, nats", zero=True),
    ]


def _training(epochs: pd.DataFrame, best_epoch: int, alpha: float) -> Chart:
    axes = _axes(xlabel="epoch", ylabel="log-loss, nats", xlim=(0, max(epochs["epoch"].max(), 1)))
    for column, style in (("train_loss", "faint"), ("val_log_loss", "second")):
        _line(axes, epochs[["epoch", column]].dropna(), style, radii=3)
    best = epochs[epochs["epoch"] == best_epoch]
    axes.scatter(best["epoch"], best["val_log_loss"], 14**2, "none", edgecolors=COLOURS["ink"], linewidths=1.4, clip_on=False)
    axes.set_ylim(bottom=0)
    svg = _svg(axes, f"Log-loss by epoch on training and validation photos; the chosen epoch is {best_epoch}")
    chosen = f"alpha = {alpha:.2g} of the way to epoch {best_epoch}" if alpha else "epoch 0"
    text = (
        f"Epoch 0 is the frozen checkpoint; chosen is {chosen}, ringed. Training photos are augmented, which makes them harder."
    )
    return Chart("Fine-tuning", text, svg, {"training": "faint", "validation": "second"})


def _reliability(scores: Mapping[str, Scores], lowest: float) -> Chart:
    axes = _axes("xy", xlabel="confidence", ylabel="accuracy", xlim=(lowest, 1), ylim=(0, 1))
    _diagonal(axes)
    for name, one in scores.items():
        radii = 2 + 5 * np.sqrt(one.reliability["photos"] / len(one.labels))
        _line(axes, one.reliability[["confidence", "accuracy"]], STYLES[name], radii)
    text = "Accuracy by confidence; larger dots are more photos. On the diagonal, confidence and accuracy are equal."
    return Chart("Reliability", text, _svg(axes, "Accuracy of both checkpoints by their confidence"), LEGEND)


def _curves(points: Mapping[str, pd.DataFrame], title: str, text: str, *, ideal: tuple[int, int]) -> Chart:
    """Both checkpoints' curves, zoomed in to the corner with the ideal model as far as the worse curve allows."""
    needed = 4 * max(float(np.abs(table.to_numpy() - ideal).max(1).min()) for table in points.values())
    size = next((corner for corner in CORNERS if corner >= needed), 1.0)
    xlim, ylim = ((at * (1 - size), at + (1 - at) * size) for at in ideal)
    xlabel, ylabel = (column.replace("_", " ") for column in points["frozen"].columns)
    axes = _axes("xy", xlabel=xlabel, ylabel=ylabel, xlim=xlim, ylim=ylim)
    if ideal == (0, 1):
        _diagonal(axes)
    for name, table in points.items():
        _line(axes, table, STYLES[name])
    zoomed = ""
    if size < 1:
        title, zoomed = f"{title}, zoomed in", f" Only the corner of a good model is shown: {size:.0%} of either axis."
        inset = axes.inset_axes((0.68 - 0.62 * ideal[0], 0.1, 0.26, 0.3), xlim=(0, 1), ylim=(0, 1), xticks=(), yticks=())
        inset.set_xlabel("whole", labelpad=4)
        inset.set_facecolor(COLOURS["card"])
        inset.spines[:].set(visible=True, color=COLOURS["faint"])
        for name, table in points.items():
            inset.plot(*table.to_numpy().T, color=COLOURS[STYLES[name]], linewidth=1.6, zorder=3)
        corner = (xlim[0], ylim[0])
        inset.add_patch(Rectangle(corner, size, size, fill=False, edgecolor=COLOURS["ink"], clip_on=False, zorder=4))
    if needed == 0:
        zoomed += " Both are perfect and lie on the edges."
    return Chart(title, text + zoomed, _svg(axes, f"{ylabel} by {xlabel}, for both checkpoints"), LEGEND)


def _confidence(scores: Scores, lowest: float) -> Chart:
    """How many predictions are right and wrong, stacked; on a linear scale a few wrong ones would not be seen."""
    edges = np.linspace(lowest, 1, CONFIDENCE_BINS + 1)
    right, wrong = (np.histogram(scores.confidence[part], edges)[0] for part in (scores.correct, ~scores.correct))
    highest = int((right + wrong).max())
    axes = _axes("x", xlabel="confidence", ylabel="photos (square-root scale)", xlim=(lowest, 1))
    axes.set_yscale("function", functions=(lambda value: np.sqrt(np.maximum(value, 0)), np.square))
    axes.set(ylim=(0, highest), yticks=sorted({0, *(round(highest * part) for part in (0.04, 0.25, 1))}))
    axes.yaxis.set_major_formatter("{x:,.4g}")
    middles, width = (edges[:-1] + edges[1:]) / 2, 0.87 * (edges[1] - edges[0])
    axes.bar(middles, wrong, width, color=COLOURS["wrong"])
    axes.bar(middles, right, width, bottom=wrong, color=COLOURS["right"])
    svg = _svg(axes, "How many predictions of the fine-tuned checkpoint are right and wrong, by confidence")
    text = "Confidence of the fine-tuned checkpoint’s predictions. Wrong ones should have a low one."
    return Chart("Confidence", text, svg, {"right": "right", "wrong": "wrong"})


def _intervals(
    rows: Mapping[str, tuple[str, float, float, float]], label: str, *, percent: str = "", zero: bool = False
) -> Markup:
    """Rows of name -> (style, value, low, high) on one scale, from the top down; `zero` draws a line at 0."""
    axes = _axes(percent, ROW * len(rows), left=NAMED, xlabel=label, ylim=(len(rows) - 0.5, -0.5))
    for row, (style, value, low, high) in enumerate(rows.values()):
        colour = COLOURS[style]
        axes.plot([low, high], [row, row], color=colour, clip_on=False, linewidth=5, alpha=0.38, solid_capstyle="round")
        axes.plot(value, row, "o", markersize=10, markeredgewidth=0, color=colour, clip_on=False)
    if zero:
        axes.axvline(0, color=COLOURS["soft"], linewidth=1.2, linestyle=(0, (3, 3)), clip_on=False)
    low, high = axes.dataLim.intervalx
    if high - low < 1e-6:
        axes.set_xlim(low - 0.01, high + 0.01)
    axes.set_yticks(range(len(rows)), list(rows), color=COLOURS["ink"], size=13)
    axes.grid(visible=False, axis="y")
    shown = (f"{name} {value:.4f}, {low:.4f} to {high:.4f}" for name, (_, value, low, high) in rows.items())
    return _svg(axes, f"{label}: {'; '.join(shown)}")


def _axes(percent: str = "", height: float = HEIGHT - TOP - BOTTOM, *, left: float = LEFT, **settings: Any) -> Axes:
    """Empty axes in a figure of their own; `percent` names those ("x", "y") whose ticks are percentages."""
    total = height + TOP + BOTTOM
    axes = Figure((WIDTH / 72, total / 72), dpi=72).add_axes(
        (left / WIDTH, BOTTOM / total, (WIDTH - RIGHT - left) / WIDTH, height / total)
    )
    for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        axis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
        axis.set_major_formatter((lambda x, _: f"{100 * x:.4g}%".replace("-", "−")) if name in percent else "{x:,.4g}")
    axes.xaxis.set_label_coords(0.5, -34 / height)
    axes.yaxis.set_label_coords(-50 / (WIDTH - RIGHT - left), 0.5)
    axes.set(**settings)
    return axes


def _line(axes: Axes, points: pd.DataFrame, style: str, radii: float | Sequence[float] = 0) -> None:
    """A line cut off at the axes, and dots on it where radii are given."""
    x, y = points.to_numpy().T
    [line] = axes.plot(x, y, color=COLOURS[style], solid_capstyle="round")
    line.set_clip_box(axes.bbox.padded(2))
    if np.any(radii):
        axes.scatter(x, y, 4 * np.square(radii), color=COLOURS[style], linewidths=0, clip_on=False, zorder=2)


def _diagonal(axes: Axes) -> None:
    axes.axline((0, 0), slope=1, color=COLOURS["faint"], linewidth=1, linestyle=(0, (4, 4)))


def _svg(axes: Axes, description: str) -> Markup:
    """The chart in the page's colours and font; `description` is for those who cannot see it."""
    figure: Any = axes.figure
    written = io.StringIO()
    with rc_context({"svg.hashsalt": description}):  # makes the chart's ids its own, and the same in every run
        figure.savefig(written, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = re.sub(r"(?s)^.*?<svg[^>]*viewBox=", "viewBox=", written.getvalue())
    text = re.sub(r"(?s) xmlns=.*?>", ">", text, count=1)
    text = re.sub(r"(?s)<style.*?</style>|(?<=<g) id=\"[^\"]*\"", "", text).replace("'DejaVu Sans'", "var(--sans)")
    for name, colour in COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    return Markup(f'<svg class="chart" role="img" aria-label="{escape(description)}" {text}')
