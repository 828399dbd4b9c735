"""Give a network's linear head a solution that was found outside of it: a linear probe on frozen features.

    replace_head(model, 2, initialisation="zeros")
    set_linear_head(model, weight, bias)                 # model(images) == features @ weight.T + bias
    apply_temperature(model, temperature)               # model(images) is what it was, divided by the temperature

The features are those that the network's head begins with: timm's `forward_head(..., pre_logits=True)`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.errors import PipelineError
from pipeline.models.head_search import find_heads, is_auxiliary, is_linear
from pipeline.models.mlp_head import MlpHead


def set_linear_head(model: nn.Module, weight: Tensor, bias: Tensor, *, head: str | None = None) -> None:
    """Give the linear head a solved linear probe.

    In plain torch: `model.fc.weight.data.copy_(weight); model.fc.bias.data.copy_(bias)`. What this adds: the classifier is
    found; of several side by side each gets the probe, so that their mean computes it, or where each has features of its
    own (CrossViT), its columns of a probe on all of them; auxiliary ones, which VOLO adds to the output, are set to zero; a
    head with one logit takes the difference of a two-class probe's rows, whose sigmoid is the softmax's probability; and where
    a head normalises its features before it classifies them (LeViT, EfficientViT, RepViT), the probe is solved for that norm,
    which stays as it is.

    Args:
        model: a network with a linear head in place (`replace_head`).
        weight: (classes, features), solved on what the head takes: `model.forward_head(..., pre_logits=True)`.
        bias: (classes,).
        head: the dotted path of the classifier where it is not to be searched for.

    Raises:
        PipelineError: the head has hidden layers, the probe is of another shape than the head, or the head's own norm
            silences a feature, so that no classifier behind it can be the probe; the network is untouched then.

    >>> import timm
    >>> model = timm.create_model("test_resnet", num_classes=2)
    >>> set_linear_head(model, torch.ones(2, model.num_features), torch.tensor([0.0, 1.0]))
    >>> model.fc.bias
    Parameter containing:
    tensor([0., 1.], requires_grad=True)
    """
    paths = find_heads(model) if head is None else (head,)
    auxiliary = [path for path in paths if is_auxiliary(path)]
    main = [path for path in paths if path not in auxiliary]
    layers = [_linear_at(model, path) for path in main]
    if len(layers[0].weight) == 1 and len(weight) == 2:
        weight, bias = weight[1:] - weight[:1], bias[1:] - bias[:1]
    parts = _parts(model, layers, weight)
    if not parts or len(layers[0].weight) != len(weight) or len(bias) != len(weight):
        raise PipelineError(
            f"The probe is of {tuple(weight.shape)} (classes, features), but the head at {main[0]!r} of "
            f"{tuple(layers[0].weight.shape[:2])}. Solve it on the inputs of this classifier, for its classes."
        )
    solved = [_behind_own_norm(model, path, part, bias) for path, part in zip(main, parts, strict=True)]
    with torch.no_grad():
        for layer, (own_weight, own_bias) in zip(layers, solved, strict=True):
            layer.weight.copy_(own_weight.reshape(layer.weight.shape))
            layer.bias.copy_(own_bias)
        for path in auxiliary:
            for tensor in model.get_submodule(path).parameters():
                tensor.zero_()


def apply_temperature(model: nn.Module, temperature: float) -> None:
    """Scale the classifier so that the logits are divided by a temperature (Guo et al., On calibration, ICML 2017).

    In plain torch: `logits / temperature` wherever the network is used, and a number to remember beside its weights. What this
    adds: the weights alone give calibrated probabilities, in any program; all classifiers of a network with several are scaled.

    Args:
        model: a network with a linear head or an `MlpHead`.
        temperature: above 0; more than 1 makes the network less sure.

    >>> import timm
    >>> model, images = timm.create_model("test_resnet", num_classes=2).eval(), torch.randn(2, 3, 32, 32)
    >>> before = model(images)
    >>> apply_temperature(model, 2.0)
    >>> torch.allclose(model(images), before / 2, atol=1e-6)
    True
    """
    with torch.no_grad():
        for path in find_heads(model):
            module = model.get_submodule(path)
            layer = module.get_submodule("output") if isinstance(module, MlpHead) else module
            for tensor in layer.parameters():
                tensor.div_(temperature)


def _parts(model: nn.Module, layers: Sequence[Any], weight: Tensor) -> list[Tensor]:
    """What each of several classifiers gets of a probe's weight; none where its width fits neither way."""
    widths = [layer.weight.shape[1] for layer in layers]
    if set(widths) == {weight.shape[1]}:
        return [weight] * len(layers)
    if sum(widths) == weight.shape[1]:
        return [part / share for part, share in zip(weight.split(widths, dim=1), _shares(model, len(layers)), strict=True)]
    return []


def _behind_own_norm(model: nn.Module, path: str, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The weight and bias with which a classifier behind a BatchNorm in eval mode computes weight @ features + bias.

    The norm gives a * x + c, so the weight is divided by a, and what c then adds is taken off the bias.
    """
    siblings = list(model.get_submodule(path.rpartition(".")[0]).children())
    # LeViT's head and its like are a module of norm, dropout and linear layer, all of which pre_logits=True leaves out.
    layers = [module for module in siblings if not isinstance(module, nn.Dropout)]
    if len(layers) != 2 or not isinstance(norm := layers[0], _BatchNorm) or not is_linear(layers[1]):
        return weight, bias
    assert norm.running_var is not None
    assert norm.running_mean is not None
    deviation = (norm.running_var.double() + norm.eps).sqrt()
    a = (norm.weight.detach().double() if norm.affine else 1) / deviation
    c = (norm.bias.detach().double() if norm.affine else 0) - norm.running_mean.double() * a
    if not (a != 0).all():
        raise PipelineError(
            f"The norm in the head before {path!r} silences {int((a == 0).sum())} features, so a probe on all of them cannot "
            "be put behind it. Choose another backbone or other weights."
        )
    solved = weight.to(a) / a
    return solved, bias.to(a) - solved @ c


def _linear_at(model: nn.Module, path: str) -> Any:
    layer = model.get_submodule(path)
    if isinstance(layer, MlpHead):
        raise PipelineError(f"The head at {path!r} has hidden layers; a linear probe cannot be its solution.")
    if not is_linear(layer) or layer.bias is None:
        raise PipelineError(f"The classifier at {path!r} ({type(layer).__name__}) has no weight and bias of its own.")
    return layer


def _shares(model: Any, count: int) -> list[float]:
    """What part each of several classifiers has in the output: EfficientViM learns it, elsewhere it is the mean."""
    learnt = getattr(model, "weights", None)
    if isinstance(learnt, nn.Parameter) and learnt.shape == (count,):
        return learnt.detach().softmax(0).tolist()
    return [1 / count] * count
