"""A network in full: layers, output shapes, parameters, what learns, memory, work, head and data configuration.

    print(summarise(model, preprocessing))

In plain torch: `print(model)` and `sum(p.numel() for p in model.parameters())`. The table is torchinfo's, of one real forward
pass; the lines above it say what transfer learning asks: where the head is, what learns, what the network wants to see.
"""

import difflib
import re
from typing import Literal, cast

import timm
import torchinfo
from torch import nn

from pipeline.checkpoint import Preprocessing
from pipeline.errors import PipelineError
from pipeline.files import megabytes
from pipeline.models.backbone import create_backbone
from pipeline.models.freezing import set_trainable
from pipeline.models.head import find_heads, replace_head

COLUMNS = ("output_size", "num_params", "mult_adds", "trainable")


def summarise(model: nn.Module, preprocessing: Preprocessing, *, depth: int = 2) -> str:
    """Describe a network as text.

    In plain torch: `print(model)` and `sum(p.numel() for p in model.parameters() if p.requires_grad)`. What this adds: output
    shapes and work of a real forward pass, where the head is, and what the network wants to see.

    Args:
        model: with its head in place, frozen or not as `set_trainable` left it.
        preprocessing: of its input.
        depth: how many levels of submodules the table shows.

    Returns:
        Lines of "key: value", then torchinfo's table for a batch of one image: multiply-adds of a forward pass, and the memory
        of its outputs and of the parameters.
    """
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    total, learning = sum(size for size, _ in sizes), sum(size for size, learns in sizes if learns)
    state_bytes = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    heads = [f"{path} ({model.get_submodule(path)})".replace("\n", "") for path in find_heads(model)]
    norms = [module for module in model.modules() if "running_var" in dict(module.named_buffers(recurse=False))]
    channels, height, width = preprocessing.input_size
    mean, std = _rounded(preprocessing.mean), _rounded(preprocessing.std)
    lines = {
        "network": type(model).__name__,
        "head": ", ".join(heads),
        "parameters": f"{total:,}: {learning:,} learn, {total - learning:,} are frozen",
        "weights file": f"{megabytes(state_bytes)}",
        "BatchNorm": f"{len(norms)} layers, {sum('train' in vars(module) for module in norms)} of them held in eval",
        "input": f"{channels} channels, {height} x {width}, mean {mean}, std {std}",
        "resizing": f"{preprocessing.interpolation}, {preprocessing.crop_mode} crop of {preprocessing.crop_pct:.3g}",
    }
    told = "\n".join(f"{key + ':':<14}{value}" for key, value in lines.items())
    device = next(model.parameters()).device
    was_training = model.training
    table = torchinfo.summary(
        model,
        input_size=(1, *preprocessing.input_size),
        col_names=COLUMNS,
        row_settings=("var_names",),
        depth=depth,
        device=device,
        mode="eval",
        verbose=0,
    )
    model.train(was_training)
    # torchinfo prints the member of its enum where it means the unit.
    return re.sub(r"Units\.([A-Z])[A-Z]*", r"\1", f"{told}\n{table}")


def show_summary(name: str, weights: str, *, outputs: int, unfrozen: str, depth: int, unsafe: bool = False) -> None:
    """Print the summary of a backbone of timm's with a new head.

    In plain torch: `print(timm.create_model(name, num_classes=2))`, which shows modules, but neither shapes nor sizes nor what
    learns.

    Args:
        name, weights, unsafe: as of `create_backbone`.
        outputs: of the head.
        unfrozen: "head", "all", or a number of blocks, as of `set_trainable`.
        depth: as of `summarise`.

    Raises:
        PipelineError: timm knows no such architecture, the weights cannot be had, or `unfrozen` is none of the three.
    """
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=5, cutoff=0.4)
        raise PipelineError(f"timm {timm.__version__} knows no {name!r}; the nearest names are {', '.join(near) or 'none'}.")
    if unfrozen not in ("head", "all") and not unfrozen.isdigit():
        raise PipelineError(f"unfrozen = {unfrozen!r}, but should be head, all or a number of blocks.")
    backbone = create_backbone(name, weights, unsafe=unsafe)
    replace_head(backbone.model, outputs)
    set_trainable(backbone.model, int(unfrozen) if unfrozen.isdigit() else cast(Literal["head", "all"], unfrozen))
    info = backbone.info
    origin = "random" if weights == "none" else f"{info.weights}, sha256 {info.weights_sha256}"
    print(f"{'backbone:':<14}{name}\n{'weights:':<14}{origin}")
    print(summarise(backbone.model, backbone.preprocessing, depth=depth))


def _rounded(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:.3f}" for value in values) + ")"
