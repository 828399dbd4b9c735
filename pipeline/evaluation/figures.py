"""Charts as SVG for a page: drawn with the page's own colours, so that they follow it into the dark.

chart = line_chart([Line("frozen", "first", [(0, 0), (1, 1)])], x=Axis("false positives"), y=Axis("true positives"))

A chart names CSS classes (axis, grid, first, second, faint, wrong) and leaves colours to the style sheet. All are 380 units
wide and scale with the page.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 380, 300
LEFT, RIGHT, TOP, BOTTOM = 54, 12, 12, 44
NAMED = 96  # where a chart with names before its rows begins
MAX_POINTS = 300
Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """A label, and the bounds; without bounds the axis reaches from the least value to the greatest."""

    label: str
    low: float | None = None
    high: float | None = None
    percent: bool = False


@dataclass(frozen=True)
class Line:
    """Points joined by a line, and dots on them where radii are given; `style` is a CSS class."""

    name: str
    style: str
    points: Sequence[Point]
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
    """From values to places."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.high, self.start, self.end = low, high, start, end

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 2)


def line_chart(
    lines: Sequence[Line], *, x: Axis, y: Axis, description: str, diagonal: bool = False, marked: Point | None = None
) -> Markup:
    """Lines over a grid.

    Args:
        lines: drawn in order, at most 300 points each.
        x, y: the axes.
        description: what the chart shows, for those who cannot see it.
        diagonal: draw the line x = y, faintly.
        marked: a point to put a ring around.
    """
    across, x_ticks = _scale(x, [point[0] for line in lines for point in line.points], LEFT, WIDTH - RIGHT)
    up, y_ticks = _scale(y, [point[1] for line in lines for point in line.points], HEIGHT - BOTTOM, TOP)
    parts = [_grid(across, up, x_ticks, y_ticks, x, y)]
    if diagonal:
        parts.append(_path([(across(v), up(v)) for v in (max(across.low, up.low), min(across.high, up.high))], "diagonal"))
    for line in lines:
        places = [(across(a), up(b)) for a, b in _thinned(line.points)]
        parts.append(_path(places, f"line {line.style}"))
        for (a, b), radius in zip(line.points, line.radii, strict=False):
            parts.append(f'<circle class="dot {line.style}" cx="{across(a)}" cy="{up(b)}" r="{radius:.3g}"/>')
    if marked is not None:
        parts.append(f'<circle class="ring" cx="{across(marked[0])}" cy="{up(marked[1])}" r="7"/>')
    return _svg(parts, HEIGHT, description)


def histogram(right: Sequence[int], wrong: Sequence[int], *, low: float, high: float, x: Axis, description: str) -> Markup:
    """How many predictions of each confidence were right, and how many wrong, stacked, on a scale of square roots.

    Args:
        right, wrong: counts of equally wide bins from `low` to `high`.
        low, high: bounds of the bins.
        x: the axis.
        description: what the chart shows.
    """
    most = max(max(a + b for a, b in zip(right, wrong, strict=True)), 1)
    across = _Scale(low, high, LEFT, WIDTH - RIGHT)
    # Square roots, because the few mistakes are what is looked for and would be invisible beside thousands of right ones.
    up = _Scale(0, math.sqrt(most), HEIGHT - BOTTOM, TOP)
    ticks = sorted({0, *(round(most * share) for share in (0.04, 0.25, 1.0))})
    y = Axis("photos (square-root scale)")
    parts = [_grid(across, _Rooted(up), _ticks(low, high), [float(tick) for tick in ticks], x, y)]
    width = (high - low) / len(right)
    for index, (good, bad) in enumerate(zip(right, wrong, strict=True)):
        left, end = across(low + index * width) + 1, across(low + (index + 1) * width) - 1
        bottom = up(0)
        for count, style, below in ((bad, "wrong", 0), (good, "right", bad)):
            if count:
                top, floor = up(math.sqrt(below + count)), up(math.sqrt(below)) if below else bottom
                parts.append(
                    f'<rect class="bar {style}" x="{left:.2f}" y="{top}" width="{end - left:.2f}" height="{floor - top:.2f}"/>'
                )
    return _svg(parts, HEIGHT, description)


