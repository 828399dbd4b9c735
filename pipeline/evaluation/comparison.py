"""Paired comparison of two models: McNemar's exact test and a bootstrap over groups of photos that look alike.

comparison = compare(frozen_scores, finetuned_scores, photos["group"])
comparison.p_value, comparison.accuracy_gain, comparison.verdict
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from scipy.stats import binomtest

from pipeline.evaluation.metrics import Scores, wilson
from pipeline.training.selection import Interval, bootstrap_mean

RESAMPLES = 2000


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
        """The second model is "better", "worse" or "no different", by accuracy at the confidence level.

        Both the test and the interval must show it: the test takes photos that look alike for so many independent ones.
        """
        better = self.only_second > self.only_first
        shown = self.accuracy_gain.low > 0 if better else self.accuracy_gain.high < 0
        return ("better" if better else "worse") if shown and self.p_value < 1 - self.confidence_level else "no different"

    def as_dict(self) -> dict[str, float | str]:
        """Gains with their intervals, p-value and verdict, for metrics.json."""
        names = [f"{name}_gain{bound}" for name in ("accuracy", "log_loss") for bound in ("", "_low", "_high")]
        gains = zip(names, [*self.accuracy_gain, *self.log_loss_gain], strict=True)
        return {**dict(gains), "p_value": self.p_value, "verdict": self.verdict}


def compare(first: Scores, second: Scores, groups: Sequence[Hashable]) -> Comparison:
    """Compare two models by their predictions for the same photos, at the confidence level of the first's scores.

    McNemar's test (Note on the sampling error of the difference between correlated proportions, Psychometrika 1947) in its
    exact form looks only at the photos that one model classifies correctly and the other does not. `groups`, (n,), are equal
    where photos look alike; the bootstrap draws them whole, the test counts photos one by one.
    """
    level = first.confidence_level
    only_first, only_second = int((first.correct & ~second.correct).sum()), int((second.correct & ~first.correct).sum())
    differing = only_first + only_second
    if differing:
        accuracy_gain = bootstrap_mean(second.correct.astype(float) - first.correct, groups, level, resamples=RESAMPLES)
    else:  # no draw differs either, though other photos might
        most = float(wilson(0, len(set(groups)), level)[1])
        accuracy_gain = Interval(0.0, -most, most)
    return Comparison(
        only_first,
        only_second,
        float(binomtest(only_second, differing).pvalue) if differing else 1.0,
        accuracy_gain,
        bootstrap_mean(first.log_losses - second.log_losses, groups, level, resamples=RESAMPLES),
        level,
    )
