"""Attribution: Grad-CAM, the places in a photo that speak for a class, for convolutional networks and transformers.

heat = grad_cam(model, images, classes=[0, 1])          # (n, height, width) in [0, 1]
picture = overlay(denormalise(images[0], preprocessing), heat[0])

Grad-CAM (Selvaraju et al., ICCV 2017) weights the channels of a late layer by the gradient of the class's logit. captum does it
for maps (n, channels, height, width); the output of layers with tokens or with channels last is shown to captum as such maps.
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

from pipeline.checkpoint import Preprocessing
from pipeline.errors import PipelineError

HEAT = colormaps["inferno"]
STRENGTH = 0.65  # opacity of the heat where it is highest


def grad_cam(model: Any, images: Tensor, classes: Sequence[int]) -> Tensor:
    """Grad-CAM of one class an image.

    The layer is the last one with feature maps on which the logit depends at more than one place. In a network that pools its
    maps that is the last map; in one with a class token it lies before the last attention.

    Args:
        model: in eval mode, on the CPU: timm's, torchvision's, or any network with feature maps or a square grid of tokens.
        images: (n, 3, height, width), normalised.
        classes: the index of a class for each image.

    Returns:
        (n, height, width) float32: from 0 to 1 at the highest place of the image; all 0 where no place speaks for the class.

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
    value = np.clip(np.asarray(resized), 0, 1)
    opacity = STRENGTH * value[..., None] ** 0.8
    mixed = (1 - opacity) * grey + opacity * HEAT(0.35 + 0.65 * value)[..., :3] * 255
    return Image.fromarray(mixed.astype(np.uint8))


def denormalise(tensor: Tensor, preprocessing: Preprocessing) -> Image.Image:
    """A network's input (3, height, width) as a photo again."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    pixels = ((tensor * std + mean).clamp(0, 1) * 255).round().byte()
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


class _Maps(nn.Module):
    """Passes a layer's output on unchanged, through `grid`, which gets it as (n, channels, height, width)."""

    def __init__(self, to_maps: Callable[[Tensor], Tensor], from_maps: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.grid = nn.Identity()
        self._to_maps, self._from_maps = to_maps, from_maps

    def forward(self, output: Tensor) -> Tensor:
        return self._from_maps(self.grid(self._to_maps(output)), output)


def _last_grid(model: Any, image: Tensor, label: int) -> tuple[nn.Module, _Maps]:
    """The layer for Grad-CAM, and how its output is a map."""
    outputs: list[tuple[nn.Module, Tensor]] = []

    def record(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad and _maps_of(model, output) is not None:
            outputs.append((module, output))

    hooks = [module.register_forward_hook(record) for module in model.modules() if module is not model]
    try:
        with torch.enable_grad():
            # The input requires a gradient, because no parameter of a frozen network does.
            logit = model(image.clone().requires_grad_())[0, label]
    finally:
        for hook in hooks:
            hook.remove()
    gradients = torch.autograd.grad(logit, [output for _, output in outputs], allow_unused=True) if outputs else ()
    for (module, output), gradient in zip(reversed(outputs), reversed(gradients), strict=True):
        maps = _maps_of(model, output)
        if gradient is not None and maps is not None and _places(maps._to_maps(gradient)) > 1:
            return module, maps
    raise PipelineError(f"{type(model).__name__} has no layer with feature maps for Grad-CAM.")


def _places(gradient: Tensor) -> int:
    """How many places of a map (1, channels, height, width) have a gradient."""
    return int((gradient.abs().sum(1) > 0).sum())


def _maps_of(model: Any, output: Tensor) -> _Maps | None:
    """How a layer's output is a map: channels first, channels last (timm's `num_features`) or tokens; None where it is none."""
    channels, shape = getattr(model, "num_features", None), output.shape
    if output.ndim == 4 and channels in (shape[1], None) and shape[2] * shape[3] > 1:
        return _Maps(lambda maps: maps, lambda maps, _: maps)
    if output.ndim == 4 and shape[3] == channels and shape[1] * shape[2] > 1:
        return _Maps(lambda maps: maps.permute(0, 3, 1, 2), lambda maps, _: maps.permute(0, 2, 3, 1))
    if output.ndim != 3 or channels not in (shape[2], None):
        return None
    for prefix in [model.num_prefix_tokens] if hasattr(model, "num_prefix_tokens") else [0, 1]:
        if (grid := _grid_size(model, shape[1] - prefix)) is not None:
            return _token_maps(prefix, grid)
    return None


def _token_maps(prefix: int, grid: tuple[int, int]) -> _Maps:
    """Tokens (n, prefix + rows * columns, channels) as maps; the first `prefix` ones stand for no place."""
    return _Maps(
        lambda tokens: tokens[:, prefix:].transpose(1, 2).unflatten(2, grid),
        lambda maps, tokens: torch.cat([tokens[:, :prefix], maps.flatten(2).transpose(1, 2)], 1),
    )


def _grid_size(model: Any, tokens: int) -> tuple[int, int] | None:
    """Rows and columns of the tokens: as the network's patch embedding says, or a square."""
    stated = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    if stated is not None and math.prod(stated) == tokens:
        return int(stated[0]), int(stated[1])
    side = math.isqrt(max(tokens, 0))
    return (side, side) if side > 1 and side * side == tokens else None
