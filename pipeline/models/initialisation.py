"""Initial weights by name, drawn from a generator of their own.

    initialise_weight(head.weight, "trunc_normal", seed=0)
    initialise_new(fresh_block, seed=0)

In plain torch: `torch.manual_seed(0); nn.init.trunc_normal_(head.weight, std=0.02)`. That changes the global generator for all
that is drawn later, and gives other weights on a GPU than on a processor. Here the weights are a function of name, shape and
seed alone: the same on every device, in every dtype up to rounding, wherever in a program they are drawn.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from pipeline.errors import PipelineError

TRUNC_NORMAL_STD = 0.02  # what vision transformers and timm's classifiers start from

INITIALISATIONS: dict[str, Callable[..., Tensor]] = {
    "zeros": lambda weight, generator, std: nn.init.zeros_(weight),
    "normal": lambda weight, generator, std: nn.init.normal_(weight, std=0.01, generator=generator),
    "trunc_normal": lambda weight, generator, std: nn.init.trunc_normal_(weight, std=std, generator=generator),
    "xavier_uniform": lambda weight, generator, std: nn.init.xavier_uniform_(weight, generator=generator),
    "xavier_normal": lambda weight, generator, std: nn.init.xavier_normal_(weight, generator=generator),
    "kaiming_uniform": lambda weight, generator, std: nn.init.kaiming_uniform_(weight, generator=generator),
    "kaiming_normal": lambda weight, generator, std: nn.init.kaiming_normal_(weight, generator=generator),
    "orthogonal": lambda weight, generator, std: nn.init.orthogonal_(weight, generator=generator),
}


def initialise_weight(weight: Tensor, name: str, *, std: float = TRUNC_NORMAL_STD, seed: int = 0) -> None:
    """Fill a weight in place.

    In plain torch: `nn.init.xavier_uniform_(weight)`; here it is seeded by itself, and drawn on the CPU in float32.

    Args:
        weight: (outputs, inputs) or a convolution's (outputs, inputs, height, width), on any device, in any float dtype.
        name: a key of `INITIALISATIONS`; "normal" has the standard deviation 0.01. Xavier is of Glorot and Bengio (2010),
            Kaiming of He et al. (2015), orthogonal of Saxe et al. (2014).
        std: the standard deviation of "trunc_normal", which is cut off at -2 and 2.
        seed: what alone decides the draw, beside name and shape.

    Raises:
        PipelineError: the name is unknown.

    >>> one, two = torch.empty(3, 4), torch.empty(3, 4, dtype=torch.float64)
    >>> initialise_weight(one, "orthogonal", seed=1)
    >>> _ = torch.rand(7)
    >>> initialise_weight(two, "orthogonal", seed=1)
    >>> torch.equal(one.double(), two)
    True
    """
    if name not in INITIALISATIONS:
        raise PipelineError(f"Unknown initialisation {name!r}; known: {', '.join(INITIALISATIONS)}.")
    _fill(weight, name, torch.Generator().manual_seed(seed), std)


def initialise_new(module: nn.Module, *, seed: int = 0) -> None:
    """Give every layer of a new module the initial weights that its kind wants, in place.

    In plain torch: `model.apply(fn)` with `nn.init.kaiming_normal_(layer.weight, mode="fan_out")` for a convolution. What this
    adds: all usual kinds, and a generator of its own.

    Convolutions and hidden linear layers: Kaiming normal (He et al., 2015), a convolution by its fan-out; embeddings:
    truncated normal; BatchNorm, LayerNorm and GroupNorm: scale 1, shift 0, and BatchNorm's running mean 0 and variance 1;
    every bias 0. Layers of other kinds keep what their constructor gave them.

    >>> block = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    >>> initialise_new(block, seed=1)
    >>> block[1].weight.sum().item(), block[0].bias.abs().sum().item()
    (8.0, 0.0)
    """
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.Embedding):
            _fill(layer.weight, "trunc_normal", generator, TRUNC_NORMAL_STD)
        elif isinstance(layer, _ConvNd | nn.Linear):
            fan = "fan_out" if isinstance(layer, _ConvNd) else "fan_in"
            fresh = torch.empty(layer.weight.shape, device="cpu")
            nn.init.kaiming_normal_(fresh, mode=fan, nonlinearity="relu", generator=generator)  # type: ignore[arg-type]
            _copy(layer.weight, fresh)
            _zero(layer.bias)
        elif isinstance(layer, _BatchNorm):
            layer.reset_parameters()  # running statistics too
        elif isinstance(layer, nn.LayerNorm | nn.GroupNorm):
            layer.reset_parameters()


def _fill(weight: Tensor, name: str, generator: torch.Generator, std: float) -> None:
    # Drawn on the CPU in float32, so that the same seed gives the same weights on every device.
    _copy(weight, INITIALISATIONS[name](torch.empty(weight.shape, device="cpu"), generator, std))


def _copy(weight: Tensor, fresh: Tensor) -> None:
    with torch.no_grad():
        weight.copy_(fresh)


def _zero(bias: Tensor | None) -> None:
    if bias is not None:
        nn.init.zeros_(bias)
