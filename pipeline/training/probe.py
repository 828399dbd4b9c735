"""Heads on frozen features of one backbone or several: the linear probe, solved to convergence, and an MLP.

    probe = fit_probe(Labelled(train_features, train_labels), Labelled(val_features, val_labels))
    log_probabilities = out_of_fold(Labelled(features, labels, groups), probe.solved)      # by heads that did not see the photo
    weight, bias = solve_head(Labelled(features, labels), probe.solved)      # on more photos, once strengths are chosen

Training a head on a frozen backbone by gradient steps is a slow way to solve a convex problem. L-BFGS solves it exactly, in
seconds, and the L2 strength is chosen on validation log-loss. Kumar et al. (Fine-tuning can distort pretrained features and
underperform out of distribution, ICLR 2022) show why the head should be converged before the backbone moves. Of several
backbones there is one head on all features side by side, or a blend of one on each: a sum of log-probabilities, each with a
factor (Genest and Zidek, Combining probability distributions, Statistical Science 1986), so one linear head too. An MLP head is
trained on the cached features instead, where hundreds of epochs take seconds.
"""

import copy
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
import torch
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pipeline.checkpoint import SolvedBlock
from pipeline.errors import PipelineError
from pipeline.files import write_atomically
from pipeline.progress import progress, say
from pipeline.training.selection import cross_fitted_losses, gain_beyond_chance

# From the strongest to the weakest: ten decades in steps of a third.
L2_STRENGTHS = tuple(10 ** (3 - step / 3) for step in range(31))
PATIENCE = 4  # strengths without a lower validation log-loss, after which weaker ones, which take ever longer, are not tried
MAX_ITERATIONS = 2000
GRADIENT_TOLERANCE = 1e-6  # largest element of the gradient at a solution, of two classes
PATH_TOLERANCE = 1e-4  # of the strengths that are compared, and of probabilities that are looked at, not reported
TOLERANCE_BY_L2 = 1e-2  # a bound on the gradient is at most this fraction of the strength: a weak penalty has a small gradient
SMALLEST = 1e-15  # of an out-of-fold probability, so that its logarithm is finite
FOLDS = 10  # of the out-of-fold probabilities; fewer where else a class would be missing from what a head is fitted on
MLP_EPOCHS, MLP_PATIENCE, BATCH_SIZE = 200, 20, 256  # of the MLP head
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 0.01


class Labelled(NamedTuple):
    """Features of photos (n, width), labels (n,) int64, and, for folds, groups (n,) that are equal where photos look alike."""

    features: Tensor
    labels: Tensor
    groups: Sequence[str] = ()


def joined(first: Labelled, second: Labelled) -> Labelled:
    """The photos of both, one after another."""
    features, labels = (torch.cat(parts) for parts in zip(first[:2], second[:2], strict=True))
    return Labelled(features, labels, [*first.groups, *second.groups])


class Strength(NamedTuple):
    """How one L2 strength did on validation."""

    l2: float
    log_loss: float
    accuracy: float
    iterations: int


class Probe(NamedTuple):
    """A solved head on raw features: weight (classes, width), bias (classes,), float32; how it was solved, what was tried."""

    weight: Tensor
    bias: Tensor
    solved: tuple[SolvedBlock, ...]
    best: Strength
    tried: tuple[Strength, ...]

    def logits(self, features: Tensor) -> Tensor:
        """(n, classes) of features (n, width)."""
        return features @ self.weight.T + self.bias


