"""Paired comparison against closed forms."""

import numpy as np
import pytest

from pipeline.evaluation.metrics import RESAMPLES, Comparison, Scores, compare
from pipeline.training.selection import bootstrap_mean


def scores_of(wrong: list[int], count: int = 40, *, confidence: float = 0.9, level: float = 0.95) -> Scores:
    """Predictions of equal confidence, wrong for some photos."""
    labels = np.arange(count) % 2
    chosen = labels.copy()
    chosen[wrong] = 1 - chosen[wrong]
    probabilities = np.where(np.arange(2) == chosen[:, None], confidence, 1 - confidence)
    return Scores(labels, probabilities, ("cat", "dog"), level)


def ten_against_two(level: float = 0.95) -> tuple[Comparison, Comparison]:
    first, second = scores_of(list(range(10)), level=level), scores_of([10, 11], level=level)
    return compare(first, second, range(40)), compare(second, first, range(40))


def test_the_p_value_is_mcnemars_exact_one() -> None:
    """Ten photos that only the second classifies correctly, two only the first: 2 · P(at most 2 of 12) = 158 / 4096."""
    comparison, reverse = ten_against_two()
    assert (comparison.only_first, comparison.only_second) == (2, 10)
    assert comparison.p_value == pytest.approx(158 / 4096)
    assert comparison.accuracy_gain.mean == pytest.approx(8 / 40)
    assert (comparison.verdict, reverse.verdict) == ("better", "worse")


def test_the_verdict_holds_at_the_confidence_level() -> None:
    """p = 0.039: enough at 95%, too little at 99%."""
    assert [one.verdict for one in ten_against_two(0.99)] == ["no different", "no different"]


def test_photos_that_look_alike_are_no_evidence_each() -> None:
    """The ten photos that only the second classifies correctly are copies of one."""
    comparison = compare(scores_of([*range(10)]), scores_of([10, 11]), [0] * 10 + [*range(10, 40)])
    assert (comparison.p_value < 0.05, comparison.verdict) == (True, "no different")


def test_equal_models_differ_in_nothing_that_so_many_photos_can_show() -> None:
    scores = scores_of([0, 1])
    comparison = compare(scores, scores, range(40))
    assert comparison.as_dict() == {
        "accuracy_gain": 0.0,
        "accuracy_gain_low": -comparison.accuracy_gain.high,
        "accuracy_gain_high": pytest.approx(0.0876, abs=1e-4),  # Wilson's bound of 0 in 40
        **dict.fromkeys(("log_loss_gain", "log_loss_gain_low", "log_loss_gain_high"), 0.0),
        "p_value": 1.0,
        "verdict": "no different",
    }


def test_a_lower_log_loss_is_a_gain() -> None:
    gain = compare(scores_of([], confidence=0.6), scores_of([], confidence=0.9), range(40)).log_loss_gain
    assert gain.mean == pytest.approx(np.log(0.9 / 0.6))
    assert gain.low > 0


def test_the_bootstrap_agrees_with_the_normal_interval_of_many_photos_and_turns_with_the_sign() -> None:
    differences = np.random.default_rng(1).choice([-1.0, 0.0, 1.0], 4000, p=[0.1, 0.75, 0.15])
    gain, opposite = (bootstrap_mean(one, range(4000), 0.95, resamples=RESAMPLES) for one in (differences, -differences))
    half = 1.96 * differences.std() / np.sqrt(4000)
    assert gain == pytest.approx((differences.mean(), gain.mean - half, gain.mean + half), abs=0.15 * half)
    assert opposite == pytest.approx((-gain.mean, -gain.high, -gain.low), abs=1e-12)
