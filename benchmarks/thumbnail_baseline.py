"""How far a linear model on thumbnails gets on the drawn photos: the floor that a network has to clear.

Each photo is shrunk to 16x16 RGB; logistic regression and ridge regression, their L2 penalty chosen on a part of the
training photos, are tested by five-fold cross-validation, so that every photo is a test photo once.

    python benchmarks/thumbnail_baseline.py --photos 1600 --seed 0
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from common import run_command
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import GridSearchCV, StratifiedKFold, StratifiedShuffleSplit, cross_val_predict
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from pipeline.download.drawn_photo import FOLDERS, draw_petimages

THUMBNAIL = 16  # pixels on a side
FOLDS = 5
# By name: the classifier, and the penalties to choose from.
MODELS: dict[str, Any] = {
    "logistic regression": (LogisticRegression(solver="newton-cholesky"), {"C": [1 / 10, 1 / 100, 1 / 1e3, 1 / 1e4]}),
    "ridge regression": (RidgeClassifier(), {"alpha": [1e2, 1e3, 1e4, 1e5]}),
}


def read_thumbnails(root: Path) -> tuple[np.ndarray, np.ndarray]:
    """The thumbnails, (n, 768) in 0..255, of the photos that can be decoded, and 0 for Cat, 1 for Dog."""
    rows, labels = [], []
    for label, folder in enumerate(FOLDERS):
        for path in sorted((root / "PetImages" / folder).glob("*.jpg")):
            content = np.fromfile(path, np.uint8)
            photo = cv2.imdecode(content, cv2.IMREAD_COLOR) if content.size else None
            if photo is not None:
                rows.append(cv2.resize(photo, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA).ravel())
                labels.append(label)
    return np.stack(rows).astype(np.float32), np.array(labels)


@threadpool_limits.wrap(limits=1)  # threads only get in each other's way on problems of this size
def cross_validated_accuracy(name: str, features: np.ndarray, labels: np.ndarray) -> float:
    """The fraction of photos that one of `MODELS` classifies correctly when trained on the other folds."""
    model, penalties = MODELS[name]
    grid = {f"model__{key}": values for key, values in penalties.items()}
    held_out = StratifiedShuffleSplit(1, test_size=0.25, random_state=0)
    search = GridSearchCV(Pipeline([("scale", StandardScaler()), ("model", model)]), grid, cv=held_out)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    return float((cross_val_predict(search, features, labels, cv=folds) == labels).mean())


def measure(given: argparse.Namespace) -> None:
    """Draw the photos into a temporary folder and print the accuracy of each model."""
    with tempfile.TemporaryDirectory() as folder:
        draw_petimages(Path(folder), num_photos=given.photos, seed=given.seed)
        features, labels = read_thumbnails(Path(folder))
    for name in MODELS:
        accuracy = cross_validated_accuracy(name, features, labels)
        half_width = 1.96 * (accuracy * (1 - accuracy) / len(labels)) ** 0.5
        print(f"{name} on {THUMBNAIL}x{THUMBNAIL} thumbnails: {accuracy:.3f} +- {half_width:.3f}, n = {len(labels)}")


if __name__ == "__main__":
    run_command(__doc__, measure, photos={"type": int, "default": 1600}, seed={"type": int, "default": 0})
