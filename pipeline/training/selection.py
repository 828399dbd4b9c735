"""Model selection on validation: calibrated networks, and whether fine-tuned weights beat the frozen ones beyond chance.

Temperature scaling is one number, fitted on validation, that makes a network's probabilities calibrated; networks are compared
by log-loss with a temperature that was fitted on other photos. Candidates are the best epoch's weights and points between them
and the frozen ones (WiSE-FT: Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022). The best of several looks
better than it is, so it replaces the frozen weights only where a paired bootstrap shows a gain. The bound is that of one
comparison: it is not widened for the number of candidates, which are much alike.
"""

from collections.abc import Hashable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import bootstrap, entropy
from torch import Tensor
from torch.nn.functional import cross_entropy

ALPHAS = (0.25, 0.5, 0.75)  # fractions of the fine-tuned weights that are tried besides all of them
CONFIDENCE_LEVEL = 0.95  # one-sided, of the gain over the frozen weights
FEWEST_GROUPS = 10  # of fewer photos that do not look alike, a bootstrap takes noise for a gain too often
RESAMPLES = 10_000
VALUES_AT_ONCE = 1_000_000  # resampled, which bounds the memory
LOWEST, HIGHEST = 0.05, 20.0  # temperatures
FOLDS = 5  # of cross-fitted temperatures


class Interval(NamedTuple):
    """A mean with the bounds of its interval."""

    mean: float
    low: float
    high: float


class Candidate(NamedTuple):
    """Weights and what they are worth on validation: `alpha` of the best epoch's, 1 - `alpha` of the frozen ones."""

    alpha: float
    epoch: int
    losses: np.ndarray  # (n,) log-loss of each photo with a cross-fitted temperature
    accuracy: float

    @classmethod
    def of(cls, alpha: float, epoch: int, logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> "Candidate":
        """From logits (n, classes) and labels (n,) of the validation photos, and what a photo of each class counts."""
        accuracy = (logits.argmax(1) == labels).double().mean().item()
        return cls(alpha, epoch, cross_fitted_losses(logits, labels, weight).numpy(), accuracy)

    @property
    def log_loss(self) -> float:
        """The mean, in nats."""
        return float(self.losses.mean())


class Choice(NamedTuple):
    """The candidate that is kept, its gain in validation log-loss over the frozen weights, and why it is kept."""

    candidate: Candidate
    gain: float
    gain_low: float
    reason: str


def choose(frozen: Candidate, candidates: Sequence[Candidate], groups: Sequence[Hashable]) -> Choice:
    """The best candidate, if its gain over the frozen weights (alpha 0) is above zero beyond chance; else those.

    `groups` say which of the n photos look alike: equal ones are of one group.
    """
    if not candidates:
        return Choice(frozen, 0.0, 0.0, "Frozen weights kept: nothing was fine-tuned.")
    best = min(candidates, key=lambda one: one.log_loss)
    gain, low = gain_beyond_chance(frozen.losses - best.losses, groups)
    what = f"{best.alpha:.0%} of epoch {best.epoch}"
    shown = f"validation log-loss {best.log_loss:.4f} against {frozen.log_loss:.4f} of the frozen checkpoint"
    bound = f"gain {gain:.4f}, at least {low:.4f} with {CONFIDENCE_LEVEL:.0%} confidence, {len(best.losses):,} photos"
    if len(set(groups)) < FEWEST_GROUPS:
        few = f"fewer than {FEWEST_GROUPS} different validation photos show no gain"
        return Choice(frozen, gain, low, f"Frozen weights kept: fine-tuning gave {shown}, and {few}.")
    if low > 0:
        return Choice(best, gain, low, f"Fine-tuned weights kept ({what}): {shown} ({bound}).")
    return Choice(frozen, gain, low, f"Frozen weights kept: fine-tuning gave {shown} ({bound}), which may be chance.")


def gain_beyond_chance(differences: np.ndarray, groups: Sequence[Hashable]) -> tuple[float, float]:
    """Mean of paired differences (n,) and its one-sided lower bound."""
    gain = bootstrap_mean(differences, groups, CONFIDENCE_LEVEL, resamples=RESAMPLES, alternative="greater")
    return gain.mean, gain.low


def bootstrap_mean(
    values: np.ndarray,
    groups: Sequence[Hashable],
    confidence_level: float,
    *,
    resamples: int,
    alternative: Literal["two-sided", "greater"] = "two-sided",
) -> Interval:
    """The mean of (n,) values with its percentile interval (Efron, Bootstrap methods, Annals of Statistics 1979).

    Whole groups are drawn, because near duplicates tell little more than one of them (Davison and Hinkley, Bootstrap methods
    and their application, 1997, section 3.8). Which are drawn is the same in every call with as many groups. Of a single
    group the photos are drawn, of which there are at least 2.
    """
    places, names = pd.factorize(np.asarray(groups))
    places = places if len(names) > 1 else np.arange(len(values))
    sums, photos = np.bincount(places, values), np.bincount(places)

    def mean(sums: Any, photos: Any, axis: int) -> Any:
        return sums.sum(axis) / photos.sum(axis)

    drawn = bootstrap(
        (sums, photos),
        mean,
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        batch=max(VALUES_AT_ONCE // len(sums), 1),
        confidence_level=confidence_level,
        alternative=alternative,
        method="percentile",
        rng=0,
    )
    return Interval(float(values.mean()), *map(float, drawn.confidence_interval))


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


def guessing_loss(labels: Tensor, weight: Tensor | None = None) -> float:
    """Log-loss, in nats, of predicting every photo by the frequencies of the classes alone: their entropy.

    `labels` (n,) are those of the training photos; `weight` is what a photo of each class counts, None: all alike.
    """
    return float(entropy(labels.bincount(weights=None if weight is None else weight[labels])))


def best_clip(losses: Tensor) -> float:
    """The bound for probabilities, [clip, 1 - clip], with the least log-loss, from cross-fitted losses (n,) in nats.

    It is for a competition that scores by log-loss (`predict --format kaggle`).

    A confident mistake costs -log(clip), a confident right answer -log(1 - clip). As for the temperature, labels are taken to
    be wrong once in n + 2 times (Platt): with k confident mistakes the clip is (k + 1) / (n + 2), and never 0.
    """
    of_true = np.exp(-losses.numpy())
    wrong = 1 / (len(of_true) + 2)

    def loss(clip: float) -> float:
        clipped = of_true.clip(clip, 1 - clip)
        return -float(((1 - wrong) * np.log(clipped) + wrong * np.log1p(-clipped)).mean())

    return float(min(np.geomspace(1e-6, 0.5, 1000), key=loss))
