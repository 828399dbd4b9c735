"""Heads on the features of several backbones: one on all of them side by side, or a log-linear blend of one on each.

    probe, tried = fit_several(train, train_labels, val, val_labels, groups, widths=[1280, 1280], names=["lite0", "lite2"])
    tried      # out-of-fold log-loss: {"lite0 alone": 0.034, "lite2 alone": 0.026, "blended": 0.024, "concatenated": 0.023}

A blend sums log-probabilities, each with a factor (a product of experts: Genest and Zidek, Combining probability distributions,
Statistical Science 1986), so it is one linear head too.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.nn.functional import cross_entropy

from pipeline.progress import say
from pipeline.training.calibration import cross_fitted_losses
from pipeline.training.probe import Probe, fit_probe, out_of_fold
from pipeline.training.selection import gain_beyond_chance


def fit_several(
    train: Tensor,
    train_labels: Tensor,
    val: Tensor,
    val_labels: Tensor,
    groups: Sequence[str],
    *,
    widths: Sequence[int],
    names: Sequence[str],
    weight: Tensor | None = None,
) -> tuple[Probe, dict[str, float]]:
    """The head on features side by side, unless a blend is better beyond chance; and what each is worth.

    Strengths are chosen on validation. All else is judged on training photos, of which there are more, each predicted by heads
    that did not see it. The other arguments are those of `fit_probe`; `groups` are of training photos, `widths` say whose
    columns are whose.

    Returns:
        The head, and the log-loss of each backbone alone, blended and concatenated.
    """
    concatenated = fit_probe(train, train_labels, val, val_labels, weight=weight)
    names = [name if list(names).count(name) == 1 else f"{name} ({number})" for number, name in enumerate(names, 1)]
    alone: list[Probe] = []
    unseen: dict[str, Tensor] = {}
    for name, of_train, of_val in zip(names, train.split(list(widths), 1), val.split(list(widths), 1), strict=True):
        alone.append(fit_probe(of_train, train_labels, of_val, val_labels, weight=weight))
        unseen[f"{name} alone"] = out_of_fold(of_train, train_labels, groups, alone[-1].solved, weight)
    factors = _factors([*unseen.values()], train_labels, weight)
    blend = list(zip(factors, alone, strict=True))
    blended = concatenated._replace(
        weight=torch.cat([factor * probe.weight for factor, probe in blend], 1),
        bias=torch.stack([factor * probe.bias for factor, probe in blend]).sum(0),
        solved=tuple(probe.solved[0].model_copy(update={"factor": factor}) for factor, probe in blend),
    )
    weighted = [factor * one for factor, one in zip(factors, unseen.values(), strict=True)]
    unseen["blended"] = torch.stack(weighted).sum(0)
    unseen["concatenated"] = out_of_fold(train, train_labels, groups, concatenated.solved, weight)
    scored = {name: cross_fitted_losses(logits, train_labels, weight).numpy() for name, logits in unseen.items()}
    _, low = gain_beyond_chance(scored["concatenated"] - scored["blended"], groups)
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
