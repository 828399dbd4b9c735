"""The learning-rate finder: rates rise until the loss explodes, and the suggestion lies where the loss falls."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.errors import PipelineError
from pipeline.runtime import ResolvedRuntime
from pipeline.training.lr_finder import EXPLODED, HIGHEST, LOWEST, STEPS, Tried, draw, suggest, try_learning_rates
from pipeline.training.task import Task
from tests.training import tiny

RATES = np.geomspace(LOWEST, HIGHEST, STEPS).tolist()


def tried(losses: list[float]) -> list[Tried]:
    return [Tried(rate, loss, loss) for rate, loss in zip(RATES, losses, strict=True)]


def test_the_suggestion_is_the_middle_of_the_valley() -> None:
    # Flat up to 1e-4, falling to 1e-2, rising from there.
    losses = [0.7 - 0.2 * max(0.0, min(2.0, math.log10(rate) + 4)) + max(0.0, math.log10(rate) + 2) for rate in RATES]
    assert suggest(tried(losses)) == pytest.approx(1e-3, rel=0.2)


def test_where_nothing_falls_nothing_is_suggested() -> None:
    with pytest.raises(PipelineError, match="falls at no learning rate"):
        suggest(tried([1.0 + rate for rate in RATES]))


def test_real_steps_at_rising_rates(tmp_path: Path) -> None:
    photos = tiny.photos(tmp_path / "photos")
    runtime = ResolvedRuntime(torch.device("cpu"), 0, torch.get_num_threads(), bfloat16=False, seconds_between_saves=0)
    found = try_learning_rates(
        tiny.network(), Task(photos, photos, tiny.PREPROCESSING, tiny.settings(), runtime, "torch"), RATES
    )
    assert [one.learning_rate for one in found] == RATES[: len(found)]
    assert STEPS // 2 < len(found) <= STEPS
    assert len(found) == STEPS or max(one.loss for one in found) > EXPLODED * min(one.smoothed for one in found)
    suggested = suggest(found)
    assert RATES[STEPS // 10] <= suggested < 0.3
    draw(found, suggested, 1e-3, tmp_path / "rates.png")
    with Image.open(tmp_path / "rates.png") as picture:
        assert picture.width > 1000
