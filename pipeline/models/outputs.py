"""Logits and features of a network in one pass."""

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.models.head import FeatureExtractor, find_heads


class LogitsAndFeatures(nn.Module):
    """A network that gives both in one pass: (n, channels, height, width) -> (n, num_outputs + width).

    It shares the network's modules. timm's networks are asked for either; others are run without their classifier, which then
    makes the logits from the features.
    """

    model: Any

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        extractor = FeatureExtractor(model)
        self.by_timm, self.model = extractor.by_timm, extractor.model
        head = model.get_submodule(find_heads(model)[0])
        self.num_outputs = int(next(parameter for parameter in reversed(list(head.parameters()))).shape[0])
        self.head = nn.Identity() if self.by_timm else head

    def forward(self, images: Tensor) -> Tensor:
        """Logits first, then the classifier's input."""
        if self.by_timm:
            maps = self.model.forward_features(images)
            logits, features = self.model.forward_head(maps), self.model.forward_head(maps, pre_logits=True)
            return torch.cat([logits, features.flatten(1)], 1)
        features = self.model(images)
        return torch.cat([self.head(features).flatten(1), features.flatten(1)], 1)
