"""Metrics of predicted probabilities: accuracy, ROC and precision-recall curves, log-loss, Brier score, calibration (ECE).

    scores = Scores(labels, probabilities, classes=("cat", "dog"), confidence_level=0.95)
    scores.metrics["accuracy"], scores.accuracy_interval, scores.roc
    compare(frozen_scores, finetuned_scores, photos["group"]).verdict      # McNemar's test, and a bootstrap over groups

A further metric is a further line of `METRICS`: it is then part of metrics.json and of the report's table.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import binomtest, norm
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    confusion_matrix,
    f1_score,
    precision_recall_curve,
    precision_recall_fscore_support,
    roc_auc_score,
    roc_curve,
)

from pipeline.training.selection import Interval, bootstrap_mean

CLIP = 1e-15  # as Kaggle clips: a wrong prediction with probability 1 costs 34.5 nats, not infinitely many
BINS = 15  # of confidence, for the reliability diagram and the ECE
POINTS = 500  # of a ROC or precision-recall curve, at most: a picture shows no more


@dataclass(frozen=True, eq=False)
class Scores:
    """The predictions of one model for n photos; each metric and curve is computed when first asked for, and once."""

    labels: np.ndarray  # (n,) indices of classes, every class present
    probabilities: np.ndarray  # (n, classes), rows sum to 1; the prediction is the most probable class
    classes: tuple[str, ...]  # their names
    confidence_level: float  # of all intervals, in (0, 1)

    @cached_property
    def predicted(self) -> np.ndarray:
        """(n,) indices of the predicted classes."""
        return self.probabilities.argmax(1)

    @cached_property
    def predicted_names(self) -> np.ndarray:
        """(n,) names of the predicted classes."""
        return np.array(self.classes)[self.predicted]

    @cached_property
    def confidence(self) -> np.ndarray:
        """(n,) probabilities of the predicted classes, from 1 / classes to 1."""
        return self.probabilities.max(1)

    @cached_property
    def correct(self) -> np.ndarray:
        """(n,) whether the prediction is the label."""
        return self.predicted == self.labels

    @cached_property
    def mistakes(self) -> np.ndarray:
        """Indices of the wrong predictions, the most confident first."""
        wrong = np.flatnonzero(~self.correct)
        return wrong[np.argsort(-self.confidence[wrong], kind="stable")]

    @cached_property
    def log_losses(self) -> np.ndarray:
        """(n,) in nats: -log of the true class's probability, clipped as Kaggle clips it."""
        of_true = self.probabilities[np.arange(len(self.labels)), self.labels]
        return -np.log(np.clip(of_true, CLIP, 1 - CLIP))

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Name -> value, for all of `METRICS`."""
        return {metric.name: float(metric.function(self)) for metric in METRICS}

    @cached_property
    def accuracy_interval(self) -> tuple[float, float]:
        """Wilson's interval of the accuracy."""
        return wilson(self.correct.sum(), len(self.labels), self.confidence_level)

    @cached_property
    def confusion(self) -> np.ndarray:
        """(classes, classes) counts: a row is a label, a column a prediction."""
        return confusion_matrix(self.labels, self.predicted, labels=np.arange(len(self.classes)))

    @cached_property
    def per_class(self) -> dict[str, dict[Any, float]]:
        """Class -> precision and recall with their Wilson intervals, F1, and support (how many photos have that label).

        The precision of a class that is never predicted is 0, and its interval is everything.
        """
        values = precision_recall_fscore_support(
            self.labels, self.predicted, labels=np.arange(len(self.classes)), zero_division=0
        )
        columns = dict(zip(("precision", "recall", "f1", "support"), values, strict=True))
        for metric, totals in (("precision", self.confusion.sum(0)), ("recall", columns["support"])):
            bounds = wilson(self.confusion.diagonal(), totals, self.confidence_level)
            columns |= dict(zip((f"{metric}_low", f"{metric}_high"), bounds, strict=True))
        return dict(zip(self.classes, pd.DataFrame(columns).to_dict("records"), strict=True))

    @cached_property
    def roc(self) -> pd.DataFrame:
        """The ROC curve from (0, 0) to (1, 1): false_positive_rate, true_positive_rate.

        With two classes it is that of the second; with more, every (photo, class) pair counts once (the micro average).
        """
        false_positives, true_positives, _ = roc_curve(*map(np.ravel, self.one_vs_rest))
        return _thinned(pd.DataFrame({"false_positive_rate": false_positives, "true_positive_rate": true_positives}))

    @cached_property
    def precision_recall(self) -> pd.DataFrame:
        """The precision-recall curve from recall 0 to 1: recall, precision; of the same classes as the ROC curve."""
        precision, recall, _ = precision_recall_curve(*map(np.ravel, self.one_vs_rest), drop_intermediate=True)
        return _thinned(pd.DataFrame({"recall": recall[::-1], "precision": precision[::-1]}))

    @cached_property
    def reliability(self) -> pd.DataFrame:
        """The reliability diagram: mean confidence, accuracy and photos of each of 15 equally wide bins that holds any."""
        bins = np.minimum((self.confidence * BINS).astype(int), BINS - 1)
        table = pd.DataFrame({"confidence": self.confidence, "accuracy": self.correct.astype(float), "photos": 1})
        return table.groupby(bins).agg({"confidence": "mean", "accuracy": "mean", "photos": "sum"}).reset_index(drop=True)

    def as_dict(self) -> dict[str, Any]:
        """All metrics, the accuracy's interval and the metrics of each class, for metrics.json."""
        low, high = self.accuracy_interval
        return self.metrics | {"accuracy_low": low, "accuracy_high": high, "per_class": self.per_class}

    @property
    def one_vs_rest(self) -> tuple[np.ndarray, np.ndarray]:
        """What ranks photos: (n,) of the second class where there are two; else (n, classes), each class against the rest."""
        one_hot = self.labels[:, None] == np.arange(len(self.classes))
        return (one_hot[:, 1], self.probabilities[:, 1]) if len(self.classes) == 2 else (one_hot, self.probabilities)


