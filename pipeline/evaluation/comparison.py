"""Whether one model is better than another on the same photos, or only luckier.

comparison = compare(labels, before, after, confidence_level=0.95)
comparison.p_value, comparison.accuracy_gain, comparison.log_loss_gain
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from pipeline.evaluation.metrics import log_losses

RESAMPLES = 2_000
VALUES_AT_ONCE = 1_000_000


@dataclass(frozen=True)
class Gain:
    """How much better the second model is than the first, positive where better, with the bounds of its interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Two models on the same photos.

    Attributes:
        only_first: photos that the first model alone gets right.
        only_second: photos that the second alone gets right.
        p_value: of McNemar's exact test that the two are equally often right.
        accuracy: the second's accuracy less the first's.
        log_loss: the first's log-loss less the second's, in nats.
    """

    only_first: int
    only_second: int
    p_value: float
    accuracy: Gain
    log_loss: Gain

    @property
    def verdict(self) -> str:
        """What the second is: better, worse or no different, by how often it is right, at a p-value below 0.05."""
        if self.p_value >= 0.05:
            return "no different"
        return "better" if self.only_second > self.only_first else "worse"


def compare(labels: np.ndarray, first: np.ndarray, second: np.ndarray, *, confidence_level: float) -> Comparison:
    """Compare two models by their predictions of the same photos.

    McNemar's test (Note on the sampling error of the difference between correlated proportions, Psychometrika 1947) in its
    exact form looks only at the photos on which one is right and the other wrong. The intervals come from resampling photos,
    both models' predictions together (Efron, Bootstrap methods, Annals of Statistics 1979).

    Args:
        labels: (n,) indices of classes.
        first, second: (n, classes) probabilities.
        confidence_level: level of the intervals, in (0, 1).
    """
    right_first, right_second = (values.argmax(1) == labels for values in (first, second))
    only_first, only_second = int((right_first & ~right_second).sum()), int((right_second & ~right_first).sum())
    differing = only_first + only_second
    p_value = binomtest(only_second, differing).pvalue if differing else 1.0
    differences = np.stack(
        [right_second.astype(float) - right_first, log_losses(labels, first) - log_losses(labels, second)], axis=1
    )
    accuracy, log_loss = _gains(differences, confidence_level)
    return Comparison(only_first, only_second, float(p_value), accuracy, log_loss)


def _gains(differences: np.ndarray, confidence_level: float) -> list[Gain]:
    """The mean of each column of (n, columns), with the percentiles of its bootstrap distribution."""
    random, count = np.random.default_rng(0), len(differences)
    block = max(VALUES_AT_ONCE // count, 1)
    means = [
        differences[random.integers(count, size=(min(block, RESAMPLES - start), count))].mean(1)
        for start in range(0, RESAMPLES, block)
    ]
    tail = (1 - confidence_level) / 2
    lows, highs = np.quantile(np.concatenate(means), [tail, 1 - tail], axis=0)
    return [Gain(*map(float, triple)) for triple in zip(differences.mean(0), lows, highs, strict=True)]
