"""Schedules of fine-tuning as pure functions, and the search for a learning rate."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.models.freezing import fractions_of_operations
from pipeline.params import UnfreezeFinetune
from pipeline.training.lr_finder import HIGHEST, LOWEST, STEPS, draw, suggest, try_learning_rates
from pipeline.training.schedule import MOST_OPERATIONS, Recipe, choose_recipe, copy_of_epoch, learning_rate
from tests.refusals import refused
from tests.training import tiny

RATES = np.geomspace(LOWEST, HIGHEST, STEPS).tolist()


@given(st.integers(2, 2000), st.integers(0, 1000), st.floats(1e-6, 1.0))
def test_the_rate_climbs_then_falls_within_its_bounds(total: int, warmup: int, peak: float) -> None:
    warmup = min(warmup, total - 1)
    rates = [learning_rate(step, total_steps=total, warmup_steps=warmup, peak=peak) for step in range(total)]
    assert rates[warmup] == pytest.approx(peak)
    assert all(0 < rate <= peak * (1 + 1e-12) for rate in rates)
    assert rates[: warmup + 1] == sorted(rates[: warmup + 1])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)


@given(st.integers(1, 40), st.integers(1, 40))
def test_every_copy_has_its_epochs_low_resolution_first_and_the_original_last(epochs: int, copies: int) -> None:
    copies = min(copies, epochs)
    taken = [copy_of_epoch(epoch, epochs=epochs, copies=copies) for epoch in range(1, epochs + 1)]
    assert {number for number, _ in taken} == set(range(copies))
    assert taken[-1] == (0, False)
    assert [low for _, low in taken] == sorted((low for _, low in taken), reverse=True)
    assert len({number for number, low in taken if low}) == copies // 2
    turns = [number or copies for number, _ in taken]
    assert turns == sorted(turns)


fractions = st.lists(st.floats(0.01, 1), min_size=1, max_size=12).map(
    lambda sizes: [0.001, *(min(1.0, sum(sizes[: i + 1]) / sum(sizes)) for i in range(len(sizes)))]
)
budgets = st.one_of(st.just("auto"), st.floats(0.5, 30))


@given(st.integers(1, 10**7), fractions, budgets, st.booleans())
def test_what_nobody_sets_costs_no_more_than_the_budget_or_the_least_there_is(
    num_photos: int, fractions: list[float], budget: str | float, is_split: bool
) -> None:
    settings = UnfreezeFinetune(budget=budget)
    recipe = choose_recipe(settings, fractions, num_photos, is_split=is_split)
    assert recipe == choose_recipe(settings, fractions, num_photos, is_split=is_split)
    epochs = min(max(round(200 * 16 / num_photos), 4), 8)
    most = 2 * epochs if budget == "auto" else budget
    assert recipe.cost <= most + 1e-9 or recipe.epochs == 1
    assert 1 <= recipe.copies <= recipe.epochs <= 8
    assert recipe.unfrozen_blocks == 1 or fractions[int(recipe.unfrozen_blocks)] <= MOST_OPERATIONS
    more = choose_recipe(settings.model_copy(update={"budget": most + 1}), fractions, num_photos, is_split=is_split)
    assert int(more.unfrozen_blocks) >= int(recipe.unfrozen_blocks)
    assert (recipe.batch_size, recipe.learning_rate) == ((16, 1e-3) if num_photos < 8000 else (32, 5e-4))


@pytest.mark.parametrize(
    ("num_photos", "frozen_loss", "batch_size", "rate"),
    [
        (838, 0.33, 16, 1e-3),
        (838, 0.12, 16, 5e-4),
        (4000, 0.06, 32, 2e-4),
        (16_000, 0.06, 32, 2e-4),
        (16_000, 0.33, 32, 5e-4),
        (4000, 0.0, 32, 1e-5),
    ],
)
def test_the_better_the_frozen_head_the_smaller_the_steps(
    num_photos: int, frozen_loss: float, batch_size: int, rate: float
) -> None:
    recipe = choose_recipe(UnfreezeFinetune(), [0.001, 1.0], num_photos, frozen_loss=frozen_loss)
    assert (recipe.batch_size, recipe.learning_rate) == (batch_size, rate)


@given(st.integers(1, 10**7), fractions)
def test_what_somebody_sets_is_taken_whatever_it_costs(num_photos: int, fractions: list[float]) -> None:
    taken = {"unfrozen_blocks": "all", "epochs": 12, "augmented_copies": 3, "batch_size": 5, "learning_rate": 0.5}
    settings = UnfreezeFinetune(budget=0.1, **taken)
    recipe = choose_recipe(settings, fractions, num_photos)
    assert recipe == Recipe("all", 12, 3, 5, 0.5, cost=36.0)
    assert "all blocks unfrozen, 12 epochs, 3 copies" in str(recipe)


@pytest.mark.parametrize(
    ("name", "size", "num_photos", "blocks", "epochs", "copies", "budget"),
    [
        ("mobilenetv2_100", 224, 16_000, 3, 4, 2, "auto"),
        ("mobilenetv2_100", 224, 16_000, 1, 4, 2, 3.0),
        ("mobilenetv2_100", 224, 16_000, 1, 2, 2, 2.0),
        ("resnet50", 224, 840, 1, 4, 4, "auto"),
        ("vit_small_patch16_224", 224, 300, 6, 8, 8, "auto"),
    ],
)
def test_the_recipe_of_real_networks(
    name: str, size: int, num_photos: int, blocks: int, epochs: int, copies: int, budget: str | float
) -> None:
    operations = fractions_of_operations(timm.create_model(name, num_classes=2), (3, size, size))
    recipe = choose_recipe(UnfreezeFinetune(budget=budget), operations, num_photos)
    assert (recipe.unfrozen_blocks, recipe.epochs, recipe.copies) == (blocks, epochs, copies)


def points(losses: list[float]) -> pd.DataFrame:
    return pd.DataFrame({"learning_rate": RATES, "loss": losses, "smoothed": losses})


def test_the_suggestion_is_the_middle_of_the_valley() -> None:
    # Flat up to 1e-4, falling to 1e-2, rising from there.
    losses = [0.7 - 0.2 * max(0.0, min(2.0, math.log10(rate) + 4)) + max(0.0, math.log10(rate) + 2) for rate in RATES]
    assert suggest(points(losses)) == pytest.approx(1e-3, rel=0.2)
    refused("falls at no learning rate", suggest, points([1.0 + rate for rate in RATES]))


def test_real_steps_at_rising_rates(tmp_path: Path) -> None:
    photos = tiny.photos(tmp_path / "photos")
    found = try_learning_rates(tiny.network(), photos, tiny.settings(), RATES)
    weighted = try_learning_rates(tiny.network(), photos, tiny.settings(), RATES, torch.tensor([1.5, 0.5]))
    assert weighted["loss"][0] != found["loss"][0]
    assert found["learning_rate"].tolist() == RATES[: len(found)]
    assert STEPS // 2 < len(found) <= STEPS
    suggested = suggest(found)
    assert RATES[STEPS // 10] <= suggested < 0.3
    draw(found, suggested, 1e-3, tmp_path / "rates.png")
    with Image.open(tmp_path / "rates.png") as picture:
        assert picture.width > 700
