"""The features of a network, its logits with them in one pass, and several networks' features under one head.

features = FeatureExtractor(model)(images)          # (n, width): the classifier's input
outputs = LogitsAndFeatures(model)(images)          # (n, classes + width)
check_ends_with_classifier(model, (3, 224, 224))    # without which the two would not be the network's
both = ConcatenatedNetwork([first, second], widths=[1280, 1280], normalised=[of_first, of_second])
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.checkpoint import Preprocessing
from pipeline.errors import PipelineError
from pipeline.models.head import find_heads, gives_pre_logits, is_auxiliary, replace_head

LINEAR = (nn.Identity, nn.Dropout, nn.Flatten, nn.AdaptiveAvgPool2d, nn.AvgPool2d)  # what may follow a classifier
TOLERANCE = 1e-3  # largest difference of the logits, relative to the largest: what another order of rounding may give


class FeatureExtractor(nn.Module):
    """A network up to the input of its classifier: (n, channels, height, width) -> (n, width).

    It shares the network's modules and weights and leaves the network as it is. timm's networks are asked for it
    (`forward_head(pre_logits=True)`); others are run without their classifier. Where several classifiers have inputs of their
    own, the features are all of them side by side; of outputs that deep supervision adds in training mode, the first counts. A
    PipelineError says that what follows the classifier is not linear (SqueezeNet's ReLU), so its logits are no linear probe.
    """

    model: Any

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.by_timm = gives_pre_logits(model)
        self.model = model if self.by_timm else _without_heads(model)

    def forward(self, images: Tensor) -> Tensor:
        if self.by_timm:
            return self.model.forward_head(self.model.forward_features(images), pre_logits=True).flatten(1)
        return self.model(images).flatten(1)


class LogitsAndFeatures(FeatureExtractor):
    """Logits, then features, in one pass: (n, channels, height, width) -> (n, num_outputs + width)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        head = model.get_submodule(find_heads(model)[0])
        self.num_outputs = list(head.parameters())[-1].shape[0]
        self.head = nn.Identity() if self.by_timm else head
        self.convolutional = next(head.parameters()).ndim == 4

    def forward(self, images: Tensor) -> Tensor:
        if self.by_timm:
            maps = self.model.forward_features(images)
            logits, features = self.model.forward_head(maps), self.model.forward_head(maps, pre_logits=True).flatten(1)
        else:
            features = self.model(images).flatten(1)
            logits = self.head(features[:, :, None, None] if self.convolutional else features).flatten(1)
        return torch.cat([logits, features], 1)


def check_ends_with_classifier(model: nn.Module, input_size: Sequence[int]) -> None:
    """Refuse a network that computes anything of its classifier's output, or of other photos: modules alone do not show it.

    A copy with a random classifier is run on random images of (channels, height, width): as a whole, in two parts, and with
    another second image. A PipelineError says that the parts do not give the logits of the whole, or cannot be run, or that the
    first image's logits depend on the second.
    """
    generator = torch.Generator().manual_seed(0)
    network = copy.deepcopy(model).eval()
    replace_head(network, 2)
    paths = find_heads(network)
    for path in paths:  # biases too: a factor after the classifier shows in them alone
        for parameter in network.get_submodule(path).parameters():
            nn.init.normal_(parameter, generator=generator)
    both, images = LogitsAndFeatures(network).eval(), torch.randn(2, *input_size, generator=generator)
    try:
        beside_another = torch.stack([images[0], 3 * images[1]])  # of as many, so that what is drawn stays the same
        expected, other = (_with_the_same_draws(network, some) for some in (images, beside_another))
        reason = _difference(_with_the_same_draws(both, images)[:, :2], expected)
        of_others = _difference(other[:1], expected[:1])
    except Exception as error:  # networks raise all kinds
        reason = [*str(error).strip().splitlines(), type(error).__name__][0]
    if reason:
        raise PipelineError(
            f"{type(model).__name__} does something with the output of its classifier: its logits are not what the layer at "
            f"{paths[0]!r} gives of its features ({reason}). End forward() with that layer; the losses take plain logits."
        )
    if of_others:
        raise PipelineError(
            f"{type(model).__name__} gives a photo other logits beside another photo ({of_others}), as BatchNorm does without "
            "running statistics. Use layers that in eval mode compute each photo for itself."
        )


def _difference(logits: Tensor, expected: Tensor) -> str:
    difference = ((logits - expected).abs().max() / expected.abs().max()).item()
    return "" if difference <= TOLERANCE else f"they differ by {difference:.2g} of the largest"  # also by NaN


@torch.inference_mode()
def _with_the_same_draws(network: nn.Module, images: Tensor) -> Tensor:
    """What a network gives, of which parts may draw in eval mode too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return network(images)


def _without_heads(model: nn.Module) -> nn.Module:
    """The network with nn.Identity in the classifiers' places: the modules on the way to them are copied, no weight is."""
    bare = _with_own_children(model)
    bare._forward_hooks = bare._forward_hooks.copy()
    bare.register_forward_hook(_first)
    for path in find_heads(model):
        *names, last = path.split(".")
        parent = bare
        for name in names:
            parent._modules[name] = _with_own_children(parent._modules[name])
            parent = parent._modules[name]
        after = list(parent)[list(parent._modules).index(last) + 1 :] if isinstance(parent, nn.Sequential) else []
        others = [type(module).__name__ for module in after if not isinstance(module, LINEAR)]
        if others and not is_auxiliary(path):
            raise PipelineError(
                f"In this network {', '.join(others)} follows the classifier at {path!r}, so no linear probe can be its "
                "logits. Choose another backbone."
            )
        parent._modules[last] = nn.Identity()
    return bare


def _first(module: nn.Module, inputs: Any, outputs: Any) -> Any:
    return outputs[0] if isinstance(outputs, tuple | list) else outputs


def _with_own_children(module: Any) -> Any:
    copied = copy.copy(module)
    copied._modules = dict(module._modules)
    return copied


class ConcatenatedNetwork(nn.Module):
    """Networks side by side, without their own classifiers, under one head: (n, 3, height, width) -> (n, outputs).

    The models have their classifiers in place, which are left out, and so many features (`widths`). `normalised` is each one's
    preprocessing, of which mean and std are used; none where a state dict is going to say it.
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
