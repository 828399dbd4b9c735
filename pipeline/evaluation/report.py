"""report.html: metrics, figures, slices and galleries of both checkpoints on one page that needs no other file and no network.

page = render_report(Report(classes, scores, ...))

Words and layout are in report.html.j2; here are the figures, and the sentences that depend on numbers. The page is a function
of its inputs alone: it holds no time, no machine and no revision.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.checkpoint import MODEL_FILE, CheckpointInfo, library_versions
from pipeline.data.manifest import fingerprint
from pipeline.evaluation.comparison import Comparison
from pipeline.evaluation.error_analysis import NAMES, Gallery
from pipeline.evaluation.figures import Axis, Line, Range, histogram, line_chart, range_chart
from pipeline.evaluation.metrics import METRICS, Metric, Scores
from pipeline.evaluation.slices import Slice

STYLES = {"frozen": "first", "finetuned": "second"}
CONFIDENCE_BINS = 20
MAX_CLASSES_DRAWN = 12  # in a confusion matrix; of more, the most confused pairs are listed
CONFUSED_PAIRS = 12
CORNERS = (0.02, 0.05, 0.1, 0.2, 0.5)  # how far ROC and precision-recall curves are zoomed in
Provenance = Mapping[str, Sequence[tuple[str, str]]]  # heading -> (name, value) pairs


@dataclass(frozen=True)
class Report:
    """The content of the page."""

    scores: Mapping[str, Scores]  # of "frozen" and "finetuned" on the test photos
    mirrored: Mapping[str, Scores]  # the same with test-time augmentation, empty where it was not asked for
    comparison: Comparison  # of the fine-tuned checkpoint with the frozen one
    slices: Sequence[Slice]
    note: str  # which weights fine-tuning chose and why: a sentence of the fine-tuned checkpoint
    alpha: float  # of the chosen weights: 0 is the frozen checkpoint, 1 the weights of the best epoch
    epochs: pd.DataFrame  # epoch, train_loss (NaN for epoch 0, the frozen checkpoint) and val_log_loss
    best_epoch: int  # by validation; 0 where the frozen checkpoint was chosen
    galleries: Sequence[Gallery]
    provenance: Provenance
    settings: str  # of all sections but runtime, as YAML
    predictions_sha256: str


@dataclass(frozen=True)
class Figure:
    """A chart with a title, a sentence and a legend (name -> CSS class)."""

    title: str
    text: str
    chart: Markup
    legend: Mapping[str, str]


def render_report(report: Report) -> str:
    """The page, as HTML."""
    folder = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = lambda value, digits=1: f"{100 * value:.{digits}f}%"
    environment.filters["points"] = lambda value: f"{100 * value:+.1f}".replace("-", "−")
    return environment.get_template("report.html.j2").render(
        report=report,
        scores=report.scores,
        classes=report.scores["finetuned"].classes,
        num_photos=len(report.scores["finetuned"].labels),
        comparison=report.comparison,
        names=NAMES,
        styles=STYLES,
        level=f"{100 * report.comparison.confidence_level:.4g}%",
        verdict=verdict(report),
        metric_rows=[_metric_row(metric, report.scores) for metric in METRICS],
        overview=_overview(report.scores),
        gains=_gain_charts(report.comparison),
        agreement=_agreement(report),
        max_classes_drawn=MAX_CLASSES_DRAWN,
        confused=_confused_pairs(report.scores),
        figures=_figures(report),
        least_accuracy=math.floor(20 * min(low for one in report.slices for _, low, _ in one.accuracy.values())) / 20,
    )


def verdict(report: Report) -> str:
    """Whether unfreezing helped on the test photos, in one sentence."""
    if report.alpha == 0:
        return "The fine-tuned checkpoint has the frozen checkpoint’s weights, so both score the same."
    comparison = report.comparison
    counts = f"{comparison.only_second} photos only fine-tuned correct, {comparison.only_first} only frozen correct"
    evidence = f"{counts} (McNemar’s exact p = {comparison.p_value:.2g})"
    return {
        "better": f"Unfreezing helped: {evidence}.",
        "worse": f"Unfreezing hurt: {evidence}.",
        "no different": f"Whether unfreezing helped, these photos cannot show: {evidence}.",
    }[comparison.verdict]


def provenance(
    manifest: pd.DataFrame, infos: Mapping[str, CheckpointInfo], *, archive_sha256: str | None, num_parameters: int
) -> Provenance:
    """What the result was made from: photos, network, checkpoints and versions, as (name, value) pairs under headings."""
    tuned = infos["finetuned"]
    counts = manifest["split"].value_counts()
    size = " × ".join(map(str, tuned.preprocessing.input_size[1:]))
    return {
        "Photos": [
            ("archive", archive_sha256 or "none: drawn, or from a folder"),
            ("splits", ", ".join(f"{counts.get(split, 0):,} {split}" for split in ("train", "val", "test"))),
            ("not used", f"{counts.get('', 0):,} files"),
            ("test photos", fingerprint(manifest, "test")),
        ],
        "Network": [
            ("backbone", f"{tuned.backbone.name}, {num_parameters / 1e6:,.2f} million parameters"),
            ("weights", tuned.backbone.weights),
            ("sha256", tuned.backbone.weights_sha256 or "none: random"),
            ("input", f"{size} px, {tuned.preprocessing.interpolation}"),
        ],
        "Checkpoints": [(NAMES[name].lower(), info.files[MODEL_FILE]) for name, info in infos.items()],
        "Versions": list(library_versions().items()),
    }


def _metric_row(metric: Metric, scores: Mapping[str, Scores]) -> dict[str, Any]:
    """A row of the table; `best` names the better checkpoint, and nothing where the shown digits are equal."""
    values = {name: one.metrics[metric.name] for name, one in scores.items()}
    shown = {name: format(value, metric.format) for name, value in values.items()}
    best = (min if metric.lower_is_better else max)(values, key=values.__getitem__)
    return {"metric": metric, "shown": shown, "best": best if len(set(shown.values())) > 1 else ""}


def _overview(scores: Mapping[str, Scores]) -> Markup:
    ranges = [Range(NAMES[n], STYLES[n], s.metrics["accuracy"], *s.accuracy_interval) for n, s in scores.items()]
    description = "; ".join(f"{one.name} {one.value:.2%}, {one.low:.2%} to {one.high:.2%}" for one in ranges)
    return range_chart(ranges, x=Axis("accuracy on the test photos", percent=True), description=description)


def _gain_charts(comparison: Comparison) -> list[Markup]:
    charts = []
    for name, gain, axis in (
        ("Accuracy", comparison.accuracy_gain, Axis("gain in accuracy", percent=True)),
        ("Log-loss", comparison.log_loss_gain, Axis("gain in log-loss, nats")),
    ):
        description = f"{axis.label}: {gain.mean:.4f}, {gain.low:.4f} to {gain.high:.4f}"
        charts.append(range_chart([Range(name, "second", *gain)], x=axis, description=description, zero=True))
    return charts


def _agreement(report: Report) -> dict[str, int]:
    frozen, tuned = (report.scores[name].correct for name in NAMES)
    return {
        "both correct": int((frozen & tuned).sum()),
        "only fine-tuned correct": report.comparison.only_second,
        "only frozen correct": report.comparison.only_first,
        "both wrong": int((~frozen & ~tuned).sum()),
    }


def _confused_pairs(scores: Mapping[str, Scores]) -> list[dict[str, Any]]:
    """The classes that both checkpoints together confuse most often, and how often each does."""
    classes = scores["finetuned"].classes
    confusion = {name: one.confusion - np.diag(one.confusion.diagonal()) for name, one in scores.items()}
    total = np.sum(list(confusion.values()), axis=0)
    order = np.column_stack(np.unravel_index(np.argsort(-total, axis=None, kind="stable"), total.shape))
    return [
        {
            "actual": classes[actual],
            "predicted": classes[predicted],
            "counts": {name: int(counts[actual, predicted]) for name, counts in confusion.items()},
        }
        for actual, predicted in order[:CONFUSED_PAIRS].tolist()
        if total[actual, predicted]
    ]


def _figures(report: Report) -> list[Figure]:
    classes = report.scores["finetuned"].classes
    whose = f"“{classes[-1]}”" if len(classes) == 2 else "over all classes"
    found = f"How many photos of a class are found, by how many others are taken for it: {whose}."
    correct = f"How many predictions of a class are correct, by how many of its photos are found: {whose}."
    return [
        _training(report),
        _reliability(report.scores),
        _curves(report.scores, "roc", "ROC", found, ideal=(0, 1)),
        _curves(report.scores, "precision_recall", "Precision and recall", correct, ideal=(1, 1)),
        _confidence(report.scores["finetuned"]),
    ]


def _curves(
    scores: Mapping[str, Scores], curve: Literal["roc", "precision_recall"], title: str, text: str, *, ideal: tuple[int, int]
) -> Figure:
    """Both checkpoints' curves, zoomed in to the corner with the ideal model as far as the worse curve allows."""
    points = {name: getattr(one, curve) for name, one in scores.items()}
    needed = 4 * max(float(np.abs(table.to_numpy() - ideal).max(1).min()) for table in points.values())
    size = next((corner for corner in CORNERS if corner >= needed), 1.0)
    x, y = (
        Axis(column.replace("_", " "), at * (1 - size), at + (1 - at) * size, percent=True)
        for column, at in zip(points["frozen"].columns, ideal, strict=True)
    )
    chart = line_chart(
        [Line(STYLES[name], table.to_numpy().tolist()) for name, table in points.items()],
        x=x,
        y=y,
        diagonal=curve == "roc",
        description=f"{y.label} by {x.label}, for both checkpoints",
    )
    zoomed = f" Only the corner of a good model is shown: {size:.0%} of either axis." if size < 1 else ""
    return Figure(title, text + zoomed, chart, {NAMES[name]: STYLES[name] for name in scores})


