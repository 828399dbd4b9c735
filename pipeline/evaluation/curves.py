"""The curves behind the areas: ROC and precision-recall, as points.

points = roc(labels, probabilities)       # [(false positive rate, true positive rate), ...]

With two classes they are those of the second class. With more, every (photo, class) pair counts once, the micro average.
"""

import numpy as np
from sklearn.metrics import precision_recall_curve, roc_curve

Points = list[tuple[float, float]]


def roc(labels: np.ndarray, probabilities: np.ndarray) -> Points:
    """(false positive rate, true positive rate) from (0, 0) to (1, 1).

    Args:
        labels: (n,) indices of classes.
        probabilities: (n, classes).
    """
    false_positive, true_positive, _ = roc_curve(*_pairs(labels, probabilities))
    return list(zip(false_positive.tolist(), true_positive.tolist(), strict=True))


def precision_recall(labels: np.ndarray, probabilities: np.ndarray) -> Points:
    """(recall, precision), by falling threshold, beginning at recall 0.

    Args:
        labels: (n,) indices of classes.
        probabilities: (n, classes).
    """
    precision, recall, _ = precision_recall_curve(*_pairs(labels, probabilities), drop_intermediate=True)
    return list(zip(recall[::-1].tolist(), precision[::-1].tolist(), strict=True))


def _pairs(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether a photo is of a class, and how probable that is held."""
    classes = probabilities.shape[1]
    if classes == 2:
        return labels == 1, probabilities[:, 1]
    return (labels[:, None] == np.arange(classes)).ravel(), probabilities.ravel()
