"""Confidence against accuracy, on predictions whose calibration is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.calibration import calibration_error, reliability, temper


def sure(values: list[float]) -> np.ndarray:
    first = np.array(values)
    return np.stack([first, 1 - first], 1)


def test_the_error_is_the_weighted_distance_of_the_bins() -> None:
    """Four predictions at 0.95, three right; six at 0.65, all right: 4/10 · 0.2 + 6/10 · 0.35."""
    probabilities = sure([0.95] * 4 + [0.65] * 6)
    labels = np.array([0, 0, 0, 1] + [0] * 6)
    assert [(one.photos, one.accuracy) for one in reliability(labels, probabilities)] == [(6, 1.0), (4, 0.75)]
    assert calibration_error(labels, probabilities) == pytest.approx(0.4 * 0.2 + 0.6 * 0.35)


def test_certainty_that_is_right_has_no_error() -> None:
    assert calibration_error(np.array([0, 1]), np.array([[1.0, 0.0], [0.0, 1.0]])) == 0


def test_bins_hold_every_photo_once() -> None:
    probabilities = np.random.default_rng(0).dirichlet([1, 1, 1], 500)
    bins = reliability(np.zeros(500, dtype=int), probabilities)
    assert sum(one.photos for one in bins) == 500
    assert all(1 / 3 <= one.confidence <= 1 for one in bins)


@given(st.lists(st.floats(-30, 30), min_size=2, max_size=5), st.floats(0.1, 10))
def test_a_temperature_divides_the_logits_and_changes_no_prediction(logits: list[float], temperature: float) -> None:
    def softmax(values: np.ndarray) -> np.ndarray:
        powers = np.exp(values - values.max())
        return powers / powers.sum()

    values = np.array(logits)
    tempered = temper(softmax(values)[None], temperature)[0]
    assert tempered == pytest.approx(softmax(values / temperature), abs=1e-9)
    assert tempered[values.argmax()] == pytest.approx(tempered.max())
