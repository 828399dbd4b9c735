"""The report: one file that says what it should, escapes what comes from outside, and looks right in a real browser."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from markupsafe import escape

from pipeline.checkpoint import SolvedBlock
from pipeline.evaluation.error_analysis import Card, Gallery, Picture, near_duplicates
from pipeline.evaluation.metrics import METRICS, Comparison, Scores, compare
from pipeline.evaluation.report import columns, render_report, verdict
from pipeline.training.selection import Interval
from tests.evaluation.reports import made_up, report_of

AGAIN = {"out_of_fold_log_loss": 0.021, "out_of_fold_accuracy": 0.99}
CHROMIUM = Path("/usr/bin/chromium")
PLACES = ("american", "norwegian_forest", "exotic")
LONG = tuple(f"{place}_{coat}hair" for place in PLACES for coat in ("short", "long", "wire"))
CUT_OFF = """() => [...document.querySelectorAll("body *")].filter(element => {
  const box = element.getBoundingClientRect();
  const beyond = box.width > 0 && (box.right > innerWidth + 0.5 || box.left < -0.5);
  if (element.closest(".scroll") && !element.matches(".cell strong, .cell small")) return false;
  const hidden = element.scrollWidth > element.clientWidth + 1 && element.matches(".cell strong, .cell small, .head")
    || getComputedStyle(element).overflowX !== "visible" && element.scrollWidth > element.clientWidth + 1;
  return beyond || hidden;
}).map(element => element.outerHTML.slice(0, 120))"""


class Tags(HTMLParser):
    """Every tag of a page with its attributes; unbalanced ones are found."""

    VOID = ("meta", "link", "img")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


@pytest.mark.parametrize(
    "classes", [("<b>cat</b>", "dog & wolf"), ("<5 years", "C#", "🐱", "बिल्ली"), tuple(f"breed {n}" for n in range(25))]
)
def test_the_page_is_whole_whatever_the_number_of_classes(tmp_path: Path, classes: tuple[str, ...]) -> None:
    report = report_of(tmp_path, classes)
    page = render_report(report)
    assert page == render_report(report_of(tmp_path, classes)), "the same inputs give the same bytes"
    for metric in METRICS:
        assert metric.label in page
        for scores in report.scores.values():
            assert format(scores.metrics[metric.name], metric.format) in page
    for name in classes:
        assert f'<tr><th scope="row">{escape(name)}<small>' in page, "its row of the table of classes"
    assert ">0.987</td>" in page
    assert ">12.5%</td>" in page
    pairs = re.search(r"<th scope=\"row\">breed \d+</th><th scope=\"row\">breed \d+</th><td>\d of \d</td>", page)
    assert (pairs is not None) == ('<div class="confusion' not in page) == (len(classes) > 20)
    assert ("counts alike" in page) == (len(classes) > 2), "only then table and curves average otherwise"
    assert "photos deserve a second look" in page
    assert "probably" not in page
    assert "source: &lt;not markup&gt;" in page
    assert "<not markup>" not in page
    assert "<b>" not in page.replace('<b style="left', "")
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    images = [attributes for tag, attributes in tags.found if tag == "img"]
    assert len(images) > 20
    for image in images:
        assert image["alt"]
        assert str(image["src"]).startswith("data:image/jpeg;base64,")
    assert not re.search(r"https?://|<script|url\((?!#)|@import", page)
    ids = [attributes["id"] for _, attributes in tags.found if attributes.get("id")]
    targets = {str(attributes["href"])[1:] for tag, attributes in tags.found if tag == "a"}
    assert targets <= set(ids)
    assert len(set(ids)) == len(ids), "those of the charts too"
    assert len(page) < 5_000_000
    charts = re.findall(r'(?s)<svg class="chart" role="img" aria-label="[^"]+".*?</svg>', page)
    assert len(charts) == page.count("<svg") == 8
    for chart in charts:  # in the page's colours
        assert "#0000" not in chart
        assert "var(--line)" in chart
        assert "var(--soft)" in chart


@pytest.mark.parametrize(
    ("alpha", "epochs", "again", "chosen", "weights", "expected"),
    [
        (0.5, 3, {}, "validation: the fine-tuned weights, alpha = 0.5<", "The fine-tuned weights", "Unfreezing helped: "),
        (0, 3, {}, "validation: the frozen weights, alpha = 0<", "The frozen weights", "kept the frozen weights"),
        (0, 3, AGAIN, "validation: the frozen weights, alpha = 0<", "its head solved again", "Solving the head again helped: "),
        (0, 1, AGAIN, "Nothing to choose: only the head was", "its head solved again", "Solving the head again helped: "),
    ],
)
def test_the_page_says_what_was_chosen_and_why(
    tmp_path: Path, alpha: float, epochs: int, again: dict[str, float], chosen: str, weights: str, expected: str
) -> None:
    report = report_of(tmp_path, ("cat", "dog"), alpha=alpha)
    if again:
        fine_tuned = report_of(tmp_path, ("cat", "dog"))
        report = replace(report, scores=fine_tuned.scores, comparison=fine_tuned.comparison)
    report.infos["finetuned"].metrics.update(again)
    report = replace(report, epochs=report.epochs.head(epochs))
    page = render_report(report).replace("&nbsp;", " ")
    assert expected in verdict(report)
    assert verdict(report) in page
    assert report.infos["finetuned"].note in page
    assert chosen in page
    assert f"{weights}, 95% interval" in page
    assert ("Epoch 0 is the frozen checkpoint" in page) == (epochs > 1), "one point is no curve"
    assert ("Gains over the frozen checkpoint" in page) == bool(alpha or again), "equal weights have no gains to show"


@pytest.mark.parametrize(
    ("p_value", "accuracy", "log_loss", "expected"),
    [
        (0.01, (0.1, 0.05, 0.2), (0.1, 0.05, 0.2), "Unfreezing helped: "),
        (0.01, (0.1, 0.05, 0.2), (-0.1, -0.2, -0.05), "Unfreezing helped by accuracy: .*; the log-loss is higher beyond"),
        (0.50, (0.1, -0.1, 0.2), (0.0, -0.1, 0.1), "Whether unfreezing helped, these photos cannot show: "),
        (0.50, (0.1, -0.1, 0.2), (0.1, 0.05, 0.2), "helped by accuracy, these photos cannot show: .*; the log-loss is lower b"),
        (0.01, (0.1, -0.1, 0.2), (0.0, -0.1, 0.1), "helped, these photos cannot show: .* = 0.01 if photos that look alike"),
    ],
)
def test_the_verdict_says_no_more_and_no_less_than_both_intervals_and_the_test(
    tmp_path: Path, p_value: float, accuracy: tuple[float, ...], log_loss: tuple[float, ...], expected: str
) -> None:
    comparison = Comparison(1, 9, p_value, Interval(*accuracy), Interval(*log_loss), 0.95)
    found = verdict(replace(report_of(tmp_path, ("cat", "dog")), comparison=comparison)).replace("\u00a0", " ")
    assert re.search(expected, found)
    assert ("beyond chance" in found) == ("beyond" in expected or "log-loss" in expected)


@pytest.mark.parametrize(
    ("section", "key", "usual", "other", "text"),
    [
        ("preprocess", "duplicates", "group", "ignore", "those that look alike drawn together"),
        ("head", "class_weight", "balanced", "none", "where classes are equally frequent, not at the"),
    ],
)
def test_the_page_vouches_for_what_the_settings_did(
    tmp_path: Path, section: str, key: str, usual: str, other: str, text: str
) -> None:
    pages = [render_report(report_of(tmp_path, ("cat", "dog"), **{section: {key: value}})) for value in (usual, other)]
    assert [text in page for page in pages] == [True, False]


@pytest.mark.parametrize(("factors", "kept"), [((1.0,), "concatenated"), ((0.4, 0.7), "blended")])
def test_heads_on_several_backbones_are_listed_and_the_kept_one_is_marked(
    tmp_path: Path, factors: tuple[float, ...], kept: str
) -> None:
    report = report_of(tmp_path, ("cat", "dog"), alpha=0)
    assert "Several backbones" not in render_report(report)
    tried = {"a_net alone": 0.0342, "b_net alone": 0.0263, "blended": 0.0241, "concatenated": 0.0229}
    solved = tuple(SolvedBlock(width=8, l2=1.0, factor=factor) for factor in factors)
    report.infos["frozen"] = report.infos["frozen"].model_copy(update={"heads_tried": tried, "solved": solved})
    page = render_report(report)
    rows = {name: re.search(rf'<th scope="row">{name}(.*?)</tr>', page.replace("\u200b", "")) for name in tried}
    for name, row in rows.items():
        assert row is not None
        assert f">{tried[name]:.4f}<" in row[1]
        assert (">kept<" in row[1]) == (name == kept)
    assert [bool(row and "times in the blend" in row[1]) for row in rows.values()] == [kept == "blended"] * 2 + [False] * 2


@pytest.mark.parametrize(("cards", "pictures", "wide"), [(24, 1, 6), (7, 1, 4), (13, 1, 5), (3, 2, 6), (4, 2, 4), (0, 1, 6)])
def test_the_last_row_of_a_gallery_is_as_full_as_it_can_be(cards: int, pictures: int, wide: int) -> None:
    one = Card([Picture("data:", 1, 1, "a photo")] * pictures, "title", "note")
    assert columns(Gallery("anchor", "title", "text", [one] * cards), 4, 6) == wide


def test_near_duplicates_show_every_label_and_what_they_do_to_intervals(tmp_path: Path) -> None:
    photos, _ = made_up(tmp_path, ("cat", "dog"), count=12)  # those after the tenth are alone
    gallery, none = near_duplicates(photos, "group"), near_duplicates(photos[10:], "group")
    assert {card.title for card in gallery.cards} == {"1 × cat, 1 × dog"}
    assert ("Wilson" in gallery.text, "Wilson" in none.text) == (True, False)
    for one, looked_for in ((gallery, True), (near_duplicates(photos, "ignore"), False)):
        assert ("none of them was trained on" in one.text) == looked_for
        assert ("Only equal pixels were looked for" in one.text) != looked_for


def test_curves_of_a_good_model_are_zoomed_in_and_also_shown_whole(tmp_path: Path) -> None:
    report = report_of(tmp_path, ("cat", "dog"))
    assert "oomed in" not in render_report(report)
    labels = np.arange(1000) % 2
    probabilities = np.where(labels[:, None] == np.arange(2), 0.99, 0.01)
    probabilities[0] = 0.001, 0.999  # a mistake
    scores = Scores(labels, probabilities, ("cat", "dog"), 0.95)
    page = render_report(replace(report, scores={"frozen": scores, "finetuned": scores}))
    assert "<title>99.90% on" in page
    assert page.count("Only the corner of a good model is shown: 2% of either axis") == 2
    assert page.count(", zoomed in</h3>") == page.count(">whole</text>") == 2


def test_a_perfect_model_has_no_empty_tables_and_no_tiny_gains(tmp_path: Path) -> None:
    labels = np.arange(100) % 25
    one = Scores(labels, np.eye(25)[labels], tuple(f"breed {n}" for n in range(25)), 0.95)
    almost = Scores(labels, 0.999999999 * one.probabilities + 0.000000001 / 25, one.classes, 0.95)
    scores = {"frozen": one, "finetuned": almost}
    report = replace(report_of(tmp_path, ("cat", "dog")), scores=scores, comparison=compare(one, almost, range(100)))
    page = render_report(report)
    assert "No classes are confused" in page
    assert 'class="dense pairs"' not in page
    assert "log-loss +0.000 nats" in page
    assert "gain in accuracy: Accuracy 0.0000, -0.0370 to 0.0370" in page
    assert not re.search(r"\de[−-]?\d+</text>", page), "no ticks such as 2e-13"


def test_hundreds_of_classes_fit_on_a_small_page(tmp_path: Path) -> None:
    random, labels = np.random.default_rng(0), np.arange(400) % 200
    values = random.dirichlet(np.full(200, 0.1), 400) + 0.2 * np.eye(200)[labels]
    one = Scores(labels, values / values.sum(1, keepdims=True), tuple(f"a species of long name {n}" for n in range(200)), 0.95)
    page = render_report(replace(report_of(tmp_path, ("cat", "dog")), scores={"frozen": one, "finetuned": one}))
    assert len(page.encode()) < 500_000
    listed = re.findall(r"<tr><th scope=\"row\">([^<]*)<small>2 photos", page)
    recalls = [one.per_class[name]["recall"] for name in listed]
    assert (len(listed), recalls) == (200, sorted(recalls))


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("classes", [("cat", "dog"), LONG[:5], LONG, tuple(f"breed {n}" for n in range(25))])
def test_a_browser_shows_it_without_fault(tmp_path: Path, classes: tuple[str, ...], width: int, scheme: str) -> None:
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}; on Debian: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    page_file = tmp_path / "report.html"
    report = report_of(tmp_path, classes)
    tried = {"a_backbone_of_a_very_long_name.in1k alone": 0.03, "blended": 0.02, "concatenated": 0.02}
    report.infos["frozen"] = report.infos["frozen"].model_copy(update={"heads_tried": tried})
    page_file.write_text(render_report(report), encoding="utf-8")
    reported: list[str] = []
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=arguments)
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("console", lambda message: reported.append(message.text))
        page.on("pageerror", lambda error: reported.append(str(error)))
        page.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else reported.append(request.url))
        page.goto(page_file.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate(CUT_OFF) == []
        assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0 && image.alt)")
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", paper)[:3])) < 200) == (scheme == "dark")
        browser.close()
    assert reported == []