def _training(report: Report) -> Figure:
    val, train = (report.epochs[["epoch", column]].dropna().to_numpy().tolist() for column in ("val_log_loss", "train_loss"))
    chart = line_chart(
        [Line(style, points, radii=[3.0] * len(points)) for style, points in (("faint", train), ("second", val))],
        x=Axis("epoch", 0, max(len(val) - 1, 1)),
        y=Axis("log-loss, nats", low=0),
        marked=next(point for point in val if point[0] == report.best_epoch),
        description=f"Log-loss by epoch on training and validation photos; the chosen epoch is {report.best_epoch}",
    )
    chosen = f"alpha = {report.alpha:.2g} of the way to epoch {report.best_epoch}" if report.alpha else "epoch 0"
    text = (
        f"Epoch 0 is the frozen checkpoint; chosen is {chosen}, ringed. Training photos are augmented, which makes them harder."
    )
    return Figure("Fine-tuning", text, chart, {"training": "faint", "validation": "second"})


def _reliability(scores: Mapping[str, Scores]) -> Figure:
    lines = []
    for name, one in scores.items():
        radii = 2 + 5 * np.sqrt(one.reliability["photos"] / len(one.labels))
        lines.append(Line(STYLES[name], one.reliability[["confidence", "accuracy"]].to_numpy().tolist(), radii.tolist()))
    chart = line_chart(
        lines,
        x=_confidence_axis(scores["finetuned"]),
        y=Axis("accuracy", 0, 1, percent=True),
        diagonal=True,
        description="Accuracy of both checkpoints by their confidence",
    )
    text = "Accuracy by confidence; larger dots are more photos. On the diagonal, confidence and accuracy are equal."
    return Figure("Reliability", text, chart, {NAMES[name]: STYLES[name] for name in scores})


def _confidence(scores: Scores) -> Figure:
    axis = _confidence_axis(scores)
    edges = np.linspace(axis.low or 0, 1, CONFIDENCE_BINS + 1)
    right, wrong = (np.histogram(scores.confidence[part], edges)[0].tolist() for part in (scores.correct, ~scores.correct))
    description = "How many predictions of the fine-tuned checkpoint are right and wrong, by confidence"
    chart = histogram(right, wrong, x=axis, description=description)
    text = "Confidence of the fine-tuned checkpoint’s predictions. Wrong ones should have a low one."
    return Figure("Confidence", text, chart, {"right": "right", "wrong": "wrong"})


def _confidence_axis(scores: Scores) -> Axis:
    return Axis("confidence", 0.5 if len(scores.classes) == 2 else 0, 1, percent=True)
