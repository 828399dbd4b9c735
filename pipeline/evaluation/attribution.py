"""Where a network looks: Grad-CAM for convolutional networks and transformers alike.

heat = grad_cam(model, images, classes=[0, 1])        # (n, height, width) in [0, 1]: what spoke for these classes
picture = overlay(photo, heat[0])

Grad-CAM (Selvaraju et al., ICCV 2017) weighs the channels of a late layer by how much the class's logit grows with them. captum
does it for maps laid out as (n, channels, height, width); transformers keep tokens or put channels last, so their layer's
output is shown to captum as maps on its way.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from captum.attr import LayerAttribution, LayerGradCam
from matplotlib import colormaps
from PIL import Image
from torch import Tensor, nn

from pipeline.errors import PipelineError

HEAT = colormaps["inferno"]
STRENGTH = 0.65  # how much of the hottest pixel is heat


def grad_cam(model: Any, images: Tensor, classes: Sequence[int]) -> Tensor:
    """Where in each image a network sees a class.

    The layer is the last one to hold a grid of the network's features that the logit depends on at more than one place. In a
    network that pools its maps that is the last map; in one that reads a class token it lies before the last attention.

    Args:
        model: a timm network in eval mode, on the CPU.
        images: (n, 3, height, width), normalised.
        classes: the index of a class for each image.

    Returns:
        (n, height, width) float32: 0 where nothing speaks for the class, 1 at the hottest place of the image; all 0 where no
        place speaks for it.

    Raises:
        PipelineError: the network has no such layer.
    """
    layer, maps = _last_grid(model, images[:1], classes[0])
    hook = layer.register_forward_hook(lambda module, inputs, output: maps(output))
    try:
        heat = LayerGradCam(model, maps.grid).attribute(images.clone(), list(classes), relu_attributions=True)
    finally:
        hook.remove()
    heat = LayerAttribution.interpolate(heat, tuple(images.shape[2:]), "bilinear")[:, 0].detach()
    return heat / heat.amax((1, 2), keepdim=True).clamp(min=torch.finfo(heat.dtype).tiny)


def overlay(photo: Image.Image, heat: Tensor) -> Image.Image:
    """The photo in grey with its heat (height, width) in colours over it."""
    grey = np.asarray(photo.convert("L").convert("RGB"), dtype=np.float32)
    resized = Image.fromarray(heat.numpy()).resize(photo.size, Image.Resampling.BILINEAR)
    share = np.clip(np.asarray(resized), 0, 1)
    alpha = STRENGTH * share[..., None] ** 0.8
    mixed = (1 - alpha) * grey + alpha * HEAT(0.35 + 0.65 * share)[..., :3] * 255
    return Image.fromarray(mixed.astype(np.uint8))


class _Maps(nn.Module):
    """Passes a layer's output on unchanged, by way of `grid`, which sees it as (n, channels, height, width)."""

    def __init__(self, to_maps: Callable[[Tensor], Tensor], from_maps: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.grid = nn.Identity()
        self._to_maps, self._from_maps = to_maps, from_maps

    def forward(self, output: Tensor) -> Tensor:
        return self._from_maps(self.grid(self._to_maps(output)), output)


def _last_grid(model: Any, image: Tensor, label: int) -> tuple[nn.Module, _Maps]:
    """The layer to look at, and how its output is a map."""
    outputs: list[tuple[nn.Module, Tensor]] = []

    def record(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad and _maps_of(model, output) is not None:
            outputs.append((module, output))

    hooks = [module.register_forward_hook(record) for module in model.modules() if module is not model]
    try:
        with torch.enable_grad():
            # Asked of the input, because a frozen network keeps no gradients of its own.
            logit = model(image.clone().requires_grad_())[0, label]
    finally:
        for hook in hooks:
            hook.remove()
    gradients = torch.autograd.grad(logit, [output for _, output in outputs], allow_unused=True) if outputs else ()
    for (module, output), gradient in zip(reversed(outputs), reversed(gradients), strict=True):
        maps = _maps_of(model, output)
        if gradient is not None and maps is not None and _places(maps._to_maps(gradient)) > 1:
            return module, maps
    raise PipelineError(f"{type(model).__name__} keeps no grid of features that Grad-CAM could look at.")


def _places(gradient: Tensor) -> int:
    """How many places of a map (1, channels, height, width) have a gradient."""
    return int((gradient.abs().sum(1) > 0).sum())


def _maps_of(model: Any, output: Tensor) -> _Maps | None:
    """How a layer's output is a map of the network's features: channels first or last, or tokens; None where it is none."""
    channels, prefix = model.num_features, getattr(model, "num_prefix_tokens", 0)
    shape = output.shape
    if output.ndim == 4 and shape[1] == channels and shape[2] * shape[3] > 1:
        return _Maps(lambda maps: maps, lambda maps, _: maps)
    if output.ndim == 4 and shape[3] == channels and shape[1] * shape[2] > 1:
        return _Maps(lambda maps: maps.permute(0, 3, 1, 2), lambda maps, _: maps.permute(0, 2, 3, 1))
    if output.ndim == 3 and shape[2] == channels and (grid := _grid_size(model, shape[1] - prefix)) is not None:
        return _Maps(
            lambda tokens: tokens[:, prefix:].transpose(1, 2).unflatten(2, grid),
            lambda maps, tokens: torch.cat([tokens[:, :prefix], maps.flatten(2).transpose(1, 2)], 1),
        )
    return None


def _grid_size(model: Any, tokens: int) -> tuple[int, int] | None:
    """Rows and columns that a network's tokens stand for."""
    stated = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    if stated is not None and math.prod(stated) == tokens:
        return int(stated[0]), int(stated[1])
    side = math.isqrt(max(tokens, 0))
    return (side, side) if side > 1 and side * side == tokens else None
