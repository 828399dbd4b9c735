"""Scores against values that were worked out by hand or are published."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss

from pipeline.errors import PipelineError
from pipeline.evaluation.metrics import log_losses, score, wilson


def test_two_classes() -> None:
    labels = np.array([0, 0, 1, 1])
    cat = np.array([0.9, 0.4, 0.2, 0.3])
    scores = score(labels, np.stack([cat, 1 - cat], 1), confidence_level=0.95)
    assert scores.accuracy == scores.balanced_accuracy == 0.75
    assert scores.log_loss == pytest.approx(-np.log([0.9, 0.4, 0.8, 0.7]).mean())
    assert scores.brier == pytest.approx(np.square([0.1, 0.6, 0.2, 0.3]).mean())
    assert scores.roc_auc == scores.pr_auc == 1.0
    assert scores.f1 == pytest.approx((2 / 3 + 4 / 5) / 2)


def test_the_interval_is_wilsons() -> None:
    """81 of 263 gives 0.2553 to 0.3662 (Newcombe, Statistics in Medicine, 1998, table I)."""
    labels = np.array([0] * 81 + [1] * 182)
    probabilities = np.tile([0.9, 0.1], (263, 1))
    scores = score(labels, probabilities, confidence_level=0.95)
    assert scores.accuracy_low == pytest.approx(0.2553, abs=5e-5)
    assert scores.accuracy_high == pytest.approx(0.3662, abs=5e-5)
    assert scores.balanced_accuracy == 0.5


@given(st.integers(1, 500), st.data())
def test_the_interval_holds_the_share_and_narrows_with_more_photos(total: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, total))
    low, high = wilson(correct, total, 0.95)
    assert 0 <= low <= correct / total <= high <= 1
    lower, higher = wilson(10 * correct, 10 * total, 0.95)
    assert higher - lower < high - low


def test_more_than_two_classes() -> None:
    labels = np.array([0, 1, 2, 2])
    probabilities = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.5, 0.3, 0.2]])
    scores = score(labels, probabilities, confidence_level=0.9)
    assert scores.accuracy == 0.75
    assert scores.roc_auc == 1.0  # each class is ranked above the rest, although one photo is predicted wrong
    assert scores.brier == pytest.approx((3 * (0.04 + 0.01 + 0.01) + 0.25 + 0.09 + 0.64) / 4)
    assert scores.log_loss == pytest.approx(log_loss(labels, probabilities))


def test_a_sure_mistake_costs_what_kaggle_charges() -> None:
    assert log_losses(np.array([0]), np.array([[0.0, 1.0]])) == pytest.approx(34.5, abs=0.05)
    assert log_losses(np.array([1]), np.array([[0.0, 1.0]])) == pytest.approx(0.0, abs=1e-14)


def test_what_cannot_be_scored_is_told() -> None:
    with pytest.raises(PipelineError, match="fewer than two classes"):
        score(np.array([1, 1]), np.array([[0.5, 0.5]] * 2), confidence_level=0.95)
    with pytest.raises(PipelineError, match="fewer than two classes"):
        score(np.array([], int), np.empty((0, 2)), confidence_level=0.95)
    with pytest.raises(PipelineError, match="2 of 3 classes"):
        score(np.array([0, 1]), np.full((2, 3), 1 / 3), confidence_level=0.95)
    with pytest.raises(PipelineError, match="not a finite number"):
        score(np.array([0, 1]), np.array([[0.5, np.nan], [0.5, 0.5]]), confidence_level=0.95)
