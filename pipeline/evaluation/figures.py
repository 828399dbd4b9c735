"""Charts as SVG inside a page, drawn with the page's own colours, so that they follow it into dark mode.

chart = line_chart([Line("first", [(0, 0), (1, 1)])], x=Axis("false positives"), y=Axis("true positives"), description="...")

A chart names CSS classes (grid, first, second, faint, wrong) and leaves colours to the style sheet. All are 380 units wide and
scale with the page.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator

WIDTH, HEIGHT = 380, 300
LEFT, RIGHT, TOP, BOTTOM = 54, 12, 12, 44
NAMED = 96  # where the scale of a chart with named rows begins
ROW = 34
Points = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Axis:
    """A label and the bounds; without bounds the axis reaches from the tick below all values to the one above them."""

    label: str
    low: float | None = None
    high: float | None = None
    percent: bool = False

    def tick_label(self, value: float) -> str:
        """The value as it is written at the axis."""
        return f"{value * 100:.4g}%" if self.percent else f"{value:,.4g}"


@dataclass(frozen=True)
class Line:
    """Points joined by a line, and dots on them where radii are given; `style` is a CSS class."""

    style: str
    points: Points
    radii: Sequence[float] = ()


@dataclass(frozen=True)
class Range:
    """A value and its interval, with a name before it."""

    name: str
    style: str
    value: float
    low: float
    high: float


class _Scale:
    """From values to places between `start` and `end`, linear after `transform`; with the ticks of its axis."""

    def __init__(
        self,
        axis: Axis,
        values: Sequence[float],
        start: float,
        end: float,
        *,
        transform: Callable[[float], float] = float,
        ticks: Sequence[float] | None = None,
    ) -> None:
        low = axis.low if axis.low is not None else min(values, default=0.0)
        high = axis.high if axis.high is not None else max(values, default=1.0)
        if high - low < 1e-9:
            low, high = low - 0.5 * abs(low) - 1e-3, high + 0.5 * abs(high) + 1e-3
        nice = MaxNLocator(nbins=6, steps=[1, 2, 5, 10]).tick_values(low, high)
        self.low = low if axis.low is not None else min(low, float(nice[0]))
        self.high = high if axis.high is not None else max(high, float(nice[-1]))
        slack = 1e-9 * (self.high - self.low)
        inside = [float(tick) for tick in nice if self.low - slack <= tick <= self.high + slack]
        self.axis, self.start, self.end, self.ticks, self._transform = axis, start, end, ticks or inside, transform

    def __call__(self, value: float) -> float:
        low, high = self._transform(self.low), self._transform(self.high)
        return round(self.start + (self._transform(value) - low) / (high - low) * (self.end - self.start), 2)


def line_chart(
    lines: Sequence[Line],
    *,
    x: Axis,
    y: Axis,
    description: str,
    diagonal: bool = False,
    marked: Sequence[float] | None = None,
) -> Markup:
    """Lines over a grid; what lies beyond the axes is not drawn.

    `description` is for those who cannot see the chart. `diagonal` adds the line x = y, and `marked` a ring around a point.
    """
    across = _Scale(x, [point[0] for line in lines for point in line.points], LEFT, WIDTH - RIGHT)
    up = _Scale(y, [point[1] for line in lines for point in line.points], HEIGHT - BOTTOM, TOP)
    parts = _axes(across, up)
    if diagonal:
        ends = min(across.low, up.low), max(across.high, up.high)
        parts.append(_clipped([(across(value), up(value)) for value in ends], "diagonal"))
    for line in lines:
        places = [(across(a), up(b)) for a, b in line.points]
        parts.append(_clipped(places, f"line {line.style}"))
        parts += [_dot(a, b, radius, line.style) for (a, b), radius in zip(places, line.radii, strict=False)]
    if marked is not None:
        parts.append(f'<circle class="ring" cx="{across(marked[0])}" cy="{up(marked[1])}" r="7"/>')
    return _svg(parts, HEIGHT, description)


def histogram(right: Sequence[int], wrong: Sequence[int], *, x: Axis, description: str) -> Markup:
    """Right and wrong predictions in equally wide bins over the axis, stacked, on a square-root scale.

    On a linear scale a few mistakes would be invisible below thousands of right predictions.
    """
    highest = max(max(a + b for a, b in zip(right, wrong, strict=True)), 1)
    across = _Scale(x, [], LEFT, WIDTH - RIGHT)
    ticks = sorted({0.0, *(float(round(highest * fraction)) for fraction in (0.04, 0.25, 1.0))})
    y = Axis("photos (square-root scale)", 0, highest)
    up = _Scale(y, [], HEIGHT - BOTTOM, TOP, transform=math.sqrt, ticks=ticks)
    parts = _axes(across, up)
    edges = [across(value) for value in np.linspace(across.low, across.high, len(right) + 1)]
    for left, end, good, bad in zip(edges, edges[1:], right, wrong, strict=False):
        for style, low, high in (("wrong", 0, bad), ("right", bad, bad + good)):
            if high > low:
                size = f'width="{end - left - 2:.2f}" height="{up(low) - up(high):.2f}"'
                parts.append(f'<rect class="bar {style}" x="{left + 1:.2f}" y="{up(high)}" {size}/>')
    return _svg(parts, HEIGHT, description)


def range_chart(ranges: Sequence[Range], *, x: Axis, description: str, zero: bool = False) -> Markup:
    """Values with their intervals on one scale, a row each from the top down; `zero` draws a line at 0."""
    bottom = 8 + ROW * len(ranges)
    values = [value for one in ranges for value in (one.low, one.high)] + ([0.0] if zero else [])
    across = _Scale(x, values, NAMED, WIDTH - 18)
    parts = _ticks(across, 8, bottom)
    if zero:
        parts.append(_path([(across(0), 8), (across(0), bottom)], "zero"))
    for index, one in enumerate(ranges):
        middle = 8 + ROW * index + ROW / 2
        parts.append(_text(one.name, NAMED - 12, middle + 4, "end", "name"))
        parts.append(_path([(across(one.low), middle), (across(one.high), middle)], f"whisker {one.style}"))
        parts.append(_dot(across(one.value), middle, 5, one.style))
    parts.append(_text(x.label, (NAMED + WIDTH - 18) / 2, bottom + BOTTOM - 6, "middle", "label"))
    return _svg(parts, bottom + BOTTOM, description)


def _axes(across: _Scale, up: _Scale) -> list[str]:
    """The grid of both axes with ticks and labels."""
    middle = (up.start + up.end) / 2
    parts = _ticks(across, up.end, up.start)
    for tick in up.ticks:
        parts.append(_path([(across.start, up(tick)), (across.end, up(tick))], "grid"))
        parts.append(_text(up.axis.tick_label(tick), across.start - 6, up(tick) + 4, "end", "tick"))
    parts.append(_text(across.axis.label, (across.start + across.end) / 2, HEIGHT - 6, "middle", "label"))
    parts.append(f'<g transform="rotate(-90 11 {middle})">{_text(up.axis.label, 11, middle, "middle", "label")}</g>')
    return parts


def _ticks(across: _Scale, top: float, bottom: float) -> list[str]:
    """The grid of the horizontal axis."""
    parts = []
    for tick in across.ticks:
        parts.append(_path([(across(tick), top), (across(tick), bottom)], "grid"))
        parts.append(_text(across.axis.tick_label(tick), across(tick), bottom + 16, "middle", "tick"))
    return parts


def _clipped(places: Points, style: str) -> str:
    """A line without what lies beyond the axes, and without points that would not be seen."""
    inside = (LEFT + 1, TOP + 1, WIDTH - RIGHT - 1, HEIGHT - BOTTOM - 1)  # Matplotlib leaves a margin of 1
    path = Path(np.array(places, dtype=float)).cleaned(clip=inside, simplify=True)
    pieces: list[list[list[float]]] = []
    for place, code in zip(np.asarray(path.vertices).tolist(), np.asarray(path.codes).tolist(), strict=True):
        if code == Path.MOVETO:
            pieces.append([place])
        elif code == Path.LINETO and place != pieces[-1][-1]:
            pieces[-1].append(place)
    return "".join(_path(piece, style) for piece in pieces)


def _path(places: Points, style: str) -> str:
    return f'<path class="{style}" d="M{" ".join(f"{a:.6g},{b:.6g}" for a, b in places)}"/>'


def _dot(x: float, y: float, radius: float, style: str) -> str:
    return f'<circle class="dot {style}" cx="{x}" cy="{y}" r="{radius:.3g}"/>'


def _text(text: str, x: float, y: float, anchor: str, style: str) -> str:
    return f'<text class="{style}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(parts: Sequence[str], height: float, description: str) -> Markup:
    opening = f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(description)}">'
    return Markup(opening + "".join(parts) + "</svg>")  # everything that comes from outside was escaped above
