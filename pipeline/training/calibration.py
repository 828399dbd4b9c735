"""Temperature scaling: one number, fitted on validation, that makes a network's probabilities calibrated."""

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn.functional import cross_entropy

LOWEST, HIGHEST = 0.05, 20.0
FOLDS = 5


def class_weight(setting: str, train_labels: Tensor) -> Tensor | None:
    """What a photo of each class counts, (classes,) float64, for "balanced", as in scikit-learn; None for "none".

    >>> class_weight("balanced", torch.tensor([0, 0, 0, 1]))
    tensor([0.6667, 2.0000], dtype=torch.float64)
    """
    if setting == "none":
        return None
    photos = train_labels.bincount().double()
    return len(train_labels) / (len(photos) * photos)


def fit_temperature(logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> float:
    """The temperature with the least log-loss (Guo et al., On calibration of modern neural networks, ICML 2017).

    The log-loss is convex in 1 / temperature, so the minimum is the only one; it is sought between 0.05 and 20. On photos that
    are all predicted right it would run away to zero, though so many photos cannot show that mistakes never happen. There
    the labels are taken to be wrong once in n + 2 times (Platt, Probabilistic outputs for support vector machines, 1999).
    Logits are (n, classes), finite, labels (n,) int64; `weight`, (classes,), is what a photo of each class counts.
    """
    values = logits.double()
    num_photos, num_classes = values.shape
    all_right = bool((values.argmax(1) == labels).all())
    # torch gives each class, the true one too, an equal part of the smoothing.
    smoothing = num_classes / (num_classes - 1) / (num_photos + 2) if all_right else 0.0

    def loss(inverse: float) -> float:
        if weight is None:
            return cross_entropy(values * inverse, labels, label_smoothing=smoothing).item()
        # torch would weigh the smoothing of a photo by the other classes' weights.
        losses = cross_entropy(values * inverse, labels, label_smoothing=smoothing, reduction="none")
        return float((losses * weight[labels]).sum() / weight[labels].sum())

    best = minimize_scalar(loss, bounds=(1 / HIGHEST, 1 / LOWEST), method="bounded", options={"xatol": 1e-6})
    return float(1 / best.x)


def cross_fitted_losses(logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
    """The log-loss of each photo with a temperature that was fitted on other photos, (n,) float64 in nats.

    Networks are compared by it: with a temperature fitted on the same photos, being lucky would look like being right. The
    arguments are those of `fit_temperature`, the photos of a class one after another: taking turns stratifies the folds. With
    weights the losses are scaled so that their plain mean is the weighted mean.
    """
    values, losses = logits.double(), torch.empty(len(labels), dtype=torch.float64)
    fold_of = torch.arange(len(labels)) % FOLDS
    for fold in fold_of.unique():
        inside = fold_of == fold
        fitted_on = ~inside if inside.sum() < len(labels) else inside
        temperature = fit_temperature(values[fitted_on], labels[fitted_on], weight)
        losses[inside] = cross_entropy(values[inside] / temperature, labels[inside], weight=weight, reduction="none")
    return losses if weight is None else losses / weight[labels].mean()


def best_clip(losses: Tensor) -> float:
    """The bound for probabilities, [clip, 1 - clip], with the least log-loss, from photos' cross-fitted losses (n,) in nats.

    A confident mistake costs -log(clip), a confident right answer -log(1 - clip). As for the temperature, labels are taken to
    be wrong once in n + 2 times (Platt): with k confident mistakes the clip is (k + 1) / (n + 2), and never 0.
    """
    of_true = np.exp(-losses.numpy())
    wrong = 1 / (len(of_true) + 2)

    def loss(clip: float) -> float:
        clipped = of_true.clip(clip, 1 - clip)
        return -float(((1 - wrong) * np.log(clipped) + wrong * np.log1p(-clipped)).mean())

    return float(min(np.geomspace(1e-6, 0.5, 1000), key=loss))
