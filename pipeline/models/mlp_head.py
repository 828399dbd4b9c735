"""A classifier with hidden layers, and the layers that it and a linear one are made of."""

from collections.abc import Sequence
from typing import Literal

from timm.layers import LayerNorm2d, create_act_layer
from torch import nn

from pipeline.errors import PipelineError

Norm = Literal["none", "batch", "layer"]


class MlpHead(nn.Sequential):
    """A classifier with hidden layers: (linear, norm, activation, dropout) for each, then the linear output layer.

    In plain torch: `nn.Sequential(nn.Linear(512, 256), nn.GELU(), nn.Linear(256, 2))`. Over pooled maps that were not
    flattened, linear layers are 1x1 convolutions here. `output` is the last layer.
    """

    def __init__(
        self,
        in_features: int,
        num_outputs: int,
        *,
        hidden: Sequence[int],
        activation: str = "gelu",
        norm: Norm = "none",
        dropout: float = 0.0,
        convolutional: bool = False,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        widths = [in_features, *hidden]
        for number, (width, next_width) in enumerate(zip(widths, hidden, strict=False)):
            self.add_module(f"linear{number}", linear_layer(width, next_width, convolutional))
            if norm != "none":
                self.add_module(f"norm{number}", _norm_layer(norm, next_width, convolutional))
            self.add_module(f"activation{number}", activation_layer(activation))
            self.add_module(f"dropout{number}", nn.Dropout(dropout))
        self.add_module("output", linear_layer(widths[-1], num_outputs, convolutional))


def linear_layer(in_features: int, out_features: int, convolutional: bool) -> nn.Module:
    """A linear layer, or the 1x1 convolution that computes the same over maps (n, features, height, width).

    In plain torch: `nn.Linear(in_features, out_features)`, which fails on the maps that some of timm's networks give their
    classifier.

    >>> linear_layer(8, 2, convolutional=True)
    Conv2d(8, 2, kernel_size=(1, 1), stride=(1, 1))
    """
    return nn.Conv2d(in_features, out_features, 1) if convolutional else nn.Linear(in_features, out_features)


def activation_layer(name: str) -> nn.Module:
    """An activation by timm's name.

    In plain timm: `create_act_layer("gelu")`, which raises KeyError, or gives None for an empty name.

    Raises:
        PipelineError: timm knows none of this name.
    """
    try:
        layer = create_act_layer(name)
    except (KeyError, AssertionError):
        layer = None
    if layer is None:
        raise PipelineError(f"activation = {name!r}: timm knows no such activation. Try gelu, relu, silu, tanh or leaky_relu.")
    return layer


def _norm_layer(norm: Norm, features: int, convolutional: bool) -> nn.Module:
    if norm == "batch":
        return nn.BatchNorm2d(features) if convolutional else nn.BatchNorm1d(features)
    return LayerNorm2d(features) if convolutional else nn.LayerNorm(features)
