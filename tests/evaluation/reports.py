"""Reports of made-up predictions on made-up photos, for tests of the page."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from pipeline.evaluation import showcase
from pipeline.evaluation.assessment import Assessment, assess
from pipeline.evaluation.gallery import Card, Gallery, embedded
from pipeline.evaluation.label_issues import hold_against, label_issues
from pipeline.evaluation.report import Report


def made_up(folder: Path, classes: tuple[str, ...], count: int = 60) -> tuple[pd.DataFrame, Assessment]:
    """Photos of many shapes, and predictions that are mostly right, the second checkpoint's more often."""
    random = np.random.default_rng(0)
    labels = np.arange(count) % len(classes)
    rows = []
    for index in range(count):
        size = (int(random.integers(60, 500)), int(random.integers(60, 300)))
        Image.new("RGB", size, tuple(random.integers(0, 255, 3).tolist())).save(folder / f"{index}.jpg")
        rows.append(
            {"id": f"{classes[labels[index]]}.{index}", "path": folder / f"{index}.jpg", "class": classes[labels[index]]}
        )
    photos = pd.DataFrame(rows).assign(
        width=random.integers(60, 500, count),
        height=random.integers(60, 300, count),
        format="JPEG",
        brightness=random.random(count),
        sharpness=random.random(count),
        doubt=["both" if index % 20 == 0 else "" for index in range(count)],
        group=[f"group-{index // 2 if index < 10 else index}" for index in range(count)],
        split=["test", "train", "val"] * (count // 3),
    )
    probabilities = {}
    for name, least in (("frozen", 0.0), ("finetuned", 0.7)):
        values = random.dirichlet(np.ones(len(classes)), count)
        values[np.arange(count), labels] += least + random.random(count)
        probabilities[name] = values / values.sum(1, keepdims=True)
    temperatures = {"frozen": 1.2, "finetuned": 0.8}
    return photos, assess(photos, labels, probabilities, temperatures, confidence_level=0.95)


def report_of(folder: Path, classes: tuple[str, ...], note: str = "") -> Report:
    """A report with everything that one can hold."""
    photos, assessment = made_up(folder, classes)
    probabilities = assessment.probabilities["frozen"]
    candidates = label_issues(assessment.labels, probabilities)
    found = hold_against(photos["doubt"].to_numpy(), candidates)
    heat = [embedded(photos["path"][0], "a photo & its <heat>", f"{name}: {classes[0]} 97%") for name in ("photo", "frozen")]
    return Report(
        assessment=assessment,
        mirrored=assessment.scores,
        classes=classes,
        note=note,
        epochs=[
            {"epoch": 0, "train_loss": None, "val_log_loss": 0.5},
            {"epoch": 1, "train_loss": 0.4, "val_log_loss": 0.3},
            {"epoch": 2, "train_loss": 0.2, "val_log_loss": 0.35},
        ],
        best_epoch=1,
        kept_share=0.5,
        galleries=[
            showcase.mistakes(assessment, photos, classes, count=24),
            showcase.least_certain(assessment, photos, classes),
            showcase.suspected_labels(photos, probabilities, candidates, found, classes),
            showcase.near_duplicates(photos),
            Gallery("looks", "Where the models look", "Here.", [Card(tuple(heat), "a cat", "cat.0")], "heat"),
        ],
        made={"Photos": [("archive", "0123456789abcdef" * 4), ("kept", "40 train, 10 val, 10 test")]},
        settings="download:\n  source: drawn  # <not markup>\n",
        predictions_sha256="0123456789abcdef" * 4,
    )
