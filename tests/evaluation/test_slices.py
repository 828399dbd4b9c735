"""Slices: every photo in one slice of each kind, named by where its value lies."""

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.evaluation.slices import accuracy_by_slice, brightness_and_sharpness, slices_of


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


def test_every_photo_is_in_one_slice_of_each_kind() -> None:
    correct = {"frozen": np.arange(9) % 2 == 0, "finetuned": np.ones(9, dtype=bool)}
    scores = accuracy_by_slice(slices_of(table()), correct, confidence_level=0.95)
    for kind in {one.property for one in scores}:
        members = [one for one in scores if one.property == kind]
        assert sum(one.photos for one in members) == 9
        assert sum(one.photos * one.accuracy["frozen"][0] for one in members) == pytest.approx(5)
    for one in scores:
        value, low, high = one.accuracy["finetuned"]
        assert low < value == 1 == pytest.approx(high)


def test_slices_are_named_by_their_bounds_and_ordered() -> None:
    scores = accuracy_by_slice(slices_of(table()), {"frozen": np.ones(9, dtype=bool)}, confidence_level=0.95)
    names = {kind: [one.name for one in scores if one.property == kind] for kind in ("brightness", "shape", "file format")}
    assert [name.split()[0] for name in names["brightness"]] == ["up", "26.7", "over"]
    assert names["shape"] == ["portrait", "about square", "landscape"]
    assert names["file format"] == ["GIF", "JPEG"]


def test_equal_values_are_one_slice() -> None:
    assert slices_of(table())["sharpness"].unique().tolist() == ["all 10"]


def test_brightness_is_the_mean_luma_and_blur_lowers_sharpness() -> None:
    noise = torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(0))
    blurred = torch.nn.functional.avg_pool2d(noise[:, None], 5, 1, 2, count_include_pad=False)[:, 0]
    measured = brightness_and_sharpness(pixels(torch.cat([torch.full((1, 32, 32), 0.2), noise, blurred])))
    assert measured[0].tolist() == pytest.approx([0.2, 0.0], abs=1e-5)
    assert measured[1, 0] == pytest.approx(noise.mean().item(), abs=1e-3)
    assert measured[2, 1] < measured[1, 1] / 4
