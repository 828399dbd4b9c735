"""report.html: what the two checkpoints are worth, on one page that needs no other file and no network.

page = render_report(Report(assessment, classes, ...))

The words and the layout stand in report.html.j2 beside this module; here are the figures, and the sentences that depend on
numbers.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.evaluation.assessment import Assessment
from pipeline.evaluation.calibration import reliability
from pipeline.evaluation.curves import Points, precision_recall, roc
from pipeline.evaluation.figures import Axis, Line, Range, histogram, line_chart, range_chart
from pipeline.evaluation.gallery import Gallery
from pipeline.evaluation.metrics import Scores
from pipeline.evaluation.provenance import Made

NAMES = {"frozen": "Frozen", "finetuned": "Fine-tuned"}
STYLES = {"frozen": "first", "finetuned": "second"}
CONFIDENCE_BINS = 20
MAX_CLASSES_NAMED = 12  # in a confusion matrix; of more, only colours are shown


@dataclass(frozen=True)
class Report:
    """All that the page tells.

    Attributes:
        assessment: of the checkpoints.
        mirrored: checkpoint -> scores with test-time augmentation, empty where it was not asked for.
        classes: their names.
        note: what fine-tuning said of itself, empty where there is nothing to say.
        epochs: rows of the course of fine-tuning, with epoch, train_loss and val_log_loss.
        best_epoch: the best one of training; 0 where none improved on the frozen checkpoint.
        kept_share: how far the kept weights lie on the way from the frozen ones to those of the best epoch.
        galleries: in order.
        made: heading -> (name, value) pairs: what the result was made from.
        settings: params.yaml as text.
        predictions_sha256: of predictions.csv.
    """

    assessment: Assessment
    mirrored: Mapping[str, Scores]
    classes: tuple[str, ...]
    note: str
    epochs: Sequence[Mapping[str, float | None]]
    best_epoch: int
    kept_share: float
    galleries: Sequence[Gallery]
    made: Made
    settings: str
    predictions_sha256: str


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
    environment.filters["points"] = _points
    template = environment.get_template("report.html.j2")
    assessment = report.assessment
    return template.render(
        report=report,
        assessment=assessment,
        names=NAMES,
        styles=STYLES,
        level=f"{100 * assessment.confidence_level:.4g}%",
        verdict=verdict(report),
        metric_rows=_metric_rows(assessment),
        overview=_overview(assessment),
        gains=_gain_charts(assessment),
        agreement=_agreement(assessment),
        confusions=_confusions(assessment, report.classes),
        figures=_figures(report),
        slices=_slice_charts(assessment),
        slice_count=len(assessment.slices),
        alike=[f"{one.property} ({one.name})" for one in assessment.slices if one.photos == len(assessment.labels)],
    )


def verdict(report: Report) -> str:
    """Whether unfreezing helped, in one or two sentences."""
    if report.note:
        return "Fine-tuning did not improve the log-loss on validation, so the fine-tuned checkpoint is the frozen one."
    comparison = report.assessment.comparison
    counts = f"{comparison.only_second} photos put right and {comparison.only_first} put wrong"
    chance = f"McNemar’s exact p = {comparison.p_value:.2g}"
    match comparison.verdict:
        case "better":
            return f"Unfreezing helped: {counts} ({chance})."
        case "worse":
            return f"Unfreezing hurt: {counts} ({chance})."
    return f"These photos cannot tell whether unfreezing helped: {counts} ({chance})."


def _points(value: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return f"{100 * value:+.1f}".replace("-", "−")


@dataclass(frozen=True)
class _Row:
    name: str
    meaning: str
    values: dict[str, str]
    best: str


def _metric_rows(assessment: Assessment) -> list[_Row]:
    """The rows of the table; `best` names the checkpoint that does better, empty where the shown digits are equal."""
    scores, calibrated, undoubted = assessment.scores, assessment.calibrated, assessment.undoubted
    rows = [
        _row("Accuracy", "share of photos put right", {n: s.accuracy for n, s in scores.items()}, ".2%"),
        _row("Balanced accuracy", "mean over the classes", {n: s.balanced_accuracy for n, s in scores.items()}, ".2%"),
        _row("ROC-AUC", "how well the classes are ranked apart", {n: s.roc_auc for n, s in scores.items()}, ".4f"),
        _row("PR-AUC", "average precision", {n: s.pr_auc for n, s in scores.items()}, ".4f"),
        _row("F1", "mean over the classes", {n: s.f1 for n, s in scores.items()}, ".4f"),
        _row("Log-loss", "nats, clipped at 1e-15 as Kaggle does", {n: s.log_loss for n, s in scores.items()}, ".4f", low=True),
        _row("Brier score", "mean squared error of probabilities", {n: s.brier for n, s in scores.items()}, ".4f", low=True),
        _row(
            "Calibration error",
            "how far confidence is from accuracy, 15 bins",
            {n: s.calibration_error for n, s in scores.items()},
            ".4f",
            low=True,
        ),
        _row(
            "… after temperature scaling",
            "fitted on validation; "
            + ", ".join(f"{NAMES[n].lower()} T = {c.temperature:.2f}" for n, c in calibrated.items())
            + "; fine-tuning leaves its own in the head",
            {n: c.calibration_error for n, c in calibrated.items()},
            ".4f",
            low=True,
        ),
    ]
    if assessment.num_doubtful:
        rows.append(
            _row(
                "Accuracy, sound labels",
                f"without {assessment.num_doubtful} test photos whose label is doubted",
                {n: u.accuracy for n, u in undoubted.items()},
                ".2%",
            )
        )
    return rows


def _row(name: str, meaning: str, values: dict[str, float], form: str, *, low: bool = False) -> _Row:
    shown = {checkpoint: format(value, form) for checkpoint, value in values.items()}
    best = (min if low else max)(values, key=lambda checkpoint: values[checkpoint])
    return _Row(name, meaning, shown, best if len(set(shown.values())) > 1 else "")


def _overview(assessment: Assessment) -> Markup:
    ranges = [Range(NAMES[n], STYLES[n], s.accuracy, s.accuracy_low, s.accuracy_high) for n, s in assessment.scores.items()]
    told = "; ".join(f"{one.name} {one.value:.2%}, {one.low:.2%} to {one.high:.2%}" for one in ranges)
    return range_chart(ranges, x=Axis("accuracy on the test photos", percent=True), description=told)


def _gain_charts(assessment: Assessment) -> list[Markup]:
    comparison = assessment.comparison
    charts = []
    for name, gain, percent in (("Accuracy", comparison.accuracy, True), ("Log-loss", comparison.log_loss, False)):
        shown = Range(name, "second", gain.mean, gain.low, gain.high)
        label = "gain in accuracy" if percent else "gain in log-loss, nats"
        told = f"{label}: {gain.mean:.4f}, {gain.low:.4f} to {gain.high:.4f}"
        charts.append(range_chart([shown], x=Axis(label, percent=percent), description=told, zero=True))
    return charts


def _agreement(assessment: Assessment) -> dict[str, int]:
    right = {name: assessment.predicted(name) == assessment.labels for name in NAMES}
    return {
        "both right": int((right["frozen"] & right["finetuned"]).sum()),
        "only fine-tuned right": assessment.comparison.only_second,
        "only frozen right": assessment.comparison.only_first,
        "both wrong": int((~right["frozen"] & ~right["finetuned"]).sum()),
    }


@dataclass(frozen=True)
class _Confusion:
    name: str
    counts: list[list[int]]
    shares: list[list[float]]  # of the row's photos
    named: bool


def _confusions(assessment: Assessment, classes: tuple[str, ...]) -> list[_Confusion]:
    tables = []
    for name in NAMES:
        counts = np.zeros((len(classes), len(classes)), dtype=int)
        np.add.at(counts, (assessment.labels, assessment.predicted(name)), 1)
        shares = counts / counts.sum(1, keepdims=True).clip(1)
        tables.append(_Confusion(name, counts.tolist(), shares.tolist(), len(classes) <= MAX_CLASSES_NAMED))
    return tables


@dataclass(frozen=True)
class _Figure:
    title: str
    text: str
    chart: Markup
    legend: dict[str, str]  # name -> CSS class


def _figures(report: Report) -> list[_Figure]:
    assessment = report.assessment
    both = {NAMES[name]: STYLES[name] for name in NAMES}
    last = f"finding “{report.classes[-1]}”" if len(report.classes) == 2 else "over all classes"
    return [
        _training(report),
        _reliability(assessment),
        _Figure(
            "ROC",
            f"Of the photos that are not meant, how many are taken along, against how many of the meant are found: {last}.",
            _curves(assessment, roc, "false positive rate", "true positive rate", diagonal=True),
            both,
        ),
        _Figure(
            "Precision and recall",
            f"How many of the photos named are right, against how many of the meant are found: {last}.",
            _curves(assessment, precision_recall, "recall", "precision"),
            both,
        ),
        _confidence(assessment),
    ]


def _curves(
    assessment: Assessment, of: Callable[[np.ndarray, np.ndarray], Points], x: str, y: str, *, diagonal: bool = False
) -> Markup:
    lines = [
        Line(NAMES[name], STYLES[name], of(assessment.labels, values)) for name, values in assessment.probabilities.items()
    ]
    return line_chart(
        lines, x=Axis(x, 0, 1), y=Axis(y, 0, 1), diagonal=diagonal, description=f"{y} by {x}, of both checkpoints"
    )


def _training(report: Report) -> _Figure:
    epochs = report.epochs
    val = [(row["epoch"], row["val_log_loss"]) for row in epochs]
    train = [(row["epoch"], row["train_loss"]) for row in epochs if row["train_loss"] is not None]
    best = next(point for point in val if point[0] == report.best_epoch)
    kept = f"{report.kept_share:.0%} of the way from epoch 0 to epoch {report.best_epoch}, ringed," if best[0] else "epoch 0"
    chart = line_chart(
        [Line("training", "faint", train, radii=[3.0] * len(train)), Line("validation", "second", val, radii=[3.0] * len(val))],  # type: ignore[arg-type]
        x=Axis("epoch", 0, max(len(epochs) - 1, 1)),
        y=Axis("log-loss, nats", low=0),
        marked=best,  # type: ignore[arg-type]
        description=f"Log-loss by epoch on training and validation photos; the best is epoch {report.best_epoch}",
    )
    text = (
        f"Epoch 0 is the frozen checkpoint; kept is {kept} by the log-loss on validation after temperature "
        "scaling. Training photos are changed at random, which makes them harder."
    )
    return _Figure("Fine-tuning", text, chart, {"training": "faint", "validation": "second"})


def _reliability(assessment: Assessment) -> _Figure:
    lines = [
        Line(
            NAMES[name],
            STYLES[name],
            [(one.confidence, one.accuracy) for one in reliability(assessment.labels, shown)],
            radii=[2 + 5 * math.sqrt(one.photos / len(shown)) for one in reliability(assessment.labels, shown)],
        )
        for name, shown in assessment.probabilities.items()
    ]
    low = 0.5 if assessment.probabilities["finetuned"].shape[1] == 2 else 0.0
    chart = line_chart(
        lines,
        x=Axis("confidence", low, 1, percent=True),
        y=Axis("accuracy", 0, 1, percent=True),
        diagonal=True,
        description="Accuracy of both checkpoints by their confidence",
    )
    text = (
        "How often a checkpoint is right when it says that it is so sure; larger dots stand for more photos. On the diagonal "
        "its word can be taken."
    )
    return _Figure("Reliability", text, chart, {line.name: line.style for line in lines})


def _confidence(assessment: Assessment) -> _Figure:
    low = 0.5 if assessment.probabilities["finetuned"].shape[1] == 2 else 0.0
    confidence = assessment.confidence("finetuned")
    right = assessment.predicted("finetuned") == assessment.labels
    counts = [np.histogram(confidence[part], CONFIDENCE_BINS, (low, 1))[0].tolist() for part in (right, ~right)]
    chart = histogram(
        *counts,
        low=low,
        high=1,
        x=Axis("confidence", percent=True),
        description="How many predictions of the fine-tuned checkpoint are right and wrong, by confidence",
    )
    text = "How sure the fine-tuned checkpoint is of its predictions. Wrong ones should lie to the left."
    return _Figure("Confidence", text, chart, {"right": "right", "wrong": "wrong"})


@dataclass(frozen=True)
class _SliceGroup:
    property: str
    rows: list[dict[str, object]]


def _slice_charts(assessment: Assessment) -> list[_SliceGroup]:
    """Slices by property, with places in percent of the width between the lowest bound of all and 100% accuracy."""
    lowest = min(low for one in assessment.slices for _, low, _ in one.accuracy.values())
    floor = min(np.floor(lowest * 20) / 20, 0.95)
    groups: dict[str, _SliceGroup] = {}
    for one in assessment.slices:
        if one.photos == len(assessment.labels):
            continue  # all photos are of this kind: told in a sentence
        bars = [
            {
                "style": STYLES[name],
                "value": value,
                "told": f"{NAMES[name]}: {value:.1%}, {low:.1%} to {high:.1%}",
                "left": 100 * (low - floor) / (1 - floor),
                "width": 100 * (high - low) / (1 - floor),
                "place": 100 * (value - floor) / (1 - floor),
            }
            for name, (value, low, high) in one.accuracy.items()
        ]
        group = groups.setdefault(one.property, _SliceGroup(one.property, []))
        group.rows.append({"name": one.name, "photos": one.photos, "bars": bars})
    return list(groups.values())
