"""Accuracy by slice: by size, shape, brightness, sharpness and file format of the photos, each with its interval.

properties = brightness_and_sharpness(pixels)                 # while the network gets the same batch
slices = accuracy_by_slice(slices_of(photos), correct, confidence_level=0.95)
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
    """Photos that have a property in common: its name and value, how many they are, and each model's accuracy on them."""

    property: str
    name: str
    photos: int
    accuracy: dict[str, tuple[float, float, float]]  # model -> accuracy, and the bounds of its Wilson interval


def brightness_and_sharpness(pixels: Tensor) -> Tensor:
    """Brightness and sharpness of photos as the network gets them, (n, height, width, 3) uint8.

    Returns:
        (n, 2): the mean luma in [0, 1], and the standard deviation of its Laplacian, which is low where a photo is blurred
        (Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy, ICPR 2000).
    """
    luma = (pixels * (torch.tensor(LUMA, device=pixels.device) / 255)).sum(3)
    neighbours = luma[:, :-2, 1:-1] + luma[:, 2:, 1:-1] + luma[:, 1:-1, :-2] + luma[:, 1:-1, 2:]
    laplacian = neighbours - 4 * luma[:, 1:-1, 1:-1]
    return torch.stack([luma.mean((1, 2)), laplacian.flatten(1).std(1)], 1)


def slices_of(photos: pd.DataFrame) -> dict[str, pd.Series]:
    """Property -> the slice of each photo, a categorical, by the manifest's columns and the `MEASURED` ones."""
    shapes = pd.cut(photos["width"] / photos["height"], [0, 0.9, 1.1, np.inf], labels=["portrait", "about square", "landscape"])
    return {
        "shorter side": _thirds(photos[["width", "height"]].min(axis=1), " px"),
        "shape": shapes,
        "brightness": _thirds(photos["brightness"] * 100, "%"),
        "sharpness": _thirds(photos["sharpness"] * 100, ""),
        "file format": photos["format"].astype("category"),
    }


def accuracy_by_slice(
    slices: Mapping[str, pd.Series], correct: Mapping[str, np.ndarray], *, confidence_level: float
) -> list[Slice]:
    """Accuracy on each slice of `slices_of` that holds a photo; `correct` is model -> (n,) of its predictions."""
    scores = []
    for kind, values in slices.items():
        for name in values.cat.remove_unused_categories().cat.categories:
            members = (values == name).to_numpy()
            total = int(members.sum())
            accuracy = {
                model: (float(right[members].mean()), *wilson(int(right[members].sum()), total, confidence_level))
                for model, right in correct.items()
            }
            scores.append(Slice(kind, str(name), total, accuracy))
    return scores


def _thirds(values: pd.Series, unit: str) -> pd.Series:
    """The third that each value lies in, named such as "100 to 200 px"; equal values stay together."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, PARTS + 1)[1:-1]))
    edges = edges[edges < values.max()]
    if len(edges) == 0:
        names = [f"all {values.iloc[0]:.3g}{unit}"]
    else:
        shown = [f"{edge:.3g}" for edge in edges]
        between = [f"{low} to {high}{unit}" for low, high in pairwise(shown)]
        names = [f"up to {shown[0]}{unit}", *between, f"over {shown[-1]}{unit}"]
    return pd.cut(values, [-np.inf, *edges, np.inf], labels=names)