def fit_probe(
    train: Labelled, val: Labelled, *, l2_strengths: Sequence[float] = L2_STRENGTHS, weight: Tensor | None = None
) -> Probe:
    """Solve the regression along a path of L2 strengths and keep the one with the least validation log-loss.

    The path starts at the strongest, where all features count little, and each solution is the start of the next. It ends where
    the validation log-loss has not fallen for `PATIENCE` strengths. Every class is present; `weight`, (classes,), is what a
    photo of each class counts in all means. A PipelineError says that a feature is not finite.
    """
    if not (torch.isfinite(train.features).all() and torch.isfinite(val.features).all()):
        raise PipelineError("The backbone gives features that are not finite; its weights are broken or unfit.")
    scaler = StandardScaler().fit(train.features.double().numpy())
    scaled_train, scaled_val = (scaler.transform(part.features.double().numpy()) for part in (train, val))
    model = _regression(weight, train.labels)
    counts, labels = None if weight is None else weight[val.labels].numpy(), val.labels.numpy()
    tried: list[Strength] = []
    with _unconverged(), progress("solving the linear probe", total=None, unit="L2 strengths") as advance:
        for l2 in sorted(l2_strengths, reverse=True):
            model.set_params(**_strength(l2, train.labels, PATH_TOLERANCE))
            model.fit(scaled_train, train.labels.numpy())
            probabilities = model.predict_proba(scaled_val)
            loss = float(log_loss(labels, probabilities, labels=model.classes_, sample_weight=counts))
            accuracy = float((probabilities.argmax(1) == labels).mean())
            tried.append(Strength(l2, loss, accuracy, int(model.n_iter_[0])))
            advance(1, note=f"validation log-loss {loss:.4f}")
            best = min(tried, key=lambda one: one.log_loss)
            if len(tried) - tried.index(best) > PATIENCE:
                break
    solved = (SolvedBlock(width=train.features.shape[1], l2=best.l2),)
    return Probe(*solve_head(train, solved, weight), solved, best, tuple(tried))


