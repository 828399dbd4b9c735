"""Slices: every photo in one slice of each kind, named by where its value lies."""

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.evaluation.metrics import Scores
from pipeline.evaluation.slices import accuracy_by_slice, brightness_and_sharpness


def table(count: int = 9) -> pd.DataFrame:
    numbers = np.arange(count)
    return pd.DataFrame(
        {
            "width": 100 + 50 * numbers,
            "height": 200,
            "brightness": numbers / 10,
            "sharpness": 0.1,
            "format": ["JPEG"] * (count - 1) + ["GIF"],
        }
    )


def pixels(luma: torch.Tensor) -> torch.Tensor:
    """Grey images (n, height, width) in [0, 1] as they are loaded."""
    return (luma[..., None].expand(-1, -1, -1, 3) * 255).round().to(torch.uint8)


def test_every_photo_is_in_one_slice_of_each_kind_named_by_its_bounds() -> None:
    labels = np.zeros(9, dtype=int)
    half = np.where(np.arange(9)[:, None] % 2 == 0, [0.9, 0.1], [0.1, 0.9])
    scores = {
        "frozen": Scores(labels, half, ("a", "b"), 0.95),
        "finetuned": Scores(labels, half[::2][labels], ("a", "b"), 0.95),
    }
    slices = accuracy_by_slice(table(), scores)
    names: dict[str, list[str]] = {}
    for one in slices:
        names.setdefault(one.property, []).append(one.name)
        value, low, high = one.accuracy["finetuned"]
        assert low < value == 1 == pytest.approx(high)
    for kind in names:
        members = [one for one in slices if one.property == kind]
        assert sum(one.photos for one in members) == 9
        assert sum(one.photos * one.accuracy["frozen"][0] for one in members) == pytest.approx(5)
    assert [name.split()[0] for name in names["brightness"]] == ["up", "26.7", "over"]
    assert names["shape"] == ["portrait", "about square", "landscape"]
    assert names["file format"] == ["GIF", "JPEG"]
    assert names["sharpness"] == ["all 10"], "equal values are one slice"


def test_brightness_is_the_mean_luma_and_blur_lowers_sharpness() -> None:
    noise = torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(0))
    blurred = torch.nn.functional.avg_pool2d(noise[:, None], 5, 1, 2, count_include_pad=False)[:, 0]
    measured = brightness_and_sharpness(pixels(torch.cat([torch.full((1, 32, 32), 0.2), noise, blurred])))
    assert measured[0].tolist() == pytest.approx([0.2, 0.0], abs=1e-5)
    assert measured[1, 0] == pytest.approx(noise.mean().item(), abs=1e-3)
    assert measured[2, 1] < measured[1, 1] / 4
