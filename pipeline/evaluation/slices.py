"""Accuracy by slice: by size, shape, brightness, sharpness and file format of the photos, each with its interval."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline.evaluation.metrics import Scores, wilson

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
    """Brightness and sharpness, (n, 2), of photos as the network gets them, (n, height, width, 3) uint8.

    The mean luma in [0, 1], and the standard deviation of its Laplacian, which is low where a photo is blurred (Pech-Pacheco et
    al., Diatom autofocusing in brightfield microscopy, ICPR 2000).
    """
    luma = (pixels * (torch.tensor(LUMA, device=pixels.device) / 255)).sum(3)
    neighbours = luma[:, :-2, 1:-1] + luma[:, 2:, 1:-1] + luma[:, 1:-1, :-2] + luma[:, 1:-1, 2:]
    laplacian = neighbours - 4 * luma[:, 1:-1, 1:-1]
    return torch.stack([luma.mean((1, 2)), laplacian.flatten(1).std(1)], 1)


def accuracy_by_slice(photos: pd.DataFrame, scores: Mapping[str, Scores]) -> list[Slice]:
    """Accuracy of each model's scores on each slice; `photos`, numbered from 0, has the manifest's columns and `MEASURED`."""
    ratio = photos["width"] / photos["height"]
    slices = {
        "shorter side": _thirds(photos[["width", "height"]].min(axis=1), " px"),
        "shape": pd.cut(ratio, [0, 0.9, 1.1, np.inf], labels=["portrait", "about square", "landscape"]),
        "brightness": _thirds(photos["brightness"] * 100, "%"),
        "sharpness": _thirds(photos["sharpness"] * 100, ""),
        "file format": photos["format"],
    }
    found = []
    for kind, values in slices.items():
        for name, members in values.groupby(values, observed=True):
            accuracy = {}
            for model, one in scores.items():
                right = one.correct[members.index.to_numpy()]
                accuracy[model] = (float(right.mean()), *wilson(right.sum(), len(right), one.confidence_level))
            found.append(Slice(kind, str(name), len(members), accuracy))
    return found


def clearest_difference(slices: Sequence[Slice], model: str, confidence_level: float) -> str:
    """Whether a property matters to a model: the difference between its slices that is surest not to be 0, in a sentence.

    The interval is Newcombe's (Interval estimation for the difference between independent proportions, Statistics in Medicine
    1998, method 10), wide enough to hold for all pairs of the slices together (Bonferroni).
    """
    pairs = list(combinations(slices, 2))
    level = 1 - (1 - confidence_level) / len(pairs)
    found = []
    for pair in pairs:
        better, worse = sorted(pair, key=lambda one: -one.accuracy[model][0])
        (p, q), photos = (one.accuracy[model][0] for one in (better, worse)), np.array([better.photos, worse.photos])
        (low, least), (most, high) = wilson(np.round(photos * (p, q)), photos, level)
        found.append((p - q - math.hypot(p - low, high - q), p - q + math.hypot(most - p, q - least), p - q, better, worse))
    lowest, highest, difference, better, worse = max(found, key=lambda one: one[0])
    between = f"“{better.name}” is {100 * difference:.1f} points above “{worse.name}”"
    bounds = f"{100 * confidence_level:.4g}% interval {100 * lowest:+.1f} to {100 * highest:+.1f}".replace("-", "−")
    return f"{'It matters' if lowest > 0 else 'No difference beyond chance'}: {between} ({bounds})."


def _thirds(values: pd.Series, unit: str) -> pd.Series:
    """The third that each value lies in, named such as "100 to 200 px"; equal values stay together."""
    edges = np.unique(np.quantile(values, [1 / 3, 2 / 3]))
    edges = edges[edges < values.max()]
    if not len(edges):  # two thirds or more share the largest value
        edges = np.unique(values[values < values.max()])[-1:]
    *shown, largest = [f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in (*edges, values.max())]
    between = [f"{low} to {high}{unit}" for low, high in pairwise(shown)]
    names = [f"up to {shown[0]}{unit}", *between, f"over {shown[-1]}{unit}"] if shown else [f"all {largest}{unit}"]
    return pd.cut(values, [-np.inf, *edges, np.inf], labels=names)
