"""What predictions are worth: accuracy with its interval, and the usual scores beside it.

scores = score(labels, probabilities, confidence_level=0.95)
scores.accuracy, scores.accuracy_low, scores.accuracy_high
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score, balanced_accuracy_score, brier_score_loss, f1_score, roc_auc_score

from pipeline.errors import PipelineError
from pipeline.evaluation.calibration import calibration_error

CLIP = 1e-15  # as Kaggle clips: one sure and wrong prediction costs 34.5 nats, not infinitely many


@dataclass(frozen=True)
class Scores:
    """All in [0, 1] but the log-loss, which is in nats; low and high bound the accuracy's Wilson interval."""

    accuracy: float
    accuracy_low: float
    accuracy_high: float
    balanced_accuracy: float
    log_loss: float
    roc_auc: float
    pr_auc: float
    f1: float
    brier: float
    calibration_error: float


def score(labels: np.ndarray, probabilities: np.ndarray, *, confidence_level: float) -> Scores:
    """Score predictions.

    Args:
        labels: (n,) indices of classes, every class present.
        probabilities: (n, classes), rows sum to 1. The prediction is the most probable class.
        confidence_level: level of the accuracy's interval, in (0, 1).

    Returns:
        The scores. With two classes the areas are those of the second class, and the Brier score is the mean square of what
        is missing from the true class's probability; with more, areas are means of each class against the rest, and the
        Brier score sums the squares over the classes. F1 is the mean over the classes in either case.

    Raises:
        PipelineError: there is no photo, only one class, a class without photos, or a probability is not finite.
    """
    present, classes = np.unique(labels), np.arange(probabilities.shape[1])
    if len(present) < 2:
        raise PipelineError("The test split holds photos of fewer than two classes, so there is nothing to score.")
    if len(present) < len(classes):
        raise PipelineError(f"The test split holds photos of only {len(present)} of {len(classes)} classes.")
    refuse_broken(probabilities)
    predicted = probabilities.argmax(1)
    correct = int((predicted == labels).sum())
    low, high = wilson(correct, len(labels), confidence_level)
    of_each = probabilities[:, 1] if len(classes) == 2 else probabilities
    one_hot = labels[:, None] == classes
    return Scores(
        accuracy=correct / len(labels),
        accuracy_low=low,
        accuracy_high=high,
        balanced_accuracy=float(balanced_accuracy_score(labels, predicted)),
        log_loss=float(log_losses(labels, probabilities).mean()),
        roc_auc=float(roc_auc_score(labels, of_each, multi_class="ovr")),
        pr_auc=float(average_precision_score(one_hot[:, 1] if len(classes) == 2 else one_hot, of_each)),
        f1=float(f1_score(labels, predicted, average="macro")),
        brier=float(brier_score_loss(labels, of_each, labels=classes)),
        calibration_error=calibration_error(labels, probabilities),
    )


def refuse_broken(probabilities: np.ndarray) -> None:
    """Stop at a probability that is no number.

    Raises:
        PipelineError: a probability is not finite.
    """
    if not np.isfinite(probabilities).all():
        raise PipelineError(
            "A predicted probability is not a finite number; the checkpoint is broken. Make it again with: dvc repro --force"
        )


def wilson(correct: int, total: int, confidence_level: float) -> tuple[float, float]:
    """The interval of a share (Wilson, Probable inference, JASA 1927).

    Args:
        correct: of `total`, which is at least 1.
        total: number of trials.
        confidence_level: level, in (0, 1).
    """
    interval = binomtest(correct, total).proportion_ci(confidence_level, method="wilson")
    return float(interval.low), float(interval.high)


def log_losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """What each prediction costs, (n,) in nats: -log of the true class's probability, clipped as Kaggle clips it."""
    of_true = probabilities[np.arange(len(labels)), labels]
    return -np.log(np.clip(of_true, CLIP, 1 - CLIP))
