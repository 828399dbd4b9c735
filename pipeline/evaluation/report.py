"""report.html: metrics, figures, slices and galleries of both checkpoints on one page that needs no other file and no network.

page = render_report(Report(classes, scores, ...))

Words and layout are in report.html.j2; here are the figures, and the sentences that depend on numbers. The page is a function
of its inputs alone: it holds no time, no machine and no revision.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.checkpoint import MODEL_FILE, CheckpointInfo, library_versions
from pipeline.data.manifest import fingerprint
from pipeline.evaluation.comparison import Comparison
from pipeline.evaluation.error_analysis import Gallery
from pipeline.evaluation.figures import Axis, Line, Range, histogram, line_chart, range_chart
from pipeline.evaluation.metrics import METRICS, Metric, Scores
from pipeline.evaluation.slices import Slice

NAMES = {"frozen": "Frozen", "finetuned": "Fine-tuned"}
STYLES = {"frozen": "first", "finetuned": "second"}
CONFIDENCE_BINS = 20
MAX_CLASSES_DRAWN = 12  # in a confusion matrix; of more, the most confused pairs are listed
CONFUSED_PAIRS = 12
CORNERS = (0.02, 0.05, 0.1, 0.2, 0.5)  # how far ROC and precision-recall curves are zoomed in
Provenance = Mapping[str, Sequence[tuple[str, str]]]


@dataclass(frozen=True)
class Report:
    """The content of the page.

    Attributes:
        scores: "frozen" and "finetuned" -> scores on the test photos.
        mirrored: the same with test-time augmentation, empty where it was not asked for.
        comparison: of the fine-tuned checkpoint with the frozen one.
        slices: accuracy by slice.
        note: which weights fine-tuning chose and why, a sentence of the fine-tuned checkpoint.
        alpha: of the chosen weights: 0 is the frozen checkpoint, 1 the weights of the best epoch.
        epochs: rows with epoch, train_loss and val_log_loss.
        best_epoch: by validation; 0 where the frozen checkpoint was chosen.
        galleries: in order.
        provenance: heading -> (name, value) pairs.
        settings: of all sections but runtime, as YAML.
        predictions_sha256: of predictions.csv.
    """

    scores: Mapping[str, Scores]
    mirrored: Mapping[str, Scores]
    comparison: Comparison
    slices: Sequence[Slice]
    note: str
    alpha: float
    epochs: Sequence[Mapping[str, Any]]
    best_epoch: int
    galleries: Sequence[Gallery]
    provenance: Provenance
    settings: str
    predictions_sha256: str

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names."""
        return self.scores["finetuned"].classes

    @property
    def num_photos(self) -> int:
        """How many test photos there are."""
        return len(self.scores["finetuned"].labels)


@dataclass(frozen=True)
class Figure:
    """A chart with a title, a sentence and a legend (name -> CSS class)."""

    title: str
    text: str
    chart: Markup
    legend: Mapping[str, str]


