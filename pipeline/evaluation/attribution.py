"""Attribution: Grad-CAM, the places in a photo that speak for a class, for convolutional networks and transformers.

Grad-CAM (Selvaraju et al., ICCV 2017) weights the channels of a late layer by the mean gradient of the class's logit.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import PipelineError
from pipeline.models.outputs import ConcatenatedNetwork

HEAT = colormaps["inferno"]
STRENGTH = 0.65  # opacity of the heat where it is highest


def grad_cam(model: Any, images: Tensor, classes: Sequence[int]) -> Tensor:
    """Grad-CAM of one class an image.

    The layer is the last one with feature maps on which the logit depends at more than one place. In a network that pools its
    maps that is the last map; in one with a class token it lies before the last attention. Of several backbones under one head
    it is the mean over them.

    The model is in eval mode, on the CPU: timm's, torchvision's, or any network with feature maps or a square grid of tokens.
    From normalised images, (n, 3, height, width), and the index of a class for each come (n, height, width) float32: from 0 to
    1 at the highest place of the image; all 0 where no place speaks for the class. A PipelineError says that there is no such
    layer.
    """
    networks = [one.model for one in model.networks] if isinstance(model, ConcatenatedNetwork) else [model]
    return _highest_1(sum(_grad_cam_of(network, model, images, classes) for network in networks))


def _grad_cam_of(network: Any, model: nn.Module, images: Tensor, classes: Sequence[int]) -> Any:
    """Of one backbone of the model."""
    outputs, logits = _outputs_with_maps(network, model, images)
    of_classes = logits[range(len(images)), list(classes)].sum()
    gradients = torch.autograd.grad(of_classes, outputs, materialize_grads=True) if outputs else ()
    for output, gradient in zip(reversed(outputs), reversed(gradients), strict=True):
        maps, slopes = _as_maps(network, output), _as_maps(network, gradient)
        if maps is not None and slopes is not None and slopes[0].abs().sum(0).count_nonzero() > 1:
            heat = (slopes.mean((2, 3), keepdim=True) * maps).sum(1, keepdim=True).relu().detach()
            return _highest_1(functional.interpolate(heat, images.shape[2:], mode="bilinear")[:, 0])
    raise PipelineError(f"{type(network).__name__} has no layer with feature maps for Grad-CAM.")


def _highest_1(heat: Any) -> Tensor:
    return heat / heat.amax((1, 2), keepdim=True).clamp(min=torch.finfo(heat.dtype).tiny)


def overlay(photo: Image.Image, heat: Tensor) -> Image.Image:
    """The photo in grey with its heat (height, width) in colours over it."""
    grey = np.asarray(photo.convert("L").convert("RGB"), dtype=np.float32)
    value = np.asarray(Image.fromarray(heat.numpy()).resize(photo.size, Image.Resampling.BILINEAR))
    opacity = STRENGTH * value[..., None] ** 0.8
    mixed = (1 - opacity) * grey + opacity * HEAT(0.35 + 0.65 * value)[..., :3] * 255
    return Image.fromarray(mixed.astype(np.uint8))


def _outputs_with_maps(network: Any, model: nn.Module, images: Tensor) -> tuple[list[Tensor], Tensor]:
    """The outputs of all layers of a network that have feature maps, in the order of computation, and the model's logits."""
    outputs: list[Tensor] = []

    def record(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad and _as_maps(network, output) is not None:
            outputs.append(output)

    hooks = [module.register_forward_hook(record) for module in network.modules() if module is not network]
    try:
        with torch.enable_grad():  # the input requires a gradient, because no parameter of a frozen network does
            return outputs, model(images.clone().requires_grad_())
    finally:
        for hook in hooks:
            hook.remove()


def _as_maps(model: Any, output: Tensor) -> Tensor | None:
    """A layer's output, maps with channels first or last or tokens, as (n, channels, rows, columns); None where it is none."""
    channels, shape = getattr(model, "num_features", None), output.shape
    if output.ndim == 4 and channels in (shape[1], None) and shape[2] * shape[3] > 1:
        return output
    if output.ndim == 4 and shape[3] == channels and shape[1] * shape[2] > 1:
        return output.permute(0, 3, 1, 2)
    if output.ndim == 3 and channels in (shape[2], None):
        stated = getattr(getattr(model, "patch_embed", None), "grid_size", None)  # rows and columns; else a square
        for prefix in [model.num_prefix_tokens] if hasattr(model, "num_prefix_tokens") else [0, 1]:  # tokens of no place
            tokens = shape[1] - prefix
            square = (math.isqrt(max(tokens, 0)),) * 2
            for grid in (stated or square, square):
                if tokens == math.prod(grid) > 1:
                    return output[:, prefix:].transpose(1, 2).unflatten(2, grid)
    return None
