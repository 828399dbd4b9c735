"""The features of a network, and its logits with them, in one pass.

features = FeatureExtractor(model)(images)          # (n, width): the classifier's input
outputs = LogitsAndFeatures(model)(images)          # (n, classes + width)
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import PipelineError
from pipeline.models.head import find_heads, is_auxiliary


class FeatureExtractor(nn.Module):
    """A network up to the input of its classifier: (n, channels, height, width) -> (n, width).

    It shares the network's modules and weights and leaves the network as it is. timm's networks are asked for it
    (`forward_head(pre_logits=True)`); others are run without their classifier.

    Raises:
        PipelineError: what follows the classifier is not linear (SqueezeNet's ReLU), so its logits are no linear probe.
    """

    model: Any

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.by_timm = hasattr(model, "forward_features") and hasattr(model, "forward_head")
        self.model = model if self.by_timm else _without_heads(model)

    def forward(self, images: Tensor) -> Tensor:
        """The classifier's input; where several classifiers have inputs of their own, all side by side."""
        if self.by_timm:
            return self.model.forward_head(self.model.forward_features(images), pre_logits=True).flatten(1)
        return self.model(images).flatten(1)


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


def _without_heads(model: nn.Module) -> nn.Module:
    """The network with nn.Identity in the classifiers' places: the modules on the way to them are copied, no weight is."""
    bare = copy.copy(model)
    bare._modules = dict(model._modules)
    for path in find_heads(model):
        *names, last = path.split(".")
        parent = bare
        for name in names:
            child = copy.copy(parent._modules[name])
            assert child is not None
            child._modules = dict(child._modules)
            parent._modules[name] = child
            parent = child
        _refuse_nonlinear_end(parent, path)
        parent._modules[last] = nn.Identity()
    return bare


def _refuse_nonlinear_end(parent: nn.Module, path: str) -> None:
    if not isinstance(parent, nn.Sequential) or is_auxiliary(path):
        return
    after = list(parent)[list(parent._modules).index(path.rpartition(".")[2]) + 1 :]
    linear = (nn.Identity, nn.Dropout, nn.Flatten, nn.AdaptiveAvgPool2d, nn.AvgPool2d)
    others = [type(module).__name__ for module in after if not isinstance(module, linear)]
    if others:
        raise PipelineError(
            f"In this network {', '.join(others)} follows the classifier at {path!r}, so no linear probe can be its logits. "
            "Choose another backbone."
        )
