"""Slices: every photo in one slice of each kind, named by where its value lies."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.evaluation.metrics import Scores
from pipeline.evaluation.slices import Slice, accuracy_by_slice, brightness_and_sharpness, clearest_difference


def table(count: int = 9) -> pd.DataFrame:
    numbers = np.arange(count)
    sizes = {"width": 100 + 50 * numbers, "height": 200, "brightness": numbers / 10, "sharpness": 0.1}
    return pd.DataFrame(sizes).assign(format=["JPEG"] * (count - 1) + ["GIF"])


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


@pytest.mark.parametrize(
    ("sides", "names"),
    [([200] * 3 + [400] * 3 + [500] * 14, ["up to 400 px", "over 400 px"]), ([3024] * 20, ["all 3,024 px"])],
)
def test_photos_are_all_alike_only_where_they_are(sides: list[int], names: list[str]) -> None:
    scores = Scores(np.zeros(20, dtype=int), np.full((20, 2), 0.5), ("a", "b"), 0.95)
    slices = accuracy_by_slice(table(20).assign(width=sides, height=sides), {"model": scores})
    assert [one.name for one in slices if one.property == "shorter side"] == names


@pytest.mark.parametrize(
    ("of_70_and_80", "sentence"),
    [
        ((56, 48), "It matters: “square” is 20.0 points above “wide” (95% interval +5.2 to +33.4)."),
        ((56, 60), "No difference beyond chance: “square” is 5.0 points above “wide” (95% interval −8.6 to +18.0)."),
    ],
)
def test_a_difference_is_told_from_chance(of_70_and_80: tuple[int, int], sentence: str) -> None:
    """The interval of 56 of 70 against 48 of 80 is published (Newcombe, Statistics in Medicine, 1998, table II, method 10)."""
    square, wide = (
        Slice("shape", name, total, {"model": (correct / total, 0, 1)})
        for name, total, correct in zip(("square", "wide"), (70, 80), of_70_and_80, strict=True)
    )
    assert clearest_difference([wide, square], "model", 0.95) == sentence
    third = replace(square, name="third")  # three pairs want a wider interval each
    assert _highest(clearest_difference([wide, square, third], "model", 0.95)) > _highest(sentence)


def _highest(sentence: str) -> float:
    return float(sentence.rpartition("+")[2].rstrip(")."))


def test_brightness_is_the_mean_luma_and_blur_lowers_sharpness() -> None:
    noise = torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(0))
    blurred = torch.nn.functional.avg_pool2d(noise[:, None], 5, 1, 2, count_include_pad=False)[:, 0]
    measured = brightness_and_sharpness(pixels(torch.cat([torch.full((1, 32, 32), 0.2), noise, blurred])))
    assert measured[0].tolist() == pytest.approx([0.2, 0.0], abs=1e-5)
    assert measured[1, 0] == pytest.approx(noise.mean().item(), abs=1e-3)
    assert measured[2, 1] < measured[1, 1] / 4
