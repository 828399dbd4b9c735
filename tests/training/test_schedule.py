"""Schedules of fine-tuning as pure functions, and the search for a learning rate."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.errors import PipelineError
from pipeline.params import UnfreezeFinetune
from pipeline.training.lr_finder import (
    HIGHEST,
    LOWEST,
    STEPS,
    LearningRatePoint,
    draw,
    suggest,
    try_learning_rates,
)
from pipeline.training.schedule import batch_size_and_rate, copy_of_epoch, default_copies, default_epochs, learning_rate
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


@given(st.integers(1, 10**7))
def test_larger_sets_are_seen_less_often_within_bounds(num_photos: int) -> None:
    assert 2 <= default_copies(num_photos) <= 8
    assert 4 <= default_epochs(num_photos) <= 8
    assert default_epochs(num_photos) >= default_epochs(num_photos + 1000)
    for settings in (UnfreezeFinetune(), UnfreezeFinetune(batch_size=5, learning_rate=0.5)):
        batch_size, rate = batch_size_and_rate(settings, num_photos)
        assert (batch_size, rate) == ((5, 0.5) if settings.batch_size == 5 else (16, 1e-3) if num_photos < 8000 else (32, 5e-4))


def points(losses: list[float]) -> list[LearningRatePoint]:
    return [LearningRatePoint(rate, loss, loss) for rate, loss in zip(RATES, losses, strict=True)]


def test_the_suggestion_is_the_middle_of_the_valley() -> None:
    # Flat up to 1e-4, falling to 1e-2, rising from there.
    losses = [0.7 - 0.2 * max(0.0, min(2.0, math.log10(rate) + 4)) + max(0.0, math.log10(rate) + 2) for rate in RATES]
    assert suggest(points(losses)) == pytest.approx(1e-3, rel=0.2)
    with pytest.raises(PipelineError, match="falls at no learning rate"):
        suggest(points([1.0 + rate for rate in RATES]))


def test_real_steps_at_rising_rates(tmp_path: Path) -> None:
    found = try_learning_rates(tiny.network(), tiny.photos(tmp_path / "photos"), tiny.settings(), RATES)
    assert [one.learning_rate for one in found] == RATES[: len(found)]
    assert STEPS // 2 < len(found) <= STEPS
    suggested = suggest(found)
    assert RATES[STEPS // 10] <= suggested < 0.3
    draw(found, suggested, 1e-3, tmp_path / "rates.png")
    with Image.open(tmp_path / "rates.png") as picture:
        assert picture.width > 1000
