"""What predictions are worth: accuracy with its interval, log-loss, area under the ROC curve.

scores = score(labels, probabilities, confidence=0.95)
scores.accuracy, scores.accuracy_low, scores.accuracy_high
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import log_loss, roc_auc_score

from pipeline.errors import PipelineError


@dataclass(frozen=True)
class Scores:
    """All in [0, 1] but the log-loss, which is in nats; low and high bound the accuracy's Wilson interval."""

    accuracy: float
    accuracy_low: float
    accuracy_high: float
    log_loss: float
    roc_auc: float


def score(labels: np.ndarray, probabilities: np.ndarray, *, confidence: float) -> Scores:
    """Score predictions.

    Args:
        labels: (n,) indices of classes, at least two of them present.
        probabilities: (n, classes), rows sum to 1. The prediction is the most probable class.
        confidence: level of the accuracy's interval (Wilson, Probable inference, JASA 1927), in (0, 1).

    Returns:
        The scores. The log-loss clips probabilities at the precision of their type, as scikit-learn does. With more than
        two classes the ROC area is the mean of each class against the rest.

    Raises:
        PipelineError: there is no photo, only one class, or a probability is not finite.
    """
    if len(np.unique(labels)) < 2:
        raise PipelineError("The test split holds photos of fewer than two classes, so there is nothing to score.")
    if not np.isfinite(probabilities).all():
        raise PipelineError("A predicted probability is not a finite number; the checkpoint is broken.")
    correct = int((probabilities.argmax(1) == labels).sum())
    interval = binomtest(correct, len(labels)).proportion_ci(confidence, method="wilson")
    classes = list(range(probabilities.shape[1]))
    binary = len(classes) == 2
    return Scores(
        accuracy=correct / len(labels),
        accuracy_low=float(interval.low),
        accuracy_high=float(interval.high),
        log_loss=float(log_loss(labels, probabilities, labels=classes)),
        roc_auc=float(roc_auc_score(labels, probabilities[:, 1] if binary else probabilities, multi_class="ovr")),
    )
