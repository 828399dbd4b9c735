"""Scores against values that were worked out by hand or are published."""

import numpy as np
import pytest

from pipeline.errors import PipelineError
from pipeline.evaluation.metrics import score


def test_two_classes() -> None:
    labels = np.array([0, 0, 1, 1])
    cat = np.array([0.9, 0.4, 0.2, 0.3])
    scores = score(labels, np.stack([cat, 1 - cat], 1), confidence=0.95)
    assert scores.accuracy == 0.75
    assert scores.log_loss == pytest.approx(-np.log([0.9, 0.4, 0.8, 0.7]).mean())
    assert scores.roc_auc == 1.0


def test_the_interval_is_wilsons() -> None:
    """81 of 263 gives 0.2553 to 0.3662 (Newcombe, Statistics in Medicine, 1998, table I)."""
    labels = np.array([0] * 81 + [1] * 182)
    probabilities = np.tile([0.9, 0.1], (263, 1))
    scores = score(labels, probabilities, confidence=0.95)
    assert scores.accuracy_low == pytest.approx(0.2553, abs=5e-5)
    assert scores.accuracy_high == pytest.approx(0.3662, abs=5e-5)


def test_more_than_two_classes() -> None:
    labels = np.array([0, 1, 2, 2])
    probabilities = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.5, 0.3, 0.2]])
    scores = score(labels, probabilities, confidence=0.9)
    assert scores.accuracy == 0.75
    assert scores.roc_auc == 1.0  # each class is ranked above the rest, although one photo is predicted wrong


def test_what_cannot_be_scored_is_told() -> None:
    with pytest.raises(PipelineError, match="fewer than two classes"):
        score(np.array([1, 1]), np.array([[0.5, 0.5]] * 2), confidence=0.95)
    with pytest.raises(PipelineError, match="fewer than two classes"):
        score(np.array([], int), np.empty((0, 2)), confidence=0.95)
    with pytest.raises(PipelineError, match="not a finite number"):
        score(np.array([0, 1]), np.array([[0.5, np.nan], [0.5, 0.5]]), confidence=0.95)
