"""Paired comparison of two models: McNemar's exact test and a bootstrap over photos.

comparison = compare(frozen_scores, finetuned_scores)
comparison.p_value, comparison.accuracy_gain, comparison.verdict
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest, bootstrap

from pipeline.evaluation.metrics import Scores

RESAMPLES = 2000
VALUES_AT_ONCE = 1_000_000  # resampled, which bounds the memory


class Interval(NamedTuple):
    """A mean with the bounds of its interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Two models on the same photos, at a confidence level for the intervals and the verdict."""

    only_first: int  # photos that the first model alone classifies correctly
    only_second: int
    p_value: float  # of McNemar's exact test that both are equally often correct
    accuracy_gain: Interval  # positive where the second model is better
    log_loss_gain: Interval  # likewise, in nats
    confidence_level: float

    @property
    def verdict(self) -> str:
        """The second model is "better", "worse" or "no different", by accuracy at the confidence level."""
        direction = "better" if self.only_second > self.only_first else "worse"
        return direction if self.p_value < 1 - self.confidence_level else "no different"

    def as_dict(self) -> dict[str, float | str]:
        """Gains with their intervals, p-value and verdict, for metrics.json."""
        names = [f"{name}_gain{bound}" for name in ("accuracy", "log_loss") for bound in ("", "_low", "_high")]
        gains = zip(names, [*self.accuracy_gain, *self.log_loss_gain], strict=True)
        return {**dict(gains), "p_value": self.p_value, "verdict": self.verdict}


def compare(first: Scores, second: Scores) -> Comparison:
    """Compare two models by their predictions for the same photos, at the confidence level of the first's scores.

    McNemar's test (Note on the sampling error of the difference between correlated proportions, Psychometrika 1947) in its
    exact form looks only at the photos that one model classifies correctly and the other does not.
    """
    level = first.confidence_level
    only_first, only_second = int((first.correct & ~second.correct).sum()), int((second.correct & ~first.correct).sum())
    differing = only_first + only_second
    return Comparison(
        only_first,
        only_second,
        float(binomtest(only_second, differing).pvalue) if differing else 1.0,
        bootstrap_mean(second.correct.astype(float) - first.correct, level),
        bootstrap_mean(first.log_losses - second.log_losses, level),
        level,
    )


def bootstrap_mean(values: np.ndarray, confidence_level: float) -> Interval:
    """The mean of (n,) values with its percentile interval (Efron, Bootstrap methods, Annals of Statistics 1979).

    Which photos are drawn is the same in every call with n values, which are at least 2.
    """
    batch = max(VALUES_AT_ONCE // len(values), 1)
    drawn = bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, batch=batch, confidence_level=confidence_level, method="percentile", rng=0
    )
    return Interval(float(values.mean()), *map(float, drawn.confidence_interval))
