"""report.html: metrics, figures, slices and galleries of both checkpoints on one page that needs no other file and no network.

Words and layout are in report.html.j2; here are the figures, and the sentences that depend on numbers. The page is a function
of its inputs alone: it holds no time, no machine and no revision.
"""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from ruamel.yaml import YAML

from pipeline.checkpoint import MODEL_FILE, CheckpointInfo, library_versions
from pipeline.data.manifest import fingerprint
from pipeline.evaluation.error_analysis import Gallery
from pipeline.evaluation.figures import LEGEND, NAMES, STYLES, accuracy_chart, draw_charts, gain_charts
from pipeline.evaluation.metrics import METRICS, Comparison, Metric, Scores
from pipeline.evaluation.slices import Slice, clearest_difference
from pipeline.models.ood import IN_DISTRIBUTION, MOST_HELD_BACK
from pipeline.params import Params

MAX_CLASSES_DRAWN = 20  # in a confusion matrix; of more, the most confused pairs are listed
CONFUSED_PAIRS = 20
LONGEST_NAME = 20  # characters of a class's name in a confusion matrix
Provenance = Mapping[str, Sequence[tuple[str, str]]]  # heading -> (name, value) pairs


@dataclass(frozen=True)
class Report:
    """The content of the page."""

    scores: Mapping[str, Scores]  # of "frozen" and "finetuned" on the test photos
    comparison: Comparison  # of the fine-tuned checkpoint with the frozen one
    cross_validated: Scores  # of every photo of all splits, by a head on frozen features that never saw it
    slices: Sequence[Slice]
    infos: Mapping[str, CheckpointInfo]  # what both checkpoints say of themselves: what was chosen on validation, and why
    epochs: pd.DataFrame  # epoch, train_loss (NaN for epoch 0, the frozen checkpoint) and val_log_loss
    galleries: Sequence[Gallery]
    provenance: Provenance
    params: Params
    predictions_sha256: str

    @property
    def alpha(self) -> float:
        """Of the chosen weights: 0 is the frozen backbone, 1 the weights of the best epoch."""
        return self.infos["finetuned"].metrics["alpha"]

    @property
    def solved_again(self) -> bool:
        """Whether the frozen backbone was kept, and its head solved again on training and validation photos."""
        return "out_of_fold_log_loss" in self.infos["finetuned"].metrics

    @property
    def change(self) -> tuple[str, str, str]:
        """What the last stage did, and words for photos that are classified correctly only after and only before it."""
        again = ("solving the head again", "afterwards", "before")
        return again if self.solved_again else ("unfreezing", "fine-tuned", "frozen")


def render_report(report: Report) -> str:
    """The page, as HTML."""
    folder = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(
        percent=lambda value, digits=1: f"{100 * value:.{digits}f}%",
        signed=lambda value, digits: f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", "−"),
        thousands="{:,}".format,
        elided=elided,
        breakable=lambda name: name.replace("_", "_\u200b"),
        columns=columns,
    )
    tuned = report.scores["finetuned"]
    return environment.get_template("report.html.j2").render(
        report=report,
        scores=report.scores,
        classes=tuned.classes,
        worst_first=sorted(tuned.classes, key=lambda name: tuned.per_class[name]["recall"]),
        num_photos=len(tuned.labels),
        longest_name=max(len(elided(name)) for name in tuned.classes),
        comparison=report.comparison,
        names=NAMES,
        styles=STYLES,
        legend=LEGEND,
        level=f"{100 * report.comparison.confidence_level:.4g}%",
        verdict=verdict(report),
        metric_rows=[_metric_row(metric, report.scores) for metric in METRICS],
        overview=accuracy_chart(report.scores),
        gains=gain_charts(report.comparison),
        agreement=_agreement(report),
        max_classes_drawn=MAX_CLASSES_DRAWN,
        confused=_confused_pairs(report.scores),
        clearest_difference=clearest_difference,
        charts=draw_charts(report.scores, report.epochs, report.infos["finetuned"].epoch, report.alpha),
        heads=_heads_tried(report.infos["frozen"]),
        in_distribution=IN_DISTRIBUTION,
        most_held_back=MOST_HELD_BACK,
        settings=_settings(report.params),
        least_accuracy=math.floor(20 * min(low for one in report.slices for _, low, _ in one.accuracy.values())) / 20,
    )


def elided(name: str) -> str:
    """A class's name without its middle where it is long: names often differ only at their ends."""
    half = LONGEST_NAME // 2
    return name if len(name) <= LONGEST_NAME else f"{name[: half - 1]}…{name[-half:]}"


