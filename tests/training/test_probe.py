"""The probe is the exact solution of the stated convex problem."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from pipeline.errors import PipelineError
from pipeline.training.probe import fit_probe


def clusters(num_classes: int, count: int = 300) -> tuple[torch.Tensor, torch.Tensor]:
    """Overlapping clusters in 5 dimensions of very different scale and offset."""
    generator = torch.Generator().manual_seed(num_classes)
    labels = torch.arange(count) % num_classes
    centres = torch.randn(num_classes, 5, generator=generator)
    scale = torch.tensor([1.0, 10.0, 100.0, 0.1, 0.01])
    return (centres[labels] + torch.randn(count, 5, generator=generator)) * scale + 3 * scale, labels


@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_gradient_is_zero_at_the_solution(num_classes: int) -> None:
    features, labels = clusters(num_classes)
    l2 = 1e-2
    probe = fit_probe(features, labels, features, labels, l2_strengths=[l2])
    mean, scale = features.double().mean(0), features.double().std(0, correction=0)
    standardised = (features.double() - mean) / scale
    # Back to the standardised problem, in which the objective is stated.
    weight = (probe.weight.double() * scale).requires_grad_()
    bias = (probe.bias.double() + probe.weight.double() @ mean).requires_grad_()
    # With two classes scikit-learn penalises the single logit w1 - w0, of which each row here is half.
    penalised = weight[1] - weight[0] if num_classes == 2 else weight
    penalty = l2 / 2 * (penalised**2).sum()
    (cross_entropy(standardised @ weight.T + bias, labels) + penalty).backward()
    assert weight.grad is not None
    assert bias.grad is not None
    assert weight.grad.abs().max() < 1e-4
    assert bias.grad.abs().max() < 1e-4


def test_the_strength_is_chosen_by_validation_log_loss() -> None:
    features, labels = clusters(2)
    probe = fit_probe(features[:30], labels[:30], features[30:], labels[30:], l2_strengths=[1e-4, 1e-2, 1.0, 100.0])
    assert len(probe.candidates) == 4
    assert probe.best.log_loss == min(candidate.log_loss for candidate in probe.candidates)
    logits = features[30:] @ probe.weight.T + probe.bias
    assert cross_entropy(logits.double(), labels[30:]).item() == pytest.approx(probe.best.log_loss, rel=1e-4)


def test_the_order_of_strengths_does_not_matter() -> None:
    features, labels = clusters(2)
    one = fit_probe(features, labels, features, labels, l2_strengths=[1e-2, 1.0])
    two = fit_probe(features, labels, features, labels, l2_strengths=[1.0, 1e-2])
    assert torch.equal(one.weight, two.weight)


def test_a_constant_feature_does_no_harm() -> None:
    features, labels = clusters(2)
    features[:, 2] = 7.0
    probe = fit_probe(features, labels, features, labels, l2_strengths=[1e-2])
    assert torch.isfinite(probe.weight).all()


def test_features_that_are_not_finite_are_refused() -> None:
    features, labels = clusters(2)
    features[3, 3] = float("nan")
    with pytest.raises(PipelineError, match="not finite"):
        fit_probe(features, labels, features, labels, l2_strengths=[1e-2])
