"""Heads on cached features: the linear probe is solved, out-of-fold heads know no label, an MLP stops in time."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pipeline.checkpoint import SolvedBlock
from pipeline.models.head import MlpHead, initialise_new
from pipeline.training.probe import (
    MLP_EPOCHS,
    MLP_PATIENCE,
    PATIENCE,
    Labelled,
    _folds,
    fit_probe,
    fit_several,
    out_of_fold,
    solve_head,
    train_mlp,
)
from pipeline.training.selection import class_weight, cross_fitted_losses, fit_temperature
from tests.refusals import refused


def clusters(num_classes: int, count: int = 300) -> tuple[Tensor, Tensor]:
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
    probe = fit_probe(Labelled(features, labels), Labelled(features, labels), l2_strengths=[l2])
    mean, scale = features.double().mean(0), features.double().std(0, correction=0)
    # Back to the standardised problem, in which the objective is stated.
    weight = (probe.weight.double() * scale).requires_grad_()
    bias = (probe.bias.double() + probe.weight.double() @ mean).requires_grad_()
    # With two classes scikit-learn penalises the single logit w1 - w0, of which each row here is half.
    penalised = weight[1] - weight[0] if num_classes == 2 else weight
    loss = cross_entropy((features.double() - mean) / scale @ weight.T + bias, labels) + l2 / 2 * (penalised**2).sum()
    for gradient in torch.autograd.grad(loss, (weight, bias)):
        assert gradient.abs().max() < 1e-4


def test_the_strength_is_chosen_by_validation_log_loss_in_any_order() -> None:
    features, labels = clusters(2)
    features[:, 2] = 7.0  # a constant feature does no harm
    strengths = [1e-4, 1e-2, 1.0, 100.0]
    probe, reverse = (
        fit_probe(Labelled(features[:30], labels[:30]), Labelled(features[30:], labels[30:]), l2_strengths=some)
        for some in (strengths, strengths[::-1])
    )
    assert torch.equal(probe.weight, reverse.weight)
    assert len(probe.tried) == 4
    assert probe.best.log_loss == min(one.log_loss for one in probe.tried)
    loss = cross_entropy(probe.logits(features[30:]).double(), labels[30:]).item()
    assert loss == pytest.approx(probe.best.log_loss, rel=1e-4)
    features[3, 3] = float("nan")
    refused("not finite", fit_probe, Labelled(features, labels), Labelled(features, labels), l2_strengths=[1e-2])


def test_a_photo_that_counts_three_times_is_as_good_as_three_photos() -> None:
    features, labels = clusters(2)
    rare = labels == 1
    keep = ~rare | (torch.arange(len(labels)) % 6 == 1)
    features, labels = features[keep], labels[keep]
    copies = torch.where(labels == 1, 3, 1)
    often, often_labels = features.repeat_interleave(copies, 0), labels.repeat_interleave(copies)
    weight = class_weight("balanced", labels)
    weighted = fit_probe(Labelled(features, labels), Labelled(features, labels), l2_strengths=[1e-7], weight=weight)
    repeated = fit_probe(Labelled(often, often_labels), Labelled(often, often_labels), l2_strengths=[1e-7])
    torch.testing.assert_close(weighted.logits(features), repeated.logits(features), rtol=1e-2, atol=1e-2)
    assert weighted.best.log_loss == pytest.approx(repeated.best.log_loss, rel=1e-4)
    logits = weighted.logits(features)
    temperature = fit_temperature(weighted.logits(often), often_labels)
    assert fit_temperature(logits, labels, weight) == pytest.approx(temperature, rel=1e-3)
    assert cross_fitted_losses(logits, labels, weight).mean() == pytest.approx(weighted.best.log_loss, rel=0.1)
    heavier = torch.tensor([1.0, 30.0]).double()  # a mean, whatever the weights sum to
    assert cross_fitted_losses(logits, labels, 2 * heavier).mean() == pytest.approx(
        cross_fitted_losses(logits, labels, heavier).mean()
    )


def test_the_path_ends_where_weaker_strengths_only_overfit_and_misses_nothing() -> None:
    train, val = Labelled(*blobs(150, 0)), Labelled(*blobs(300, 1))
    probe = fit_probe(train, val)
    assert len(probe.tried) < 31
    assert [one.l2 for one in probe.tried].index(probe.best.l2) == len(probe.tried) - 1 - PATIENCE
    whole = [fit_probe(train, val, l2_strengths=[10**power]) for power in range(3, -8, -1)]
    assert probe.best.log_loss <= min(one.best.log_loss for one in whole) + 1e-4
    assert probe.tried[0].log_loss == pytest.approx(math.log(3), abs=1e-3)  # the strongest leaves nothing of the features


def solved(width: int, l2: float = 1e-3) -> list[SolvedBlock]:
    return [SolvedBlock(width=width, l2=l2)]


def test_out_of_fold_a_memorised_label_does_not_flatter_and_a_true_pattern_does() -> None:
    labels = torch.arange(200) % 2
    noise = torch.randn(200, 300, generator=torch.Generator().manual_seed(0))
    groups = [str(index) for index in range(200)]
    of_noise = out_of_fold(Labelled(noise, labels, groups), solved(300, 1e-4))  # 300 numbers can separate any 200 photos
    assert of_noise.shape == (200, 2)
    assert of_noise.exp().sum(1).numpy() == pytest.approx(1)
    assert 0.3 < (of_noise.argmax(1) == labels).double().mean() < 0.7
    pattern = noise[:, :10] + 5 * labels[:, None]
    assert (out_of_fold(Labelled(pattern, labels, groups), solved(10, 1e-2)).argmax(1) == labels).double().mean() > 0.95


def test_duplicates_are_never_in_two_folds_and_their_labels_do_not_leak() -> None:
    """Each photo stands twice, with a feature of its own that gives the label away: a twin in training would tell it."""
    labels = (torch.arange(40) * 7 % 3 == 0).long().repeat_interleave(2)
    features = torch.eye(40).repeat_interleave(2, 0) * 10
    together = out_of_fold(Labelled(features, labels, [str(index // 2) for index in range(80)]), solved(40))
    apart = out_of_fold(Labelled(features, labels, [str(index) for index in range(80)]), solved(40))
    assert (apart.argmax(1) == labels).double().mean() > 0.85
    assert (together.argmax(1) == labels).double().mean() < 0.8


def test_a_class_with_one_photo_and_its_duplicate_is_in_all_folds() -> None:
    labels = torch.tensor([0] * 20 + [1] * 20 + [2, 2])
    features = 5 * torch.eye(3)[labels] + torch.randn(42, 3, generator=torch.Generator().manual_seed(0))
    unseen = out_of_fold(Labelled(features, labels, [*map(str, range(40)), "same", "same"]), solved(3))
    assert (unseen.argmax(1) == labels).all()
    one_each = Labelled(features[[0, 20, 40]], labels[[0, 20, 40]], ["a", "b", "c"])
    assert out_of_fold(one_each, solved(3)).argmax(1).tolist() == [0, 1, 2]


def test_a_class_with_few_photos_leaves_the_others_their_ten_folds() -> None:
    labels = torch.tensor([0] * 50 + [1] * 50 + [2, 2]).numpy()
    folds, parts = _folds(labels, np.arange(102))
    assert (folds, len(parts)) == (10, 10)
    assert all(set(labels[rest]) == {0, 1, 2} for rest, _ in parts)
    assert sorted(np.concatenate([part for _, part in parts])) == list(range(102))


def test_with_few_groups_a_fold_is_solved_with_the_strength_that_its_photos_ask_for() -> None:
    """Two folds: each half is predicted by the solution on the other half, at the same strength of the mean loss."""
    features, labels = clusters(2, 8)
    groups = [str(index // 2 % 2) for index in range(8)]  # two, of both classes
    unseen = out_of_fold(Labelled(features, labels, groups), solved(5, 1e-1))
    for half in (0, 1):
        inside = torch.tensor([name == str(half) for name in groups])
        weight, bias = solve_head(Labelled(features[~inside], labels[~inside]), solved(5, 1e-1))
        expected = (features[inside] @ weight.T + bias).double().log_softmax(1)
        torch.testing.assert_close(unseen[inside], expected, rtol=1e-2, atol=1e-2)


def test_where_a_head_is_absurdly_sure_its_out_of_fold_logarithms_are_finite() -> None:
    labels = torch.arange(40) % 2
    features = 1.0 * labels[:, None] + 1e-6 * torch.arange(40)[:, None]
    features[0] = 1e6  # far beyond what the other folds know
    assert torch.isfinite(out_of_fold(Labelled(features, labels, [str(index) for index in range(40)]), solved(1, 1e-9))).all()


@pytest.mark.parametrize("num_classes", [2, 3])
def test_blocks_that_are_solved_apart_add_up_by_their_factors(num_classes: int) -> None:
    features, labels = clusters(num_classes)
    blocks = [SolvedBlock(width=2, l2=1e-2, factor=0.7), SolvedBlock(width=3, l2=1e-1, factor=0.4)]
    weight, bias = solve_head(Labelled(features, labels), blocks)
    expected = torch.tensor(0.0)
    for block, part in zip(blocks, features.split([2, 3], 1), strict=True):
        own_weight, own_bias = solve_head(Labelled(part, labels), solved(block.width, block.l2))
        expected = expected + block.factor * (part @ own_weight.T + own_bias)
    torch.testing.assert_close(features @ weight.T + bias, expected, rtol=1e-4, atol=1e-4)


def two_views(count: int, other: str) -> tuple[Tensor, Tensor]:
    """Four numbers that tell the class, beside 300 that hardly do, or beside the noise that lies over the four."""
    generator, labels = torch.Generator().manual_seed(count), torch.arange(count) % 2
    sign, noise = 2.0 * labels[:, None] - 1, torch.randn(count, 4, generator=generator)
    second = torch.randn(count, 300, generator=generator)
    return torch.cat([noise + 0.6 * sign, second + 0.05 * sign if other == "unclear" else noise + second[:, :4]], 1), labels


@pytest.mark.parametrize(("other", "kept"), [("unclear", "blended"), ("noise", "concatenated")])
def test_of_several_backbones_the_heads_are_blended_where_that_is_better_beyond_chance(other: str, kept: str) -> None:
    """One strength for clear and unclear features alike suits neither; only a head on both at once can subtract noise."""
    train, val = (Labelled(*two_views(count, other), [str(index) for index in range(count)]) for count in (400, 2000))
    widths = [4, train.features.shape[1] - 4]
    probe, tried = fit_several(train, val, widths=widths, names=["a", "b"])
    assert list(tried) == ["a alone", "b alone", "blended", "concatenated"]
    assert len(probe.solved) == (2 if kept == "blended" else 1)
    assert min(tried, key=tried.__getitem__) == kept
    for part in (slice(0, 4), slice(4, None)):
        of_train, of_val = (some._replace(features=some.features[:, part]) for some in (train, val))
        logits = fit_probe(of_train, of_val).logits(of_val.features)
        assert cross_entropy(probe.logits(val.features), val.labels) < cross_entropy(logits, val.labels)
    twice, tried = fit_several(train, val, widths=widths, names=["a", "a"])
    assert list(tried) == ["a (1) alone", "a (2) alone", "blended", "concatenated"]
    assert torch.equal(twice.weight, probe.weight)
    # What a checkpoint says of it is enough to solve it again.
    for mine, again in zip((probe.weight, probe.bias), solve_head(train, probe.solved), strict=True):
        torch.testing.assert_close(mine, again, rtol=1e-3, atol=1e-4)


def blobs(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Three classes that 3 of 50 numbers separate; a tenth of the labels are wrong, so that training on and on overfits."""
    generator, labels, wrong = torch.Generator().manual_seed(seed), torch.arange(count) % 3, torch.arange(count) % 10 == 0
    features = torch.randn(count, 50, generator=generator) + 3 * torch.eye(3, 50)[labels]
    return features, (labels + wrong.long()) % 3


