"""Replace and initialise the head (the classifier) of a network, and nothing else of it.

    model = timm.create_model("resnet18", pretrained=True)
    replace_head(model, num_outputs=2, initialisation="trunc_normal", seed=0)

In plain torch: `model.fc = nn.Linear(model.fc.in_features, 2)`. What this adds: it finds the classifier of any timm or
torchvision network by itself, keeps device and dtype, and draws the new weights from a generator of its own, so that the
same seed gives the same head whatever was drawn before.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import PipelineError

# Where classifiers live: torchvision's conventions, tried for networks that do not say it themselves.
USUAL_PATHS = ("fc", "heads.head", "head", "classifier")

INITIALISATIONS: dict[str, Callable[..., Tensor]] = {
    "zeros": lambda weight, generator: nn.init.zeros_(weight),
    "normal": lambda weight, generator: nn.init.normal_(weight, std=0.01, generator=generator),
    "trunc_normal": lambda weight, generator: nn.init.trunc_normal_(weight, std=0.02, generator=generator),
    "xavier_uniform": lambda weight, generator: nn.init.xavier_uniform_(weight, generator=generator),
    "xavier_normal": lambda weight, generator: nn.init.xavier_normal_(weight, generator=generator),
    "kaiming_uniform": lambda weight, generator: nn.init.kaiming_uniform_(weight, generator=generator),
    "kaiming_normal": lambda weight, generator: nn.init.kaiming_normal_(weight, generator=generator),
    "orthogonal": lambda weight, generator: nn.init.orthogonal_(weight, generator=generator),
}


def find_head(model: nn.Module) -> str:
    """The dotted path of a network's classifier, such as "fc" or "classifier.3".

    timm's networks say it (`pretrained_cfg["classifier"]`); for others the usual places are tried. In a `Sequential` it is
    the last linear layer.

    Raises:
        PipelineError: there is none, or several side by side (distilled networks).
    """
    stated = getattr(model, "pretrained_cfg", {}).get("classifier")
    if isinstance(stated, tuple | list):
        raise PipelineError(f"{type(model).__name__} has several classifiers side by side ({', '.join(stated)}).")
    modules = dict(model.named_modules())
    for path in (stated, *USUAL_PATHS):
        if path not in modules:
            continue
        linear = [name for name, part in modules.items() if f"{name}.".startswith(f"{path}.") and _is_linear(part)]
        if linear:
            return linear[-1]
    # A network made without a classifier has an Identity in its place; a convolution may serve as one (1x1 over pooled maps).
    if stated in modules:
        return str(stated)
    raise PipelineError(f"No classifier found in {type(model).__name__}: looked at {', '.join(USUAL_PATHS)}.")


def replace_head(model: Any, num_outputs: int, *, initialisation: str = "trunc_normal", seed: int = 0) -> str:
    """Put a fresh linear classifier of `num_outputs` in the place of the old one, and initialise it.

    Args:
        model: a timm network, or any module whose classifier `find_head` finds.
        num_outputs: one logit a class.
        initialisation: of the weight, a key of `INITIALISATIONS`; the bias starts at zero.
        seed: of the initialisation alone.

    Returns:
        The classifier's dotted path.

    Raises:
        PipelineError: no classifier is found, or the initialisation is unknown.
    """
    if initialisation not in INITIALISATIONS:
        raise PipelineError(f"Unknown initialisation {initialisation!r}; known: {', '.join(INITIALISATIONS)}.")
    if hasattr(model, "reset_classifier"):
        like = next(model.parameters())
        model.reset_classifier(num_outputs)
        path = find_head(model)
        head = model.get_submodule(path).to(like.device, like.dtype)
    else:
        path = find_head(model)
        head = _linear_like(model.get_submodule(path), num_outputs)
        model.set_submodule(path, head)
    weight, bias = _weight_and_bias(head, path)
    # Drawn on the CPU in float32, so that the same seed gives the same head on every device.
    fresh = INITIALISATIONS[initialisation](torch.empty(weight.shape, device="cpu"), torch.Generator().manual_seed(seed))
    with torch.no_grad():
        weight.copy_(fresh)
    nn.init.zeros_(bias)
    return path


def set_head(model: nn.Module, path: str, weight: Tensor, bias: Tensor) -> None:
    """Give the linear classifier at `path` the given weight (outputs, features) and bias (outputs,), a solved probe's say."""
    own_weight, own_bias = _weight_and_bias(model.get_submodule(path), path)
    with torch.no_grad():
        own_weight.copy_(weight.reshape(own_weight.shape))
        own_bias.copy_(bias)


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear)


def _linear_like(old: nn.Module, num_outputs: int) -> nn.Linear:
    if not isinstance(old, nn.Linear):
        raise PipelineError(f"The classifier is a {type(old).__name__}; only linear ones can be replaced.")
    return nn.Linear(old.in_features, num_outputs, device=old.weight.device, dtype=old.weight.dtype)


def _weight_and_bias(head: nn.Module, path: str) -> tuple[Tensor, Tensor]:
    weight, bias = getattr(head, "weight", None), getattr(head, "bias", None)
    if not isinstance(weight, Tensor) or not isinstance(bias, Tensor):
        raise PipelineError(f"The classifier at {path!r} ({type(head).__name__}) has no weight and bias of its own.")
    return weight, bias
