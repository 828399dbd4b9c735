"""Reports of made-up predictions on made-up photos, for tests of the page."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from pipeline.checkpoint import CheckpointInfo
from pipeline.evaluation import error_analysis
from pipeline.evaluation.error_analysis import Card, Gallery, embed, label_issues
from pipeline.evaluation.metrics import Scores, compare
from pipeline.evaluation.report import Report
from pipeline.evaluation.slices import accuracy_by_slice
from pipeline.params import Params

CHOSEN = "Fine-tuned weights: the gain in validation log-loss is 0.021, with a lower bound of 0.004."


def made_up(folder: Path, classes: tuple[str, ...], count: int = 60) -> tuple[pd.DataFrame, dict[str, Scores]]:
    """Photos of many shapes, and predictions that are mostly right, the fine-tuned checkpoint's more often."""
    random = np.random.default_rng(0)
    labels = np.arange(count) % len(classes)
    rows = []
    for index in range(count):
        size = (int(random.integers(60, 500)), int(random.integers(60, 300)))
        Image.new("RGB", size, tuple(random.integers(0, 255, 3).tolist())).save(folder / f"{index}.jpg")
        label = classes[labels[index]]
        rows.append({"id": f"{label}.{index}", "path": folder / f"{index}.jpg", "class": label})
    photos = pd.DataFrame(rows).assign(
        width=random.integers(60, 500, count),
        height=random.integers(60, 300, count),
        format="JPEG",
        brightness=random.random(count),
        sharpness=random.random(count),
        group=[f"group-{index // 2 if index < 10 else index}" for index in range(count)],
        split=["test", "train", "val"] * (count // 3),
    )
    scores = {}
    for name, least in (("frozen", 0.0), ("finetuned", 0.7)):
        values = random.dirichlet(np.ones(len(classes)), count)
        values[np.arange(count), labels] += least + random.random(count)
        scores[name] = Scores(labels, values / values.sum(1, keepdims=True), classes, 0.95)
    return photos, scores


def report_of(folder: Path, classes: tuple[str, ...], *, alpha: float = 0.5, **settings: dict[str, str]) -> Report:
    """A report with everything that one can hold; `settings` are sections of params.yaml."""
    photos, scores = made_up(folder, classes)
    scores["finetuned"] = tuned = scores["finetuned"] if alpha else scores["frozen"]
    issues = label_issues(photos, scores["frozen"])
    heat = [embed(photos["path"][0], "a photo & its <heat>", f"{name}: {classes[0]} 97%") for name in ("photo", "frozen")]
    return Report(
        scores=scores,
        comparison=compare(scores["frozen"], tuned, photos["group"].tolist()),
        cross_validated=scores["frozen"],
        slices=accuracy_by_slice(photos, scores),
        infos={
            "frozen": CheckpointInfo.model_construct(metrics={"ood_auroc": 0.987, "ood_fpr95": 0.125}),
            "finetuned": CheckpointInfo.model_construct(
                metrics={"alpha": alpha},
                epoch=1 if alpha else 0,
                note=CHOSEN if alpha else "Frozen weights: fine-tuning is not better beyond chance.",
            ),
        },
        epochs=pd.DataFrame({"epoch": [0, 1, 2], "train_loss": [np.nan, 0.4, 0.2], "val_log_loss": [0.5, 0.3, 0.35]}),
        galleries=[
            *error_analysis.galleries_of(tuned, photos, mistakes_shown=24),
            error_analysis.label_issue_gallery(issues, len(photos)),
            error_analysis.near_duplicates(photos, "group"),
            Gallery("looks", "Where the models look", "Here.", [Card(heat, "a cat", "cat.0")] * 2, "rows"),
        ],
        provenance={"Photos": [("archive", "0123456789abcdef" * 4), ("splits", "40 train, 10 val, 10 test")]},
        params=Params.model_validate({"download": {"source": "<not markup>"}} | settings),
        predictions_sha256="0123456789abcdef" * 4,
    )
