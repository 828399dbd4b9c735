"""The files of an evaluation that programs read: predictions, suspected labels, points of curves."""

from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.evaluation.assessment import Assessment
from pipeline.evaluation.calibration import reliability
from pipeline.evaluation.curves import precision_recall, roc
from pipeline.files import write_csv


def write_predictions(photos: pd.DataFrame, classes: tuple[str, ...], assessment: Assessment, file: Path) -> None:
    """Every test photo, with every digit of the probabilities, so that equal files mean equal bits.

    Columns: id, path, actual, and for each checkpoint the class that it chose (CHECKPOINT) and each class's probability
    (CHECKPOINT_CLASS).
    """
    names = np.array(classes)
    paths = [path.as_posix() for path in photos["path"]]
    table = pd.DataFrame({"id": photos["id"], "path": paths, "actual": photos["class"]})
    for checkpoint, values in assessment.probabilities.items():
        table[checkpoint] = names[values.argmax(1)]
        for index, name in enumerate(classes):
            table[f"{checkpoint}_{name}"] = values[:, index]
    table.to_csv(file, index=False, lineterminator="\n")


def write_suspected(
    kept: pd.DataFrame, probabilities: np.ndarray, candidates: np.ndarray, classes: tuple[str, ...], file: Path
) -> None:
    """All candidates for wrong labels, the most suspicious first: id, split, class, doubt, likely, probability."""
    table = kept.iloc[candidates][["id", "split", "class", "doubt"]]
    likely = probabilities[candidates].argmax(1)
    table = table.assign(likely=np.array(classes)[likely], probability=probabilities[candidates, likely].round(6))
    table.to_csv(file, index=False, lineterminator="\n")


def write_curves(assessment: Assessment, folder: Path) -> None:
    """The points of each checkpoint's curves, for `dvc plots`."""
    for name, values in assessment.probabilities.items():
        curve = roc(assessment.labels, values)
        write_csv(folder / f"roc_{name}.csv", [{"false_positive_rate": x, "true_positive_rate": y} for x, y in curve])
        curve = precision_recall(assessment.labels, values)
        write_csv(folder / f"precision_recall_{name}.csv", [{"recall": x, "precision": y} for x, y in curve])
        write_csv(folder / f"reliability_{name}.csv", [vars(one) for one in reliability(assessment.labels, values)])
