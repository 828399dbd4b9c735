"""Temperature and model selection: what noise alone makes better is not kept, what is better beyond chance is."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from pipeline.training import selection
from pipeline.training.selection import (
    FEWEST_GROUPS,
    FOLDS,
    HIGHEST,
    Candidate,
    best_clip,
    bootstrap_mean,
    choose,
    class_weight,
    cross_fitted_losses,
    fit_temperature,
    gain_beyond_chance,
    guessing_loss,
)


@pytest.fixture(scope="module", autouse=True)
def _fewer_resamples() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "RESAMPLES", 1000)
        yield


differences = st.lists(st.floats(-3, 3), min_size=2, max_size=40).map(np.array)


def outputs(seed: int, num_photos: int = 300, *, signal: float = 2.0, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Calibrated logits of three classes, scaled; and labels drawn from their probabilities."""
    generator = torch.Generator().manual_seed(seed)
    logits = signal * torch.randn(num_photos, 3, generator=generator).double()
    return scale * logits, torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_a_known_temperature_is_found(scale: float) -> None:
    assert fit_temperature(*outputs(0, 20_000, scale=scale)) == pytest.approx(scale, rel=0.03)


def test_where_all_is_wrong_the_temperature_stops_at_the_bound() -> None:
    assert fit_temperature(torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([1, 0])) == pytest.approx(HIGHEST, rel=0.01)


@pytest.mark.parametrize(("num_photos", "num_classes"), [(2, 2), (300, 2), (50, 5)])
def test_where_all_is_right_confidence_is_what_so_many_photos_can_show(num_photos: int, num_classes: int) -> None:
    labels = torch.arange(num_photos) % num_classes
    logits = 3.0 * torch.eye(num_classes)[labels]
    confidence = (logits / fit_temperature(logits, labels)).softmax(1).amax(1)
    torch.testing.assert_close(confidence, torch.full_like(confidence, (num_photos + 1) / (num_photos + 2)), rtol=1e-4, atol=0)


@given(st.integers(0, 10**6), st.floats(0, 3), st.floats(0.3, 3))
@settings(max_examples=40)
def test_a_cross_fitted_loss_flatters_no_one_and_sees_neither_scale_nor_names_of_classes(
    seed: int, signal: float, factor: float
) -> None:
    logits, labels = outputs(seed, 60, signal=signal)
    labels = labels if seed % 2 else torch.randint(3, (60,), generator=torch.Generator().manual_seed(seed))
    wrong = logits.argmax(1) != labels
    assume(len({i % 5 for i in wrong.nonzero().flatten().tolist()}) > 1)  # whatever fold is left out, a mistake stays
    losses = cross_fitted_losses(logits, labels)
    assert losses.mean() >= cross_entropy(logits / fit_temperature(logits, labels), labels) - 1e-9
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(cross_fitted_losses(logits[:, order], order.argsort()[labels]), losses, rtol=1e-4, atol=1e-4)
    fold = torch.arange(60) % FOLDS
    temperatures = [fit_temperature(logits[fold != left_out], labels[fold != left_out]) for left_out in range(FOLDS)]
    assume(all(0.2 < temperature < 5 for temperature in temperatures))  # far enough from the bounds to be scaled
    torch.testing.assert_close(cross_fitted_losses(factor * logits, labels), losses, rtol=0.02, atol=0.02)


def candidate(losses: np.ndarray, alpha: float = 1.0) -> Candidate:
    return Candidate(alpha, 1, losses, 0.5)


def test_what_noise_makes_better_is_seldom_kept_and_what_is_clearly_better_is() -> None:
    """Four candidates that are as good as the frozen weights: the best of them looks better nearly always."""
    fooled = looked_better = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        frozen, *others = rng.exponential(0.1, (5, 300))
        choice = choose(candidate(frozen, 0.0), [candidate(losses) for losses in others], range(300))
        looked_better += choice.gain > 0
        fooled += choice.candidate.alpha > 0
    assert looked_better > 140
    assert fooled < 40  # 20 of 200 for one candidate that is tried twice; the best of four independent ones is the worst case
    better = candidate(0.8 * frozen + rng.normal(0, 0.01, 300), 0.5)
    choice = choose(candidate(frozen, 0.0), [candidate(others[0]), better], range(300))
    assert choice.candidate is better
    assert 0 < choice.gain_low < choice.gain == pytest.approx(frozen.mean() - better.log_loss)
    assert choice.reason.startswith("Fine-tuned weights kept (50% of epoch 1)")


