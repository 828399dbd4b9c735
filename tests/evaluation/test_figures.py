"""Charts: in the page's colours, with nothing from outside the page, and the same in every run."""

from pathlib import Path
from xml.etree import ElementTree

from pipeline.evaluation.comparison import Interval
from pipeline.evaluation.figures import COLOURS, accuracy_chart, draw_charts, gain_charts
from tests.evaluation.reports import report_of


def test_charts_are_whole_and_follow_the_page(tmp_path: Path) -> None:
    report = report_of(tmp_path, ("cat", "dog"))
    equal = gain_charts(report.comparison.__class__(0, 0, 1.0, Interval(0.0, 0.0, 0.0), Interval(0.0, 0.0, 0.0), 0.95))

    def drawn() -> list[str]:
        charts = draw_charts(report.scores, report.epochs, 1, report.alpha)
        return [*(chart.svg for chart in charts), accuracy_chart(report.scores), *gain_charts(report.comparison), *equal]

    charts = drawn()
    assert drawn() == charts
    ids = [identifier for chart in charts[:8] for identifier in _ids(chart)]
    assert len(set(ids)) == len(ids)
    for chart in charts:
        assert chart.startswith('<svg class="chart" role="img" aria-label="')
        assert "http" not in chart
        assert "#0000" not in chart
        assert {name for name in COLOURS if f"var(--{name})" in chart} >= {"line", "soft"}
    assert "gain in accuracy: Accuracy 0.0000, 0.0000 to 0.0000" in equal[0]


def _ids(chart: str) -> list[str]:
    tree = ElementTree.fromstring(chart.replace("xlink:href", "href"))
    return [element.attrib["id"] for element in tree.iter() if "id" in element.attrib]
