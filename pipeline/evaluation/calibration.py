"""Whether a model's confidence can be believed: the reliability diagram and the error that it comes to.

calibration_error(labels, probabilities)                  # 0.03: confidence is off by 3 points on average
calibrated = temper(probabilities, temperature)           # the temperature was fitted on validation
"""

from dataclasses import dataclass

import numpy as np

BINS = 15


@dataclass(frozen=True)
class Bin:
    """Predictions of about the same confidence: how sure they are on average, and how often they are right."""

    confidence: float
    accuracy: float
    photos: int


def reliability(labels: np.ndarray, probabilities: np.ndarray) -> tuple[Bin, ...]:
    """The reliability diagram: predictions in 15 equally wide bins of confidence, empty bins left out.

    A prediction's confidence is the probability of the class that it chooses; with two classes it is at least 1/2.

    Args:
        labels: (n,) indices of classes.
        probabilities: (n, classes), rows sum to 1.
    """
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == labels
    number = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return tuple(
        Bin(float(confidence[number == index].mean()), float(right[number == index].mean()), int((number == index).sum()))
        for index in np.unique(number)
    )


def calibration_error(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The expected calibration error (Guo et al., On calibration of modern neural networks, ICML 2017), in [0, 1].

    The mean distance of confidence from accuracy over the bins of `reliability`, weighted by their photos.
    """
    bins = reliability(labels, probabilities)
    return sum(one.photos * abs(one.confidence - one.accuracy) for one in bins) / len(labels)


def temper(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities (n, classes) of the same logits divided by a temperature: above 1 less sure, below 1 surer.

    The softmax forgets a logit's constant alone, so logarithms of probabilities serve as logits. No prediction changes.
    """
    logits = np.log(np.clip(probabilities, np.finfo(np.float64).tiny, None)) / temperature
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