class Metric(NamedTuple):
    """A metric: its name in metrics.json, its function, and its label, meaning and format in the report."""

    name: str
    label: str
    meaning: str
    function: Callable[[Scores], float]
    format: str = ".4f"
    lower_is_better: bool = False


def ece(scores: Scores) -> float:
    """The expected calibration error in [0, 1] (Guo et al., On calibration of modern neural networks, ICML 2017).

    The mean distance between confidence and accuracy over the bins of the reliability diagram, weighted by their photos.
    """
    bins = scores.reliability
    return float((bins["photos"] * (bins["confidence"] - bins["accuracy"]).abs()).sum() / len(scores.labels))


METRICS = (
    Metric("accuracy", "Accuracy", "fraction of photos classified correctly", lambda s: s.correct.mean(), ".2%"),
    Metric(
        "balanced_accuracy",
        "Balanced accuracy",
        "mean recall of the classes",
        lambda s: balanced_accuracy_score(s.labels, s.predicted),
        ".2%",
    ),
    Metric("f1", "Macro F1", "mean F1 of the classes", lambda s: f1_score(s.labels, s.predicted, average="macro")),
    Metric(
        "roc_auc",
        "ROC-AUC",
        "area under the ROC curve; of three classes or more, the mean over each against the rest",
        lambda s: roc_auc_score(*s.one_vs_rest),
    ),
    Metric(
        "pr_auc",
        "PR-AUC",
        "average precision; of three classes or more, likewise",
        lambda s: average_precision_score(*s.one_vs_rest),
    ),
    Metric(
        "log_loss", "Log-loss", "nats, clipped at 1e-15 as Kaggle does", lambda s: s.log_losses.mean(), lower_is_better=True
    ),
    Metric(
        "brier",
        "Brier score",
        "squared error of the probabilities, summed over the classes (halved for two)",
        lambda s: brier_score_loss(s.labels, s.one_vs_rest[1], labels=np.arange(len(s.classes))),
        lower_is_better=True,
    ),
    Metric("ece", "Calibration error (ECE)", f"distance of confidence from accuracy, {BINS} bins", ece, lower_is_better=True),
)


def wilson(correct: ArrayLike, total: ArrayLike, confidence_level: float) -> tuple[Any, Any]:
    """Wilson's confidence intervals of `correct` of `total` (Probable inference, JASA 1927); of 0 photos it is everything."""
    correct, total = np.asarray(correct, dtype=float), np.asarray(total, dtype=float)
    z_squared = norm.ppf(0.5 + confidence_level / 2) ** 2
    centre, wrong = correct + z_squared / 2, total - correct
    arm = np.sqrt(z_squared * (correct * wrong / np.maximum(total, 1) + z_squared / 4))
    low, high = ((centre + arm * sign) / (total + z_squared) for sign in (-1, 1))
    return np.where(correct == 0, 0.0, low)[()], np.where(wrong == 0, 1.0, high)[()]  # exactly, whatever the rounding


def _thinned(curve: pd.DataFrame) -> pd.DataFrame:
    """At most `POINTS` of a curve's points, the first and the last among them, and none inside a level or upright stretch."""
    inside = ((curve == curve.shift(1)) & (curve == curve.shift(-1))).any(axis=1)
    curve = curve[~inside]
    places = np.linspace(0, len(curve) - 1, min(len(curve), POINTS)).round().astype(int)
    return curve.iloc[places].reset_index(drop=True)


RESAMPLES = 2000


class Comparison(NamedTuple):
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
    p_value = float(binomtest(only_second, differing).pvalue) if differing else 1.0
    log_loss_gain = bootstrap_mean(first.log_losses - second.log_losses, groups, level, resamples=RESAMPLES)
    return Comparison(only_first, only_second, p_value, accuracy_gain, log_loss_gain, level)