def range_chart(ranges: Sequence[Range], *, x: Axis, description: str, zero: bool = False) -> Markup:
    """Values with their intervals on one scale, a row each.

    Args:
        ranges: from the top down.
        x: the axis.
        description: what the chart shows.
        zero: draw a line at 0.
    """
    row, top = 34, 8
    height = top + row * len(ranges) + BOTTOM
    values = [value for one in ranges for value in (one.low, one.high)] + ([0.0] if zero else [])
    across, ticks = _scale(x, values, NAMED, WIDTH - 18)
    parts = []
    for tick in ticks:
        parts.append(_path([(across(tick), top), (across(tick), height - BOTTOM)], "grid"))
        parts.append(
            f'<text class="tick" x="{across(tick)}" y="{height - BOTTOM + 17}" text-anchor="middle">{_told(tick, x)}</text>'
        )
    if zero:
        parts.append(_path([(across(0), top), (across(0), height - BOTTOM)], "zero"))
    for index, one in enumerate(ranges):
        middle = top + row * index + row / 2
        parts.append(f'<text class="name" x="{NAMED - 12}" y="{middle + 4}" text-anchor="end">{escape(one.name)}</text>')
        parts.append(_path([(across(one.low), middle), (across(one.high), middle)], f"whisker {one.style}"))
        parts.append(f'<circle class="dot {one.style}" cx="{across(one.value)}" cy="{middle}" r="5"/>')
    parts.append(
        f'<text class="label" x="{(NAMED + WIDTH - 18) / 2}" y="{height - 6}" text-anchor="middle">{escape(x.label)}</text>'
    )
    return _svg(parts, height, description)


class _Rooted:
    """A scale of square roots."""

    def __init__(self, scale: _Scale) -> None:
        self._scale, self.start, self.end = scale, scale.start, scale.end

    def __call__(self, value: float) -> float:
        return self._scale(math.sqrt(value))


def _scale(axis: Axis, values: Sequence[float], start: float, end: float) -> tuple[_Scale, list[float]]:
    """The scale of an axis and its ticks; bounds that were not given are moved out to the next tick."""
    low = min(values, default=0.0) if axis.low is None else axis.low
    high = max(values, default=1.0) if axis.high is None else axis.high
    if high - low < 1e-9:
        low, high = low - 0.5 * abs(low) - 1e-3, high + 0.5 * abs(high) + 1e-3
    step = _step(low, high)
    low = math.floor(low / step + 1e-9) * step if axis.low is None else low
    high = math.ceil(high / step - 1e-9) * step if axis.high is None else high
    return _Scale(low, high, start, end), _ticks(low, high)


def _step(low: float, high: float) -> float:
    """The distance of ticks: 1, 2 or 5 times a power of ten, such that there are four to nine of them."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    return power * next(factor for factor in (1, 2, 5, 10) if rough <= factor * power * (1 + 1e-9))


def _ticks(low: float, high: float) -> list[float]:
    step = _step(low, high)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 10) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _grid(across: _Scale, up: _Scale | _Rooted, x_ticks: list[float], y_ticks: list[float], x: Axis, y: Axis) -> str:
    parts = []
    for tick in x_ticks:
        parts.append(_path([(across(tick), up.start), (across(tick), up.end)], "grid"))
        parts.append(f'<text class="tick" x="{across(tick)}" y="{up.start + 16}" text-anchor="middle">{_told(tick, x)}</text>')
    for tick in y_ticks:
        parts.append(_path([(across.start, up(tick)), (across.end, up(tick))], "grid"))
        parts.append(f'<text class="tick" x="{across.start - 6}" y="{up(tick) + 4}" text-anchor="end">{_told(tick, y)}</text>')
    middle_x, middle_y = (across.start + across.end) / 2, (up.start + up.end) / 2
    parts.append(f'<text class="label" x="{middle_x}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x.label)}</text>')
    parts.append(
        f'<text class="label" transform="rotate(-90 11 {middle_y})" x="11" y="{middle_y}" text-anchor="middle">'
        f"{escape(y.label)}</text>"
    )
    return "".join(parts)


def _thinned(points: Sequence[Point]) -> Sequence[Point]:
    """At most `MAX_POINTS` of the points, the last one among them."""
    step = max(math.ceil(len(points) / MAX_POINTS), 1)
    return [*points[:-1:step], *points[-1:]]


def _path(places: Sequence[Point], style: str) -> str:
    return f'<path class="{style}" d="M{" ".join(f"{a:g},{b:g}" for a, b in places)}"/>'


def _told(value: float, axis: Axis) -> str:
    return f"{value * 100:.4g}%" if axis.percent else f"{value:,.4g}"


def _svg(parts: Sequence[str], height: int, description: str) -> Markup:
    opening = f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(description)}">'
    return Markup(opening + "".join(parts) + "</svg>")  # everything that comes from outside was escaped above
