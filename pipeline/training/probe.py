"""The linear probe: logistic regression on frozen features, solved to convergence.

    probe = fit_probe(train_features, train_labels, val_features, val_labels, l2_strengths=[1e-3, 1e-2])
    logits = features @ probe.weight.T + probe.bias

Training a head on a frozen backbone by gradient steps is a slow way to solve a convex problem. L-BFGS solves it exactly, in
seconds, and the L2 strength is chosen on validation log-loss. Kumar et al. (Fine-tuning can distort pretrained features and
underperform out of distribution, ICLR 2022) show why the head should be converged before the backbone moves.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from pipeline.errors import PipelineError
from pipeline.progress import progress

MAX_ITERATIONS = 2000
GRADIENT_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Candidate:
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
    best: Candidate
    candidates: tuple[Candidate, ...]


def fit_probe(
    train_features: Tensor,
    train_labels: Tensor,
    val_features: Tensor,
    val_labels: Tensor,
    *,
    l2_strengths: Sequence[float],
) -> Probe:
    """Solve the regression for each L2 strength and keep the one with the least validation log-loss.

    Features are standardised by the training set's mean and deviation, so that one strength means the same for every
    backbone; the standardisation is folded into the returned weights. The objective is the mean cross-entropy plus
    l2 / 2 times the squared norm of the weights (without the bias).

    Args:
        train_features, val_features: (n, width).
        train_labels, val_labels: (n,) int64, every class present.
        l2_strengths: positive.

    Raises:
        PipelineError: a feature is not finite.
    """
    if not (torch.isfinite(train_features).all() and torch.isfinite(val_features).all()):
        raise PipelineError("The backbone gives features that are not finite; its weights are broken or unfit.")
    scaler = StandardScaler().fit(train_features.double().numpy())
    scaled_train, scaled_val = (scaler.transform(part.double().numpy()) for part in (train_features, val_features))
    model = LogisticRegression(solver="lbfgs", max_iter=MAX_ITERATIONS, tol=GRADIENT_TOLERANCE, warm_start=True)
    solved: list[tuple[Candidate, Tensor, Tensor]] = []
    with progress("solving the probe", total=len(l2_strengths), unit="L2 strengths") as advance:
        for l2 in sorted(l2_strengths, reverse=True):  # from the strongest down: each solution is near the next
            model.set_params(C=1 / (l2 * len(scaled_train)))
            _fit_to_convergence(model, scaled_train, train_labels.numpy())
            candidate = _score(model, scaled_val, val_labels.numpy(), l2)
            solved.append((candidate, *_softmax_head(model, scaler)))
            advance(1, note=f"validation log-loss {candidate.log_loss:.4f}")
    best, weight, bias = min(solved, key=lambda one: one[0].log_loss)
    return Probe(weight, bias, best, tuple(candidate for candidate, _, _ in solved))


def _score(model: LogisticRegression, features: np.ndarray, labels: np.ndarray, l2: float) -> Candidate:
    probabilities = model.predict_proba(features)
    accuracy = float((probabilities.argmax(1) == labels).mean())
    loss = float(log_loss(labels, probabilities, labels=model.classes_))
    return Candidate(l2, loss, accuracy, int(model.n_iter_[0]))


def _fit_to_convergence(model: LogisticRegression, features: np.ndarray, labels: np.ndarray) -> None:
    with warnings.catch_warnings():
        # L-BFGS may end a line search at machine precision before the tolerance; the number of iterations is recorded.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features, labels)


def _softmax_head(model: LogisticRegression, scaler: StandardScaler) -> tuple[Tensor, Tensor]:
    """The head on raw features, a row a class: w·(x - m)/s + b = (w/s)·x + (b - w·m/s)."""
    weight, bias = model.coef_ / scaler.scale_, model.intercept_
    bias = bias - weight @ scaler.mean_
    if len(weight) == 1:  # two classes: one logit z; softmax over (-z/2, z/2) is its sigmoid
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return torch.from_numpy(weight).float(), torch.from_numpy(bias).float()