def columns(gallery: Gallery, least: int, most: int) -> int:
    """As many columns as leave the fewest places of a gallery's last row empty; cards of several photos are two wide."""
    width = 1 + any(len(card.pictures) > 1 for card in gallery.cards)
    return min(range(most, least - 1, -1), key=lambda number: (-len(gallery.cards) % (number // width), number % width))


def verdict(report: Report) -> str:
    """Whether the last stage helped on the test photos, in one sentence."""
    if not report.alpha and not report.solved_again:
        return "Validation kept the frozen weights, so there is nothing to compare."
    comparison, (what, after, before) = report.comparison, report.change
    counts = f"{comparison.only_second:,} photos only {after} correct, {comparison.only_first:,} only {before} correct"
    found, gain = comparison.verdict, comparison.log_loss_gain
    alone = comparison.p_value < 1 - comparison.confidence_level and found == "no different"
    one_by_one = " if photos that look alike count one by one" if alone else ""
    evidence = f"{counts} (McNemar’s exact p\u00a0=\u00a0{comparison.p_value:.2g}{one_by_one})"
    direction, by = "lower" if gain.low > 0 else "higher" if gain.high < 0 else "", ""
    if direction and found != {"lower": "better", "higher": "worse"}[direction]:
        by, evidence = " by accuracy", f"{evidence}; the log-loss is {direction} beyond chance"
    return {
        "better": f"{what.capitalize()} helped{by}: {evidence}.",
        "worse": f"{what.capitalize()} hurt{by}: {evidence}.",
        "no different": f"Whether {what} helped{by}, these photos cannot show: {evidence}.",
    }[found]


def provenance(
    manifest: pd.DataFrame, infos: Mapping[str, CheckpointInfo], num_parameters: int, downloaded: Mapping[str, Any]
) -> Provenance:
    """What the result was made from: photos, network, checkpoints and versions, as (name, value) pairs under headings."""
    tuned = infos["finetuned"]
    counts = manifest["split"].value_counts()
    size = " × ".join(map(str, tuned.preprocessing.input_size[1:]))
    return {
        "Photos": [
            ("archive", downloaded.get("archive_sha256") or "none: drawn, or from a folder"),
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


def _settings(params: Params) -> str:
    """All settings that decide the result, as YAML: those of the runtime do not."""
    text = io.StringIO()
    YAML().dump(params.model_dump(mode="json", exclude={"runtime"}), text)
    return text.getvalue()


def _metric_row(metric: Metric, scores: Mapping[str, Scores]) -> tuple[Metric, dict[str, str], str]:
    """A row of the table: the metric, its values, and which checkpoint is better; none is where the shown digits are equal."""
    values = {name: one.metrics[metric.name] for name, one in scores.items()}
    shown = {name: format(value, metric.format) for name, value in values.items()}
    best = (min if metric.lower_is_better else max)(values, key=values.__getitem__)
    return metric, shown, best if len(set(shown.values())) > 1 else ""


def _heads_tried(info: CheckpointInfo) -> list[dict[str, Any]]:
    """Of several backbones, each head's out-of-fold log-loss, its factor in a blend that was kept, and which head was kept."""
    kept = {0: "", 1: "concatenated"}.get(len(info.solved), "blended")  # of a head that was trained instead, none
    factors = dict(zip(info.heads_tried, (block.factor for block in info.solved), strict=False)) if kept == "blended" else {}
    return [
        {"name": name, "log_loss": value, "factor": factors.get(name), "kept": name == kept}
        for name, value in info.heads_tried.items()
    ]


def _agreement(report: Report) -> dict[str, int]:
    frozen, tuned = (report.scores[name].correct for name in NAMES)
    _, after, before = report.change
    return {
        "both correct": int((frozen & tuned).sum()),
        f"only {after} correct": report.comparison.only_second,
        f"only {before} correct": report.comparison.only_first,
        "both wrong": int((~frozen & ~tuned).sum()),
    }


def _confused_pairs(scores: Mapping[str, Scores]) -> list[dict[Any, Any]]:
    """The classes that both checkpoints together confuse most often (actual, predicted), and how often each does."""
    labels = pd.MultiIndex.from_product([scores["finetuned"].classes] * 2, names=["actual", "predicted"])
    counts = pd.DataFrame({name: one.confusion.ravel() for name, one in scores.items()}, labels).reset_index()
    counts["total"] = counts[list(scores)].sum(axis=1)
    wrong = counts[(counts["actual"] != counts["predicted"]) & (counts["total"] > 0)]
    return wrong.sort_values("total", ascending=False, kind="stable").head(CONFUSED_PAIRS).to_dict("records")