def test_an_mlp_stops_early_with_its_best_weights_and_by_its_seed_alone() -> None:
    train, val = Labelled(*blobs(513, 0)), Labelled(*blobs(150, 1))  # the last batch is a single photo
    heads, found = [MlpHead(50, 3, hidden=(64,), norm="batch", dropout=0.1) for _ in range(2)], []
    for number, head in enumerate(heads):
        initialise_new(head, seed=1)
        torch.manual_seed(number)
        drawn = torch.get_rng_state()
        found.append(train_mlp(head, train, val, seed=3))
        assert torch.equal(torch.get_rng_state(), drawn)
    with torch.no_grad():
        logits = heads[0](val.features)
    assert cross_entropy(logits, val.labels).item() == pytest.approx(found[0][1])
    assert (logits.argmax(1) == val.labels).double().mean() > 0.7
    assert 0 < found[0][0] < MLP_EPOCHS - MLP_PATIENCE
    assert found[0] == found[1]
    assert all(torch.equal(*pair) for pair in zip(*(head.state_dict().values() for head in heads), strict=True))


def test_an_mlp_without_a_finite_loss_is_refused() -> None:
    photos = Labelled(torch.full((8, 2), 1e38), torch.arange(8) % 2)
    head = nn.Sequential(nn.Linear(2, 2))
    nn.init.constant_(head[0].weight, 10)
    refused("no finite validation log-loss", train_mlp, head, photos, photos)