def render_report(report: Report) -> str:
    """The page, as HTML."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda value, digits=1: f"{100 * value:.{digits}f}%"
    environment.filters["points"] = lambda value: f"{100 * value:+.1f}".replace("-", "−")
    return environment.get_template("report.html.j2").render(
        report=report,
        scores=report.scores,
        comparison=report.comparison,
        names=NAMES,
        styles=STYLES,
        level=f"{100 * report.comparison.confidence_level:.4g}%",
        verdict=verdict(report),
        metric_rows=[_metric_row(metric, report.scores) for metric in METRICS],
        overview=_overview(report.scores),
        gains=_gain_charts(report.comparison),
        agreement=_agreement(report),
        confused=_confused_pairs(report.scores) if len(report.classes) > MAX_CLASSES_DRAWN else [],
        figures=[_training(report), _reliability(report.scores), _roc(report), _precision_recall(report), _confidence(report)],
        slice_groups=_slice_groups(report),
        uniform=[f"{one.property} ({one.name})" for one in report.slices if one.photos == report.num_photos],
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
    """What the result was made from: photos, network, checkpoints and versions.

    Args:
        manifest: of all photos.
        infos: checkpoint -> its description, "finetuned" among them.
        archive_sha256: of the photos' archive, None where there was none.
        num_parameters: of the network.
    """
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
    """The most frequent confusions of the fine-tuned checkpoint, with how often each checkpoint makes them."""
    tuned = scores["finetuned"]
    counts = tuned.confusion * (1 - np.eye(len(tuned.classes), dtype=int))
    pairs = [divmod(int(place), len(tuned.classes)) for place in np.argsort(-counts, axis=None, kind="stable")[:CONFUSED_PAIRS]]
    return [
        {
            "actual": tuned.classes[actual],
            "predicted": tuned.classes[predicted],
            "counts": {name: int(one.confusion[actual, predicted]) for name, one in scores.items()},
        }
        for actual, predicted in pairs
        if counts[actual, predicted]
    ]


def _both() -> dict[str, str]:
    return {NAMES[name]: STYLES[name] for name in NAMES}


def _roc(report: Report) -> Figure:
    curves = {name: one.roc.to_numpy() for name, one in report.scores.items()}
    corner = _corner(curves, lambda curve: np.maximum(curve[:, 0], 1 - curve[:, 1]))
    chart = line_chart(
        [Line(STYLES[name], curve.tolist()) for name, curve in curves.items()],
        x=Axis("false positive rate", 0, corner, percent=True),
        y=Axis("true positive rate", 1 - corner, 1, percent=True),
        diagonal=True,
        description="True positive rate by false positive rate, for both checkpoints",
    )
    text = f"How many photos of a class are found, by how many others are taken for it: {_whose(report)}.{_zoomed(corner)}"
    return Figure("ROC", text, chart, _both())


def _precision_recall(report: Report) -> Figure:
    curves = {name: one.precision_recall.to_numpy() for name, one in report.scores.items()}
    corner = _corner(curves, lambda curve: 1 - curve.min(1))
    chart = line_chart(
        [Line(STYLES[name], curve.tolist()) for name, curve in curves.items()],
        x=Axis("recall", 1 - corner, 1, percent=True),
        y=Axis("precision", 1 - corner, 1, percent=True),
        description="Precision by recall, for both checkpoints",
    )
    text = (
        f"How many predictions of a class are correct, by how many of its photos are found: {_whose(report)}.{_zoomed(corner)}"
    )
    return Figure("Precision and recall", text, chart, _both())


def _whose(report: Report) -> str:
    return f"“{report.classes[-1]}”" if len(report.classes) == 2 else "over all classes"


def _corner(curves: Mapping[str, np.ndarray], distance: Callable[[np.ndarray], np.ndarray]) -> float:
    """How much of both axes is shown around the ideal corner: four times the distance of the worst curve from it, at most 1."""
    needed = 4 * max(float(distance(curve).min()) for curve in curves.values())
    return next((corner for corner in CORNERS if corner >= needed), 1.0)


def _zoomed(corner: float) -> str:
    return f" Only the corner of a good model is shown, the last {corner:.0%} of both axes." if corner < 1 else ""


def _training(report: Report) -> Figure:
    val = [(row["epoch"], row["val_log_loss"]) for row in report.epochs]
    train = [(row["epoch"], row["train_loss"]) for row in report.epochs if row["train_loss"] is not None]
    best = next(point for point in val if point[0] == report.best_epoch)
    chart = line_chart(
        [Line(style, points, radii=[3.0] * len(points)) for style, points in (("faint", train), ("second", val))],
        x=Axis("epoch", 0, max(len(val) - 1, 1)),
        y=Axis("log-loss, nats", low=0),
        marked=best,
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
        bins = one.reliability
        radii = [2 + 5 * math.sqrt(photos / len(one.labels)) for photos in bins["photos"]]
        lines.append(Line(STYLES[name], bins[["confidence", "accuracy"]].to_numpy().tolist(), radii))
    chart = line_chart(
        lines,
        x=_confidence_axis(scores["finetuned"]),
        y=Axis("accuracy", 0, 1, percent=True),
        diagonal=True,
        description="Accuracy of both checkpoints by their confidence",
    )
    text = "Accuracy by confidence; larger dots are more photos. On the diagonal, confidence and accuracy are equal."
    return Figure("Reliability", text, chart, _both())


def _confidence(report: Report) -> Figure:
    scores = report.scores["finetuned"]
    axis = _confidence_axis(scores)
    right, wrong = (
        np.histogram(scores.confidence[part], CONFIDENCE_BINS, (axis.low or 0, 1))[0].tolist()
        for part in (scores.correct, ~scores.correct)
    )
    description = "How many predictions of the fine-tuned checkpoint are right and wrong, by confidence"
    chart = histogram(right, wrong, x=axis, description=description)
    text = "Confidence of the fine-tuned checkpoint’s predictions. Wrong ones should have a low one."
    return Figure("Confidence", text, chart, {"right": "right", "wrong": "wrong"})


def _confidence_axis(scores: Scores) -> Axis:
    return Axis("confidence", 0.5 if len(scores.classes) == 2 else 0, 1, percent=True)


def _slice_groups(report: Report) -> dict[str, list[dict[str, Any]]]:
    """Property -> its slices, with places in percent of the width between the lowest bound of all and 100% accuracy."""
    lowest = min(low for one in report.slices for _, low, _ in one.accuracy.values())
    floor = min(math.floor(lowest * 20) / 20, 0.95)
    groups: dict[str, list[dict[str, Any]]] = {}
    for one in report.slices:
        if one.photos == report.num_photos:
            continue  # a sentence names the properties that all photos have in common
        bars = [
            {
                "style": STYLES[name],
                "value": value,
                "label": f"{NAMES[name]}: {value:.1%}, {low:.1%} to {high:.1%}",
                "left": 100 * (low - floor) / (1 - floor),
                "width": 100 * (high - low) / (1 - floor),
                "place": 100 * (value - floor) / (1 - floor),
            }
            for name, (value, low, high) in one.accuracy.items()
        ]
        groups.setdefault(one.property, []).append({"name": one.name, "photos": one.photos, "bars": bars})
    return groups