def solve_head(photos: Labelled, solved: Sequence[SolvedBlock], weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Solve the regression of each block of columns: weight (classes, width) and bias (classes,), float32, on raw features.

    The objective is the mean cross-entropy plus l2 / 2 times the squared norm of the weights (without the bias). Features are
    standardised by their mean and deviation, so that one strength means the same for every backbone; the standardisation is
    folded into what is returned.
    """
    weights, biases = [], []
    for block, columns in zip(solved, photos.features.split([block.width for block in solved], 1), strict=True):
        scaler = StandardScaler()
        scaled = scaler.fit_transform(columns.double().numpy())
        model = _regression(weight, photos.labels, **_strength(block.l2, photos.labels, GRADIENT_TOLERANCE))
        with _unconverged():
            model.fit(scaled, photos.labels.numpy())
        own_weight, own_bias = _softmax_head(model, scaler)
        weights.append(block.factor * own_weight)
        biases.append(block.factor * own_bias)
    return torch.cat(weights, 1).float(), torch.stack(biases).sum(0).float()


def out_of_fold(photos: Labelled, solved: Sequence[SolvedBlock], weight: Tensor | None = None) -> Tensor:
    """Each photo's log-probabilities by heads that were solved on the folds that it is not in: (n, classes) float64.

    A fitted head agrees with its training labels, the wrong ones included. Fitted on the other folds, it does not know the
    photo's label, and a confident contradiction is worth a look. A group of duplicates is never divided between folds. A class
    whose photos are one group is in all folds, because a head without it could not know it.
    """
    labels = photos.labels
    folds, parts = _folds(labels.numpy(), np.asarray(photos.groups))
    logits = torch.zeros(len(labels), int(labels.max()) + 1, dtype=torch.float64)
    for block, columns in zip(solved, photos.features.split([block.width for block in solved], 1), strict=True):
        strength = _strength(block.l2, labels, PATH_TOLERANCE, fitted_on=(folds - 1) / folds)
        model = make_pipeline(StandardScaler(), _regression(weight, labels, **strength))
        with _unconverged():
            found = cross_val_predict(model, columns.double().numpy(), labels.numpy(), cv=parts, method="predict_proba")
        logits += block.factor * torch.from_numpy(found).clamp(min=SMALLEST).log()
    return logits.log_softmax(1)


def write_out_of_fold(file: Path, classes: Sequence[str], ids: Sequence[str], log_probabilities: Tensor) -> None:
    """Write what `out_of_fold` gave for photos as a CSV: id, probability_CLASS for each class (which may be called "id")."""
    columns = [f"probability_{name}" for name in classes]
    table = pd.DataFrame(log_probabilities.exp().numpy(), pd.Index(ids, name="id"), columns)
    write_atomically(file, table.to_csv(float_format="%.6g", lineterminator="\n").encode())


def read_out_of_fold(file: Path, classes: Sequence[str], ids: Sequence[str]) -> pd.DataFrame:
    """Probabilities of the photos `ids`, a column a class; a PipelineError says that the file has not got them."""
    columns = [f"probability_{name}" for name in classes]
    try:
        table = pd.read_csv(file, dtype={"id": str}, keep_default_na=False).set_index("id")[columns]
        return table.loc[list(ids)].set_axis(list(classes), axis=1)
    except (FileNotFoundError, KeyError, ValueError) as error:
        raise PipelineError(f"{file} cannot be used ({error}). Make it again with: dvc repro") from None


def _folds(classes: np.ndarray, groups: np.ndarray) -> tuple[int, list[tuple[np.ndarray, np.ndarray]]]:
    """How many folds, and the places to fit on and to predict of each, by class and group."""
    groups_of = np.array([len(np.unique(groups[classes == index])) for index in range(classes.max() + 1)])
    single = groups_of[classes] == 1
    alone, others = np.flatnonzero(single), np.flatnonzero(~single)
    parts = [(np.arange(len(classes)), alone)] if len(alone) else []
    if not len(others):
        return FOLDS, parts
    for folds in range(min(FOLDS, max(groups_of)), 1, -1):
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # of a class with fewer photos than folds
            divided = StratifiedGroupKFold(folds, shuffle=True, random_state=0).split(others, classes[others], groups[others])
            found = [(np.sort(np.concatenate([others[rest], alone])), others[part]) for rest, part in divided]
        if all(len(np.unique(classes[rest])) == len(groups_of) for rest, _ in found):
            break
    return folds, parts + found


class _RegressionFromFrequencies(LogisticRegression):
    """Logistic regression whose L-BFGS starts, with more than two classes, from the frequencies of the classes.

    That is the solution under an infinite penalty. The bias is not penalised, and its gradients are as small as a rare class:
    from zero, 5,000 photos of 100 uneven classes took 1,442 iterations at the strongest strength, and take one.
    """

    def fit(self, X: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None = None) -> Self:
        classes, counts = np.unique(y, return_counts=True)
        if len(classes) > 2 and not hasattr(self, "coef_"):
            weights = [self.class_weight[label] if self.class_weight else 1.0 for label in classes]
            self.coef_, self.intercept_ = np.zeros((len(classes), X.shape[1])), np.log(counts * weights)
            self.intercept_ -= self.intercept_.mean()
        return super().fit(X, y, sample_weight)


def _regression(weight: Tensor | None, labels: Tensor, **options: Any) -> LogisticRegression:
    by_class = None if weight is None else dict(enumerate(weight.tolist()))
    return _RegressionFromFrequencies(class_weight=by_class, max_iter=MAX_ITERATIONS, warm_start=True, **options)


def _strength(l2: float, labels: Tensor, tolerance: float, fitted_on: float = 1.0) -> dict[str, float]:
    """scikit-learn's `C`, and `tol`, its bound on the gradient, of an L2 strength in a mean loss.

    That loss is of a fraction `fitted_on` of the photos, whose labels are (n,).
    """
    # The gradient of the mean loss shrinks as the number of classes grows, and so must the bound on it.
    classes = int(labels.max()) + 1
    return {"C": 1 / (l2 * len(labels) * fitted_on), "tol": min(tolerance, TOLERANCE_BY_L2 * l2) * 2 / classes}


def _unconverged() -> "warnings.catch_warnings[None]":
    """L-BFGS may end a line search at machine precision before the tolerance; the iterations are recorded."""
    return warnings.catch_warnings(action="ignore", category=ConvergenceWarning)


def _softmax_head(model: LogisticRegression, scaler: StandardScaler) -> tuple[Tensor, Tensor]:
    """The head on raw features, a row a class: w·(x - m)/s + b = (w/s)·x + (b - w·m/s)."""
    weight, bias = model.coef_ / scaler.scale_, model.intercept_
    bias = bias - weight @ scaler.mean_
    if len(weight) == 1:  # two classes: one logit z; softmax over (-z/2, z/2) is its sigmoid
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return torch.from_numpy(weight), torch.from_numpy(bias)


def fit_several(
    train: Labelled, val: Labelled, *, widths: Sequence[int], names: Sequence[str], weight: Tensor | None = None
) -> tuple[Probe, dict[str, float]]:
    """The head on features side by side, unless a blend is better beyond chance; and what each is worth.

    Strengths are chosen on validation. All else is judged on training photos, of which there are more, each predicted by heads
    that did not see it. The other arguments are those of `fit_probe`; `widths` say whose columns are whose.

    Returns:
        The head, and the log-loss of each backbone alone, blended and concatenated.
    """
    concatenated = fit_probe(train, val, weight=weight)
    names = [name if list(names).count(name) == 1 else f"{name} ({number})" for number, name in enumerate(names, 1)]
    alone: list[Probe] = []
    unseen: dict[str, Tensor] = {}
    columns = (part.features.split(list(widths), 1) for part in (train, val))
    for name, of_train, of_val in zip(names, *columns, strict=True):
        own = train._replace(features=of_train)
        alone.append(fit_probe(own, val._replace(features=of_val), weight=weight))
        unseen[f"{name} alone"] = out_of_fold(own, alone[-1].solved, weight)
    factors = _factors([*unseen.values()], train.labels, weight)
    blend = list(zip(factors, alone, strict=True))
    blended = concatenated._replace(
        weight=torch.cat([factor * probe.weight for factor, probe in blend], 1),
        bias=torch.stack([factor * probe.bias for factor, probe in blend]).sum(0),
        solved=tuple(probe.solved[0].model_copy(update={"factor": factor}) for factor, probe in blend),
    )
    weighted = [factor * one for factor, one in zip(factors, unseen.values(), strict=True)]
    unseen["blended"] = torch.stack(weighted).sum(0)
    unseen["concatenated"] = out_of_fold(train, concatenated.solved, weight)
    scored = {name: cross_fitted_losses(logits, train.labels, weight).numpy() for name, logits in unseen.items()}
    _, low = gain_beyond_chance(scored["concatenated"] - scored["blended"], train.groups)
    tried = {name: float(values.mean()) for name, values in scored.items()}
    say("out-of-fold log-loss: " + ", ".join(f"{name} {value:.4f}" for name, value in tried.items()))
    say(f"{'the blend' if low > 0 else 'the head on all features side by side'} is kept")
    return blended if low > 0 else concatenated, tried


def _factors(unseen: Sequence[Tensor], labels: Tensor, weight: Tensor | None) -> list[float]:
    """How much each head's log-probabilities count, none less than 0."""

    def loss(factors: np.ndarray) -> float:
        logits = sum((factor * one for factor, one in zip(factors.tolist(), unseen, strict=True)), start=0 * unseen[0])
        return cross_entropy(logits, labels, weight=weight).item()

    start = np.full(len(unseen), 1 / len(unseen))
    return minimize(loss, start, bounds=[(0, None)] * len(unseen), method="L-BFGS-B").x.tolist()


def train_mlp(
    head: nn.Module, train: Labelled, val: Labelled, *, weight: Tensor | None = None, seed: int = 0
) -> tuple[int, float]:
    """Train a head, (n, width) -> (n, classes), in place by AdamW until validation has not improved for `MLP_PATIENCE` epochs.

    `weight`, (classes,), is what a photo of each class counts; `seed` is that of the order of photos and of dropout. Returns
    the epoch that is kept and its validation log-loss in nats. A PipelineError says that the latter is no finite number.
    """
    optimizer = torch.optim.AdamW(head.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    loss_of = nn.CrossEntropyLoss(None if weight is None else weight.float())
    best_epoch, lowest = 0, _log_loss(head, val, loss_of)
    best_state = copy.deepcopy(head.state_dict())
    with torch.random.fork_rng(devices=[]), progress("training the MLP head", total=MLP_EPOCHS, unit="epochs") as advance:
        torch.manual_seed(seed)
        for epoch in range(1, MLP_EPOCHS + 1):
            head.train()
            for places in torch.randperm(len(train.labels)).split(BATCH_SIZE):
                if len(places) == 1 and len(train.labels) > 1:
                    continue  # BatchNorm cannot normalise a single photo
                loss = loss_of(head(train.features[places]), train.labels[places])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            log_loss = _log_loss(head, val, loss_of)
            advance(1, note=f"validation log-loss {log_loss:.4f}")
            if log_loss < lowest:
                best_epoch, lowest, best_state = epoch, log_loss, copy.deepcopy(head.state_dict())
            elif epoch - best_epoch >= MLP_PATIENCE:
                break
    head.load_state_dict(best_state)
    head.eval()
    if not math.isfinite(lowest):
        raise PipelineError("The MLP head gives no finite validation log-loss. Choose another norm or initialisation.")
    return best_epoch, lowest


def _log_loss(head: nn.Module, photos: Labelled, loss_of: nn.Module) -> float:
    head.eval()
    with torch.no_grad():
        return loss_of(head(photos.features), photos.labels).item()