def test_the_strengths_of_many_classes_are_compared_by_solutions() -> None:
    """The more classes, the smaller the gradients: a bound for two would end the path at its beginning."""
    generator = torch.Generator().manual_seed(0)
    means, labels = torch.randn(200, 40, generator=generator), torch.arange(200).repeat(6)
    train, val = (means[labels] + torch.randn(len(labels), 40, generator=generator) for _ in range(2))
    probe = fit_probe(Labelled(train, labels), Labelled(val, labels))
    loss = torch.nn.functional.cross_entropy(probe.logits(val), labels).item()
    assert probe.best.log_loss == pytest.approx(loss, rel=0.1)
    assert loss < 1


@pytest.mark.parametrize("num_classes", [2, 20])
def test_weak_strengths_are_compared_by_solutions_too(num_classes: int) -> None:
    """A weak penalty's own gradient is small: below a fixed bound on it each start would pass for the next solution."""
    generator, labels = torch.Generator().manual_seed(0), torch.arange(num_classes).repeat(200 // num_classes)
    centres = 0.6 * torch.randn(num_classes, 60, generator=generator)
    train, val = (Labelled(torch.relu(centres[labels] + torch.randn(200, 60, generator=generator)), labels) for _ in range(2))
    probe = fit_probe(train, val)
    weak = [one for one in probe.tried if one.l2 < 1e-4]
    assert weak
    assert all(one.iterations for one in weak)
    for one in weak:
        weight, bias = solve_head(train, solved(60, one.l2))
        assert one.log_loss == pytest.approx(cross_entropy(val.features @ weight.T + bias, labels).item(), rel=0.005), one


def test_the_path_of_many_uneven_classes_starts_at_their_frequencies() -> None:
    """From zero, L-BFGS takes thousands of steps to find the frequencies of rare classes under a strong penalty."""
    generator = torch.Generator().manual_seed(0)
    means, labels = torch.randn(100, 20, generator=generator), torch.arange(100).repeat_interleave(torch.arange(3, 103))
    features = means[labels] + torch.randn(len(labels), 20, generator=generator)
    weight = class_weight("balanced", labels)
    for counts in (None, weight):
        probe = fit_probe(Labelled(features, labels), Labelled(features, labels), l2_strengths=[1e3], weight=counts)
        assert probe.best.iterations <= 2
        frequencies = torch.bincount(labels) * (1.0 if counts is None else counts)
        torch.testing.assert_close(probe.bias.softmax(0), (frequencies / frequencies.sum()).float(), rtol=0.02, atol=0)
