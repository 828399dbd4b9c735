"""Summary of a network (layers, shapes, parameters, what learns, preprocessing), and a list of timm's backbones."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

import timm
import torch
import torchinfo
from rich.console import Console
from rich.table import Table
from torch import nn

from pipeline.checkpoint import Preprocessing
from pipeline.data.pretrained import nearest
from pipeline.errors import PipelineError
from pipeline.models.backbone import create_backbone
from pipeline.models.freezing import set_trainable
from pipeline.models.head import find_heads, replace_head
from pipeline.params import OneBackbone
from pipeline.progress import progress


def summarise(model: nn.Module, preprocessing: Preprocessing, *, depth: int = 2) -> str:
    """Describe a network as text: its head, BatchNorm and input, then torchinfo's table, `depth` levels deep."""
    heads = [f"{path} ({model.get_submodule(path)})".replace("\n", "") for path in find_heads(model)]
    norms = [module for module in model.modules() if "running_var" in dict(module.named_buffers(recurse=False))]
    channels, height, width = preprocessing.input_size
    mean, std = (", ".join(f"{value:.3f}" for value in values) for values in (preprocessing.mean, preprocessing.std))
    lines = {
        "network": type(model).__name__,
        "head": ", ".join(heads),
        "BatchNorm": f"{len(norms)} layers, {sum('train' in vars(module) for module in norms)} of them held in eval",
        "input": f"{channels} channels, {height} x {width}, mean ({mean}), std ({std})",
        "resizing": f"{preprocessing.interpolation}, {preprocessing.crop_mode} crop of {preprocessing.crop_pct:.3g}",
    }
    table = torchinfo.summary(
        model,
        input_size=(1, *preprocessing.input_size),
        col_names=("output_size", "num_params", "mult_adds", "trainable"),
        row_settings=("var_names",),
        depth=depth,
        device=next(model.parameters()).device,  # torchinfo would move it to a GPU, and leave it there
        mode="eval",
        verbose=0,
    )
    # torchinfo prints the member of its enum where it means the unit.
    return re.sub(r"Units\.([A-Z])[A-Z]*", r"\1", f"{_aligned(lines)}\n{table}")


def show_summary(
    part: OneBackbone, *, outputs: int, unfrozen: str, depth: int, locate: Callable[[str], Path] = Path, unsafe: bool = False
) -> None:
    """Print the summary of a backbone with a new linear head; `unfrozen` is "head", "all", or a number of blocks.

    `locate` finds a weights file by the path that was given, and `unsafe` unpickles it whole, as for `create_backbone`.
    """
    if unfrozen not in ("head", "all") and not unfrozen.isdigit():
        raise PipelineError(f"unfrozen = {unfrozen!r}, but should be head, all or a number of blocks.")
    backbone = create_backbone(**part._asdict(), locate=locate, unsafe=unsafe)
    replace_head(backbone.model, outputs)
    set_trainable(backbone.model, int(unfrozen) if unfrozen.isdigit() else cast(Literal["head", "all"], unfrozen))
    origin = "random" if part.weights == "none" else f"{part.weights}, sha256 {backbone.info.weights_sha256}"
    print(_aligned({"backbone": part.name, "weights": origin}))
    print(summarise(backbone.model, backbone.preprocessing, depth=depth))


def show_backbones(pattern: str) -> None:
    """Print a table of timm's architectures that match a shell pattern: parameters, input, licence, pretrained weights."""
    names = timm.list_models(pattern)
    if not names:
        near = nearest(pattern.strip("*"), timm.list_models())
        raise PipelineError(f"timm {timm.__version__} has no architecture that matches {pattern!r}{near}.")
    table = Table("backbone", "parameters", "input", "licence", "pretrained weights", box=None, pad_edge=False)
    table.columns[1].justify = table.columns[2].justify = "right"
    with progress("looking at networks", total=len(names), unit="networks") as advance:
        for name in names:
            table.add_row(*describe(name))
            advance(1)
    console = Console()
    # Redirected to a file, rich would take 80 columns and break the names.
    Console(width=console.width if console.is_terminal else 120).print(table)


def describe(name: str) -> tuple[str, str, str, str, str]:
    """Name, parameters, input size, licence and pretrained weights of one of timm's architectures, as text.

    >>> describe("test_resnet")
    ('test_resnet', '0.47 M', '160x160', 'apache-2.0', 'r160_in1k')
    """
    config: Any = timm.get_pretrained_cfg(name)
    with torch.device("meta"), warnings.catch_warnings():  # counted without memory or a download
        warnings.simplefilter("ignore")  # some constructors warn of settings that only training would care for
        parameters = sum(parameter.numel() for parameter in timm.create_model(name).parameters())
    size = "?"
    if config and config.input_size:
        channels, height, width = config.input_size
        size = f"{height}x{width}" if channels == 3 else f"{height}x{width}x{channels}"
    tagged = timm.list_pretrained(f"{name}.*") + timm.list_pretrained(name)
    tags = dict.fromkeys(full.partition(".")[2] or "untagged" for full in tagged)
    default_first = sorted(tags, key=lambda tag: tag != (config.tag if config else None))
    more = f" and {len(tags) - 1} more" if len(tags) > 1 else ""
    weights = f"{default_first[0]}{more}" if tags else "none"
    return name, f"{parameters / 1e6:.2f} M", size, (config and config.license) or "?", weights


def _aligned(lines: dict[str, str]) -> str:
    return "\n".join(f"{key + ':':<14}{value}" for key, value in lines.items())
