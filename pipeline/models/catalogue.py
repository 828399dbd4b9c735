"""What timm has to offer: architectures with their size, input, licence, and whether pretrained weights exist.

    for entry in map(look_up, matching("convnext*")):
        entry.name, entry.parameters, entry.pretrained

In plain timm: `timm.list_models("convnext*", pretrained=True)`, which gives names alone.
"""

import difflib
import warnings
from dataclasses import dataclass
from typing import Any

import timm
import torch
from rich.console import Console
from rich.table import Table

from pipeline.errors import PipelineError
from pipeline.progress import progress


@dataclass(frozen=True)
class Entry:
    """One architecture, with what timm says of its default weights."""

    name: str
    parameters: int  # of the network as timm makes it, its own classifier included
    input_size: tuple[int, int, int] | None  # channels, height, width; None where timm does not say
    licence: str  # of the default weights; "" where timm does not say, or there are none
    pretrained: tuple[str, ...]  # timm's tags of pretrained weights, the default first


def matching(pattern: str) -> list[str]:
    """timm's architectures whose name matches a shell pattern, such as "convnext*", in natural order.

    In plain timm: `timm.list_models(pattern)`, which gives an empty list for a name that is misspelt.

    Raises:
        PipelineError: nothing matches; the nearest names are told.
    """
    names = timm.list_models(pattern)
    if not names:
        near = difflib.get_close_matches(pattern.strip("*"), timm.list_models(), n=5, cutoff=0.4)
        nearest = f" The nearest names are {', '.join(near)}." if near else ""
        raise PipelineError(f"timm {timm.__version__} has no architecture that matches {pattern!r}.{nearest}")
    return names


def look_up(name: str) -> Entry:
    """What timm says of one architecture.

    In plain timm: `sum(p.numel() for p in timm.create_model(name).parameters())` and `timm.get_pretrained_cfg(name)`. What this
    adds: the network is made on torch's meta device to count its parameters: without memory, without a download, a fraction of
    a second.

    >>> look_up("test_resnet").parameters
    469688
    """
    config: Any = timm.get_pretrained_cfg(name)
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some constructors warn of settings that only training would care for
        model = timm.create_model(name)
    tagged = timm.list_pretrained(f"{name}.*") + timm.list_pretrained(name)
    tags = dict.fromkeys(full.partition(".")[2] or "untagged" for full in tagged)
    return Entry(
        name=name,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        input_size=tuple(config.input_size) if config and config.input_size else None,
        licence=(config.license if config else None) or "",
        pretrained=tuple(sorted(tags, key=lambda tag: tag != (config.tag if config else None))),
    )


def show_backbones(pattern: str) -> None:
    """Print the table of all architectures that match.

    In plain timm: `print(timm.list_models(pattern))`, the names alone.
    """
    names = matching(pattern)
    entries = []
    with progress("looking at networks", total=len(names), unit="networks") as advance:
        for name in names:
            entries.append(look_up(name))
            advance(1)
    console = Console()
    # Redirected to a file, rich would take 80 columns and break the names.
    Console(width=console.width if console.is_terminal else 120).print(table_of(entries))


def table_of(entries: list[Entry]) -> Table:
    """The entries as a table for a terminal.

    In plain timm: `timm.get_pretrained_cfg(name)` of each name, and `sum(p.numel() for p in model.parameters())` of a network
    built in full, for each; `look_up` builds them without memory for their weights.
    """
    table = Table("backbone", box=None, pad_edge=False)
    table.add_column("parameters", justify="right")
    table.add_column("input", justify="right")
    table.add_column("licence")
    table.add_column("pretrained weights")
    for entry in entries:
        channels, height, width = entry.input_size or (0, 0, 0)
        size = f"{height}x{width}" + (f"x{channels}" if channels != 3 else "") if entry.input_size else "?"
        more = f" and {len(entry.pretrained) - 1} more" if len(entry.pretrained) > 1 else ""
        weights = f"{entry.pretrained[0]}{more}" if entry.pretrained else "none"
        table.add_row(entry.name, f"{entry.parameters / 1e6:.2f} M", size, entry.licence or "?", weights)
    return table
