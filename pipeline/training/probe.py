"""The linear probe: logistic regression on frozen features, solved to convergence.

    probe = fit_probe(train_features, train_labels, val_features, val_labels, l2_strengths=[1e-3, 1e-2])
    logits = probe.logits(features)
    probabilities = out_of_fold(features, labels, groups, l2=probe.best.l2)      # by heads that did not see the photo

Training a head on a frozen backbone by gradient steps is a slow way to solve a convex problem. L-BFGS solves it exactly, in
seconds, and the L2 strength is chosen on validation log-loss. Kumar et al. (Fine-tuning can distort pretrained features and
underperform out of distribution, ICLR 2022) show why the head should be converged before the backbone moves.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from pipeline.errors import PipelineError
from pipeline.progress import progress

MAX_ITERATIONS = 2000
GRADIENT_TOLERANCE = 1e-6
FOLDS = 5  # of the out-of-fold probabilities; fewer where a class has fewer groups
FOLD_TOLERANCE = 1e-4  # of probabilities that are looked at, not reported: the third digit does not matter


@dataclass(frozen=True)
class Strength:
    """How one L2 strength did on validation."""

    l2: float
    log_loss: float
    accuracy: float
    iterations: int


@dataclass(frozen=True)
class Probe:
    """A solved head on raw features: weight (classes, width), bias (classes,), float32; and the strengths tried for it."""

    weight: Tensor
    bias: Tensor
    best: Strength
    tried: tuple[Strength, ...]

    def logits(self, features: Tensor) -> Tensor:
        """(n, classes) of features (n, width)."""
        return features @ self.weight.T + self.bias


def fit_probe(
    train_features: Tensor,
    train_labels: Tensor,
    val_features: Tensor,
    val_labels: Tensor,
    *,
    l2_strengths: Sequence[float],
    weight: Tensor | None = None,
) -> Probe:
    """Solve the regression for each L2 strength and keep the one with the least validation log-loss.

    Features are standardised by the training set's mean and deviation, so that one strength means the same for every
    backbone; the standardisation is folded into the returned weights. The objective is the mean cross-entropy plus
    l2 / 2 times the squared norm of the weights (without the bias). Features are (n, width), labels (n,) int64, every class
    present; `weight`, (classes,), is what a photo of each class counts in all means.

    Raises:
        PipelineError: a feature is not finite.
    """
    if not (torch.isfinite(train_features).all() and torch.isfinite(val_features).all()):
        raise PipelineError("The backbone gives features that are not finite; its weights are broken or unfit.")
    scaler = StandardScaler().fit(train_features.double().numpy())
    scaled_train, scaled_val = (scaler.transform(part.double().numpy()) for part in (train_features, val_features))
    model = _regression(weight, tol=GRADIENT_TOLERANCE, warm_start=True)
    counts = None if weight is None else weight[val_labels].numpy()
    solved: list[tuple[Strength, Tensor, Tensor]] = []
    with progress("solving the linear probe", total=len(l2_strengths), unit="L2 strengths") as advance:
        for l2 in sorted(l2_strengths, reverse=True):  # from the strongest down: each solution is near the next
            model.set_params(C=1 / (l2 * len(scaled_train)))
            _quietly(model.fit, scaled_train, train_labels.numpy())
            probabilities, labels = model.predict_proba(scaled_val), val_labels.numpy()
            accuracy = float((probabilities.argmax(1) == labels).mean())
            loss = float(log_loss(labels, probabilities, labels=model.classes_, sample_weight=counts))
            strength = Strength(l2, loss, accuracy, int(model.n_iter_[0]))
            solved.append((strength, *_softmax_head(model, scaler)))
            advance(1, note=f"validation log-loss {strength.log_loss:.4f}")
    best, weight, bias = min(solved, key=lambda one: one[0].log_loss)
    return Probe(weight, bias, best, tuple(strength for strength, _, _ in solved))


def out_of_fold(
    features: Tensor, labels: Tensor, groups: Sequence[str], *, l2: float, weight: Tensor | None = None
) -> np.ndarray:
    """Each training photo's probabilities by a logistic regression on the folds that it is not in: (n, classes) float64.

    A fitted head agrees with its training labels, the wrong ones included. Fitted on the other folds, it does not know the
    photo's label, and a confident contradiction is worth a look. A group of duplicates is never divided between folds. A class
    whose training photos are one group is in all folds, because a head without it could not know it.
    """
    values, classes, names = features.double().numpy(), labels.numpy(), np.asarray(groups)
    groups_of = [len(np.unique(names[classes == index])) for index in range(classes.max() + 1)]
    folds = min(FOLDS, *(count for count in groups_of if count > 1), FOLDS)
    strength = 1 / (l2 * len(values) * (folds - 1) / folds)
    model = make_pipeline(StandardScaler(), _regression(weight, C=strength, tol=FOLD_TOLERANCE))
    single = np.array(groups_of)[classes] == 1
    alone, others = np.flatnonzero(single), np.flatnonzero(~single)
    parts = [(np.arange(len(classes)), alone)] if len(alone) else []
    if len(others):
        divided = StratifiedGroupKFold(folds, shuffle=True, random_state=0).split(others, classes[others], names[others])
        parts += [(np.sort(np.concatenate([others[rest], alone])), others[part]) for rest, part in divided]
    return _quietly(cross_val_predict, model, values, classes, cv=parts, method="predict_proba")


def _regression(weight: Tensor | None, **options: Any) -> LogisticRegression:
    by_class = None if weight is None else dict(enumerate(weight.tolist()))
    return LogisticRegression(solver="lbfgs", max_iter=MAX_ITERATIONS, class_weight=by_class, **options)


def _quietly(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """L-BFGS may end a line search at machine precision before the tolerance; the iterations are recorded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return function(*arguments, **named)


def _softmax_head(model: LogisticRegression, scaler: StandardScaler) -> tuple[Tensor, Tensor]:
    """The head on raw features, a row a class: w·(x - m)/s + b = (w/s)·x + (b - w·m/s)."""
    weight, bias = model.coef_ / scaler.scale_, model.intercept_
    bias = bias - weight @ scaler.mean_
    if len(weight) == 1:  # two classes: one logit z; softmax over (-z/2, z/2) is its sigmoid
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return torch.from_numpy(weight).float(), torch.from_numpy(bias).float()