@given(st.lists(differences, min_size=1, max_size=4))
@settings(max_examples=100)
def test_no_candidate_is_kept_whose_mean_gain_is_not_above_zero(gains: list[np.ndarray]) -> None:
    size = min(map(len, gains))
    frozen = candidate(np.full(size, 5.0), 0.0)
    candidates = [candidate(5.0 - gain[:size]) for gain in gains]
    choice = choose(frozen, candidates, range(size))
    assert choice.candidate in (frozen, min(candidates, key=lambda one: one.log_loss))
    if choice.candidate is frozen:
        assert choice.reason.startswith("Frozen weights kept")
    else:
        assert choice.gain > 0
        assert choice.gain_low > 0


@given(differences)
@settings(max_examples=50)
def test_more_photos_with_the_same_differences_show_a_small_gain(gains: np.ndarray) -> None:
    assume(gains.std() > 0)
    gains = gains - gains.mean() + 0.2 * gains.std()
    many = np.tile(gains, 400 // len(gains))
    once, often = gain_beyond_chance(gains, range(len(gains))), gain_beyond_chance(many, range(len(many)))
    assert often[0] == pytest.approx(once[0])
    assert often[1] > 0
    assert once[1] <= once[0]


@given(differences, st.integers(2, 5))
@settings(max_examples=50)
def test_copies_of_the_photos_make_no_gain_surer(gains: np.ndarray, copies: int) -> None:
    once = bootstrap_mean(gains, range(len(gains)), 0.95, resamples=1000)
    copied = bootstrap_mean(np.repeat(gains, copies), np.repeat(np.arange(len(gains)), copies), 0.95, resamples=1000)
    assert copied == pytest.approx(once, abs=1e-9)


def test_of_a_single_group_the_photos_are_drawn() -> None:
    gains = np.array([0.1, 0.4, -0.2])
    assert bootstrap_mean(gains, ["one"] * 3, 0.95, resamples=1000) == bootstrap_mean(gains, range(3), 0.95, resamples=1000)


@pytest.mark.parametrize("photos_a_group", [1, 50])
def test_a_handful_of_different_photos_shows_no_gain(photos_a_group: int) -> None:
    groups = np.repeat(np.arange(FEWEST_GROUPS), photos_a_group)
    frozen, better = candidate(np.full(len(groups), 1.0), 0.0), candidate(np.full(len(groups), 0.5))
    assert choose(frozen, [better], groups).candidate is better
    choice = choose(frozen, [better], np.minimum(groups, FEWEST_GROUPS - 2))
    assert choice.candidate is frozen
    assert "fewer than 10 different validation photos" in choice.reason


@pytest.mark.parametrize(("photos", "mistakes"), [(20, 0), (178, 0), (3000, 0), (3000, 15)])
def test_the_clip_is_the_share_of_confident_mistakes_and_never_0(photos: int, mistakes: int) -> None:
    wrong = torch.arange(photos) < mistakes
    losses = -torch.where(wrong, 1e-9, 1 - 1e-9).double().log()
    assert best_clip(losses) == pytest.approx((mistakes + 1) / (photos + 2), rel=0.02)
    doubtful = -torch.where(wrong, 0.3, 0.7).double().log()  # whatever leaves these alone is best
    assert best_clip(doubtful) <= 0.3


def test_photos_that_are_all_right_have_the_doubt_of_their_number_whatever_a_class_counts() -> None:
    """All margins are alike, so the probability of being wrong is that of the smoothed label, 1 / (n + 2)."""
    labels = (torch.arange(400) % 20 == 0).long()
    logits = torch.nn.functional.one_hot(labels).double() * 30
    for weight in (None, torch.tensor([0.53, 10.0]).double()):
        wrong = (logits / fit_temperature(logits, labels, weight)).softmax(1).amin(1)
        torch.testing.assert_close(wrong, torch.full_like(wrong, 1 / 402), rtol=1e-3, atol=0)


def test_guessing_costs_less_where_one_class_is_frequent_unless_classes_count_alike() -> None:
    even, uneven = torch.arange(100) % 4, (torch.arange(100) == 0).long()
    assert guessing_loss(even) == pytest.approx(np.log(4))
    expected = cross_entropy(torch.tensor([0.99, 0.01]).log().expand(100, 2), uneven).item()
    assert guessing_loss(uneven) == pytest.approx(expected)
    assert guessing_loss(uneven, class_weight("balanced", uneven)) == pytest.approx(np.log(2))
