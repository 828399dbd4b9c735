"""TensorFlow's "same" padding without a copy of the activations, for timm's tf_ networks.

    fix_same_padding(model)        # the same sums up to rounding, the same state_dict, a faster training step

With stride 2, "same" padding of an even size is one row and column more on one side. timm pads by a copy of every input
(`Conv2dSame`), which a training step pays for forward and backward. Here the convolution pads both sides alike, and the kernel
gets a leading row and column of zeros instead. That is measured on processors; on other devices timm's way stays.
"""

from typing import Any

import torch
from timm.layers import Conv2dSame, conv2d_same, get_same_padding
from torch import Tensor, fx, nn
from torch.nn.functional import conv2d, pad


def fix_same_padding(model: nn.Module) -> None:
    """Replace the forward of every `Conv2dSame` without dilation, in place.

    Modules, parameters and names stay what they are. The padding follows the input size of each call.
    """
    for module in model.modules():
        if type(module) is Conv2dSame and module.dilation == (1, 1):
            module.__class__ = _Conv2dSame


class _Conv2dSame(Conv2dSame):
    def forward(self, x: Tensor) -> Tensor:
        return convolve_same(x, self.weight, self.bias, self.stride, self.groups)


@fx.wrap  # one node in a traced graph, because it reads sizes
def convolve_same(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, groups: int) -> Tensor:
    """A 2d convolution with "same" padding: (n, channels, height, width) -> (n, outputs, ceil(height / stride), ...)."""
    if x.device.type != "cpu" or torch.onnx.is_in_onnx_export():  # ONNX wants a kernel that is no result
        return conv2d_same(x, weight, bias, stride, groups=groups)
    sizes = zip(x.shape[-2:], weight.shape[-2:], stride, strict=True)
    totals = [get_same_padding(int(size), int(kernel), step, 1) for size, kernel, step in sizes]
    after = [total - total // 2 for total in totals]  # as much as before, or one more
    zeros = [total % 2 for total in totals]
    if any(zeros):
        weight = pad(weight, (zeros[1], 0, zeros[0], 0))
    return conv2d(x, weight, bias, stride, after, 1, groups)
