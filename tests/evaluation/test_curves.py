"""Curves: their ends, and the areas under them."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pipeline.evaluation.curves import precision_recall, roc


@pytest.mark.parametrize("classes", [2, 4])
def test_the_area_under_the_points_is_the_score(classes: int) -> None:
    random = np.random.default_rng(0)
    labels = random.integers(classes, size=300)
    probabilities = random.dirichlet(np.ones(classes), 300)
    probabilities[np.arange(300), labels] += 0.3
    probabilities /= probabilities.sum(1, keepdims=True)
    x, y = np.array(roc(labels, probabilities)).T
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    pairs = (labels[:, None] == np.arange(classes)).ravel(), probabilities.ravel()
    expected = roc_auc_score(labels, probabilities[:, 1]) if classes == 2 else roc_auc_score(*pairs)
    assert np.trapezoid(y, x) == pytest.approx(expected)
    recall, precision = np.array(precision_recall(labels, probabilities)).T
    assert (recall[0], precision[0], recall[-1]) == (0, 1, 1)
    assert (np.diff(recall) >= 0).all()
