"""Charts: points where they belong, ticks that read well, text escaped."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.figures import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    Line,
    Range,
    histogram,
    line_chart,
    range_chart,
)

UNIT = Axis("x", 0, 1)


def places(chart: str, style: str) -> list[tuple[float, float]]:
    found = re.search(rf'<path class="{style}" d="M([^"]+)"', chart)
    assert found
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in found[1].split())]


def test_corners_of_the_data_are_corners_of_the_chart() -> None:
    chart = line_chart([Line("first", [(0, 0), (1, 1)])], x=UNIT, y=UNIT, description="d")
    assert places(chart, "line first") == [(LEFT, HEIGHT - BOTTOM), (WIDTH - RIGHT, TOP)]


def test_points_that_would_not_be_seen_are_left_out() -> None:
    points = [(index / 9999, (index / 9999) ** 2) for index in range(10_000)]
    drawn = places(line_chart([Line("first", points)], x=UNIT, y=UNIT, description="d"), "line first")
    assert len(drawn) < 500
    assert (drawn[0], drawn[-1]) == ((LEFT, HEIGHT - BOTTOM), (WIDTH - RIGHT, TOP))


def test_a_line_is_cut_off_at_the_axes() -> None:
    """The line x + y = 1 in the corner from 0 to 0.2 and from 0.8 to 1 is the diagonal of the chart."""
    corner = line_chart([Line("first", [(0, 1), (1, 0)])], x=Axis("x", 0, 0.2), y=Axis("y", 0.8, 1), description="d")
    (left, top), (right, bottom) = places(corner, "line first")
    assert (left, top) == (LEFT, TOP)
    assert (right, bottom) == pytest.approx((WIDTH - RIGHT, HEIGHT - BOTTOM), abs=0.01)


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_any_values_lie_within_the_chart_between_a_few_ticks(one: float, other: float) -> None:
    chart = line_chart([Line("first", [(0, one), (1, other)])], x=UNIT, y=Axis("y"), description="d")
    assert all(TOP - 0.1 <= y <= HEIGHT - BOTTOM + 0.1 for _, y in places(chart, "line first"))
    assert 2 <= chart.count('text-anchor="end"') <= 12


def test_text_is_escaped() -> None:
    chart = range_chart([Range("<i>", "first", 0.5, 0.4, 0.6)], x=Axis("a & b"), description='"quoted"')
    assert "<i>" not in chart
    assert "a &amp; b" in chart
    assert "&#34;quoted&#34;" in chart


def test_bars_are_as_high_as_the_roots_of_their_counts() -> None:
    chart = histogram([100, 25, 0], [0, 0, 0], x=Axis("x", 0.5, 1), description="d")
    heights = [float(height) for height in re.findall(r'class="bar right".*?height="([\d.]+)"', chart)]
    assert heights == pytest.approx([HEIGHT - TOP - BOTTOM, (HEIGHT - TOP - BOTTOM) / 2], abs=0.1)
