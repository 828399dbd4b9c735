"""Paired comparison against closed forms."""

import numpy as np
import pytest

from pipeline.evaluation.comparison import compare


def predicting(classes: list[int], confidence: float = 0.9) -> np.ndarray:
    return np.array([[confidence, 1 - confidence] if chosen == 0 else [1 - confidence, confidence] for chosen in classes])


def test_the_p_value_is_mcnemars_exact_one() -> None:
    """Ten photos that only the second gets right, two that only the first does: 2 · P(at most 2 of 12) = 158 / 4096."""
    labels = np.zeros(40, dtype=int)
    first, second = predicting([1] * 10 + [0] * 30), predicting([0] * 10 + [1] * 2 + [0] * 28)
    comparison = compare(labels, first, second, confidence_level=0.95)
    assert (comparison.only_first, comparison.only_second) == (2, 10)
    assert comparison.p_value == pytest.approx(158 / 4096)
    assert comparison.verdict == "better"
    assert compare(labels, second, first, confidence_level=0.95).verdict == "worse"
    assert comparison.accuracy.mean == pytest.approx(8 / 40)


def test_equal_models_differ_in_nothing() -> None:
    values = predicting([0, 1, 0, 1])
    comparison = compare(np.array([0, 1, 1, 1]), values, values, confidence_level=0.95)
    assert comparison.p_value == 1
    assert comparison.verdict == "no different"
    assert (comparison.accuracy.mean, comparison.accuracy.low, comparison.accuracy.high) == (0, 0, 0)


def test_the_bootstrap_agrees_with_the_normal_interval_of_many_photos() -> None:
    random = np.random.default_rng(1)
    labels = np.zeros(4000, dtype=int)
    first, second = (predicting((random.random(4000) > share).astype(int).tolist()) for share in (0.8, 0.85))
    gain = compare(labels, first, second, confidence_level=0.95).accuracy
    differences = (second.argmax(1) == labels).astype(float) - (first.argmax(1) == labels)
    half = 1.96 * differences.std() / np.sqrt(4000)
    assert gain.mean == pytest.approx(differences.mean())
    assert gain.low == pytest.approx(gain.mean - half, abs=0.15 * half)
    assert gain.high == pytest.approx(gain.mean + half, abs=0.15 * half)


def test_a_lower_log_loss_is_a_gain() -> None:
    labels = np.zeros(20, dtype=int)
    gain = compare(labels, predicting([0] * 20, 0.6), predicting([0] * 20, 0.9), confidence_level=0.95).log_loss
    assert gain.mean == pytest.approx(np.log(0.9 / 0.6))
    assert gain.low > 0
