"""Several backbones as one network: a photo goes through all of them, and one linear head takes their features side by side.

model = ConcatenatedNetwork([first, second], widths=[1280, 1280], normalised=[of_first, of_second])
logits = model(images)                        # normalised for the first; the others' mean and std are put right inside
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.checkpoint import Preprocessing
from pipeline.models.head import find_heads
from pipeline.models.outputs import FeatureExtractor


class ConcatenatedNetwork(nn.Module):
    """Networks side by side, without their own classifiers, under one head: (n, 3, height, width) -> (n, outputs).

    Args:
        models: with their classifiers in place, which are left out.
        widths: how many features each has.
        normalised: each one's preprocessing, of which mean and std are used; none where a state dict is going to say it.
    """

    factors: Tensor  # (networks, 3, 1, 1): images normalised for the first network, times these,
    summands: Tensor  # plus these, are normalised for each

    def __init__(self, models: Sequence[Any], widths: Sequence[int], normalised: Sequence[Preprocessing] = ()) -> None:
        super().__init__()
        self.networks = nn.ModuleList(map(_without_classifiers, models))
        self.register_buffer("factors", torch.ones(len(models), 3, 1, 1))
        self.register_buffer("summands", torch.zeros(len(models), 3, 1, 1))
        if normalised:
            mean, std = (torch.tensor([getattr(one, name) for one in normalised])[..., None, None] for name in ("mean", "std"))
            self.factors[:], self.summands[:] = std[0] / std, (mean[0] - mean) / std
        self.head = nn.Linear(sum(widths), 1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of normalised images."""
        features = []
        for index, network in enumerate(self.networks):
            features.append(network(images * self.factors[index] + self.summands[index]))
        return self.head(torch.cat(features, 1))


def _without_classifiers(model: Any) -> FeatureExtractor:
    paths, extractor = find_heads(model), FeatureExtractor(model)
    if extractor.by_timm:
        for path in paths:
            model.set_submodule(path, nn.Identity())
    return extractor
