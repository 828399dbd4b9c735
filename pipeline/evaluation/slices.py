"""On which photos a model is right: accuracy by size, shape, light, blur and file format, each with its interval.

properties = of_batch(pixels)                            # while the network looks at the same batch
slices = slice_scores(slices_of(table), right, confidence_level=0.95)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline.evaluation.metrics import wilson

PARTS = 3
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)
MEASURED = ("brightness", "sharpness")


@dataclass(frozen=True)
class Slice:
    """Some of the photos: what they have in common, how many they are, and for each model how often it is right on them."""

    property: str
    name: str
    photos: int
    accuracy: dict[str, tuple[float, float, float]]  # model -> accuracy, and the bounds of its Wilson interval


def of_batch(pixels: Tensor) -> Tensor:
    """Brightness and sharpness of photos as the network sees them, (n, height, width, 3) uint8.

    Returns:
        (n, 2): the mean luma in [0, 1], and the standard deviation of its Laplacian, which is low where a photo is blurred
        (Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy, ICPR 2000).
    """
    luma = (pixels * (torch.tensor(LUMA, device=pixels.device) / 255)).sum(3)
    neighbours = luma[:, :-2, 1:-1] + luma[:, 2:, 1:-1] + luma[:, 1:-1, :-2] + luma[:, 1:-1, 2:]
    laplacian = neighbours - 4 * luma[:, 1:-1, 1:-1]
    return torch.stack([luma.mean((1, 2)), laplacian.flatten(1).std(1)], 1)


def slices_of(photos: pd.DataFrame) -> dict[str, pd.Series]:
    """Property -> the name of the slice that each photo falls into.

    Args:
        photos: a row a photo, with the manifest's width, height and format, and the `MEASURED` properties.
    """
    aspect = photos["width"] / photos["height"]
    return {
        "shorter side": _thirds(photos[["width", "height"]].min(axis=1), " px"),
        "shape": pd.Series(np.select([aspect < 0.9, aspect > 1.1], ["upright", "wide"], "about square"), index=photos.index),
        "brightness": _thirds(photos["brightness"] * 100, "%"),
        "sharpness": _thirds(photos["sharpness"] * 100, ""),
        "file format": photos["format"],
    }


def slice_scores(slices: Mapping[str, pd.Series], right: Mapping[str, np.ndarray], *, confidence_level: float) -> list[Slice]:
    """How often each model is right on each slice.

    Args:
        slices: as `slices_of` gives them, for n photos.
        right: model -> (n,) whether it is right.
        confidence_level: level of the intervals.
    """
    scores = []
    for kind, names in slices.items():
        for name in sorted(names.unique(), key=_order):
            members = (names == name).to_numpy()
            total = int(members.sum())
            accuracy = {
                model: (float(values[members].mean()), *wilson(int(values[members].sum()), total, confidence_level))
                for model, values in right.items()
            }
            scores.append(Slice(kind, str(name), total, accuracy))
    return scores


def _thirds(values: pd.Series, unit: str) -> pd.Series:
    """Names such as "100 to 200 px" of the third that each value lies in; equal values stay together."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, PARTS + 1)[1:-1]))
    edges = edges[edges < values.max()]
    number = np.searchsorted(edges, values, side="left")
    if len(edges) == 0:
        return pd.Series(_named(f"all {values.iloc[0]:.3g}", unit), index=values.index)
    names = [f"up to {edges[0]:.3g}"]
    names += [f"{low:.3g} to {high:.3g}" for low, high in pairwise(edges)]
    names.append(f"over {edges[-1]:.3g}")
    return pd.Series([_named(names[index], unit) for index in number], index=values.index)


def _named(text: str, unit: str) -> str:
    return f"{text}{unit}"


def _order(name: str) -> tuple[int, float, str]:
    """From "up to" over the middle to "over"; anything else by its name."""
    words = name.split()
    place = {"up": 0, "over": 2}.get(words[0], 1)
    number = float(words[0]) if words[0].replace(".", "", 1).isdigit() else 0.0
    return place, number, name
