"""Two ways to the same sums in a cheaper training step: BatchNorm layers folded away, and "same" padding without a copy.

    folded = fold_batch_norm(model, example)        # names of the layers that now cost nothing
    fix_same_padding(model)                         # for timm's tf_ networks: up to rounding the same sums
    ...                                             # train; the same parameters learn, by the same gradients
    unfold_batch_norm(model)

In eval mode BatchNorm is y = g (x - m) / s + b with a constant mean m and deviation s, so after a convolution W it equals the
convolution with g W / s and the bias b - g m / s. `torch.nn.utils.fuse_conv_bn_eval` does that once, for inference. Here it is
done in every forward pass, so parameters, gradients and the keys of `state_dict()` stay what they are. It saves several passes
over the activations, and a copy of each: on a processor with bfloat16 a third of a training step.

Strided depthwise convolutions, folded or not, compute in the precision of their weights under autocast on a processor: oneDNN
finds their gradient in bfloat16 by a plain loop, ten times slower than in float32.

With stride 2, "same" padding of an even size is one row and column more on one side. timm pads by a copy of every input
(`Conv2dSame`), which a training step pays for forward and backward. Here the convolution pads both sides alike, and the kernel
gets a leading row and column of zeros instead. That is measured on processors; on other devices timm's way stays.
"""

from types import MethodType
from typing import Any

import torch
from timm.layers import BatchNormAct2d, Conv2dSame, conv2d_same, get_same_padding
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.nn.functional import conv2d, pad

from pipeline.models.backends import cudnn_flags

TOLERANCE = 1e-3  # largest difference of the outputs, relative to the largest: what another order of rounding may give


def fold_batch_norm(model: nn.Module, example: Tensor) -> tuple[str, ...]:
    """Fold every BatchNorm in eval mode that follows a convolution into it, in place.

    Which layer follows which is seen in one forward pass, and the folded network is compared with the plain one on it: a
    network that uses a convolution's output in some other place too is left as it was.

    The model is in the mode it is going to be trained in; BatchNorm layers in training mode are left alone. The example is
    (n, channels, height, width) float32, on the model's device. Returns the dotted paths of the folded layers.
    """
    training = model.training
    norms = [module for module in model.modules() if _can_fold(module)]
    model.eval()
    try:
        with torch.no_grad(), cudnn_flags(tf32=False):  # whose rounding alone can come to the tolerance
            pairs, expected = _pairs(model, norms, example)
            for convolution, norm in pairs:
                # In a tuple, so that neither becomes a submodule of the convolution; `copy.deepcopy` carries them along.
                vars(convolution)["_folded"] = (_AsItsClassSays(convolution), norm)
                vars(convolution)["forward"] = MethodType(_convolve_and_normalise, convolution)
                vars(norm)["forward"] = MethodType(_only_activate, norm)
            for module in model.modules():
                if _is_strided_depthwise(module):
                    vars(module).setdefault("forward", MethodType(_convolve_without_autocast, module))
            difference = (model(example) - expected).abs().max()
    finally:
        model.train(training)
    if not difference <= TOLERANCE * expected.abs().max():
        unfold_batch_norm(model)
        return ()
    folded = {norm for _, norm in pairs}
    return tuple(name for name, module in model.named_modules() if module in folded)


def unfold_batch_norm(model: nn.Module) -> None:
    """Undo `fold_batch_norm`; the parameters are as training left them."""
    own = (_convolve_and_normalise, _convolve_without_autocast, _only_activate)
    for module in model.modules():
        if getattr(vars(module).get("forward"), "__func__", None) in own:
            del vars(module)["forward"]
            vars(module).pop("_folded", None)


def _can_fold(module: nn.Module) -> bool:
    """BatchNorm with constant statistics; timm's kind applies an activation after it. Other subclasses may do anything."""
    kinds = (nn.BatchNorm2d, BatchNormAct2d)
    return type(module) in kinds and not module.training and module.running_mean is not None and bool(module.affine)


def _pairs(model: nn.Module, norms: list[nn.Module], example: Tensor) -> tuple[list[tuple[nn.Module, nn.Module]], Tensor]:
    """Convolutions with the BatchNorm that takes their output, where each ran once; and what the network gave."""
    made: dict[int, tuple[nn.Module, Tensor]] = {}  # holds each output, so that no later tensor has its id
    pairs: list[tuple[nn.Module, nn.Module]] = []

    def after_convolution(module: nn.Module, inputs: Any, output: Tensor) -> None:
        made[id(output)] = (module, output)

    def before_norm(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if id(inputs[0]) in made:
            pairs.append((made[id(inputs[0])][0], module))

    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    # A parametrised one (weight_norm) computes its weight from others.
    hooks = [one.register_forward_hook(after_convolution) for one in convolutions if "weight" in one._parameters]
    hooks += [norm.register_forward_pre_hook(before_norm) for norm in norms]
    try:
        expected = model(example)
    finally:
        for hook in hooks:
            hook.remove()
    ran = [convolution for convolution, _ in made.values()]
    normalised = [norm for _, norm in pairs]
    return [pair for pair in pairs if ran.count(pair[0]) == 1 and normalised.count(pair[1]) == 1], expected


class _AsItsClassSays(nn.Module):
    """A convolution by the forward of its own class, padding rules and all, whatever its instance does instead."""

    def __init__(self, convolution: nn.Module) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, x: Tensor) -> Tensor:
        return type(self.convolution).forward(self.convolution, x)


def _convolve_and_normalise(self: Any, x: Tensor) -> Tensor:
    plain, norm = self._folded
    scale = torch.rsqrt(norm.running_var + norm.eps) * norm.weight
    bias = -norm.running_mean * scale if self.bias is None else (self.bias - norm.running_mean) * scale
    weights = {"convolution.weight": self.weight * scale.view(-1, 1, 1, 1), "convolution.bias": bias + norm.bias}
    if not _is_strided_depthwise(self):
        return functional_call(plain, weights, (x,))
    with torch.autocast(x.device.type, enabled=False):
        return functional_call(plain, weights, (x.to(self.weight.dtype),))


def _convolve_without_autocast(self: Any, x: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        return type(self).forward(self, x.to(self.weight.dtype))


def _only_activate(self: Any, x: Tensor) -> Tensor:
    return self.act(self.drop(x)) if isinstance(self, BatchNormAct2d) else x


def _is_strided_depthwise(module: nn.Module) -> bool:
    if not isinstance(module, nn.Conv2d) or module.weight.device.type != "cpu":
        return False
    return module.groups == module.in_channels > 1 and max(module.stride) > 1


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
