"""Accuracy by slice: by size, shape, brightness, sharpness and file format of the photos, each with its interval.

properties = brightness_and_sharpness(pixels)                 # while the network gets the same batch
slices = accuracy_by_slice(photos, scores)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline.evaluation.metrics import Scores, wilson

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


def accuracy_by_slice(photos: pd.DataFrame, scores: Mapping[str, Scores]) -> list[Slice]:
    """Accuracy of each model's scores on each slice that holds a photo; `photos` has the manifest's columns and `MEASURED`."""
    shapes = pd.cut(photos["width"] / photos["height"], [0, 0.9, 1.1, np.inf], labels=["portrait", "about square", "landscape"])
    slices = {
        "shorter side": _thirds(photos[["width", "height"]].min(axis=1), " px"),
        "shape": shapes,
        "brightness": _thirds(photos["brightness"] * 100, "%"),
        "sharpness": _thirds(photos["sharpness"] * 100, ""),
        "file format": photos["format"].astype("category"),
    }
    return [
        _accuracy_on((values == name).to_numpy(), kind, str(name), scores)
        for kind, values in slices.items()
        for name in values.cat.remove_unused_categories().cat.categories
    ]


def _accuracy_on(members: np.ndarray, kind: str, name: str, scores: Mapping[str, Scores]) -> Slice:
    right = {model: one.correct[members] for model, one in scores.items()}
    accuracy = {
        model: (float(of.mean()), *wilson(of.sum(), len(of), scores[model].confidence_level)) for model, of in right.items()
    }
    return Slice(kind, name, int(members.sum()), accuracy)


def _thirds(values: pd.Series, unit: str) -> pd.Series:
    """The third that each value lies in, named such as "100 to 200 px"; equal values stay together."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, PARTS + 1)[1:-1]))
    edges = edges[edges < values.max()]
    shown = [f"{edge:.3g}" for edge in edges]
    between = [f"{low} to {high}{unit}" for low, high in pairwise(shown)]
    names = [f"up to {shown[0]}{unit}", *between, f"over {shown[-1]}{unit}"] if shown else [f"all {values.iloc[0]:.3g}{unit}"]
    return pd.cut(values, [-np.inf, *edges, np.inf], labels=names)
