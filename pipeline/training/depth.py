"""How many blocks fine-tuning unfreezes where nobody says: the topmost ones that hold at most half of a network's operations.

settings = with_depth(params.unfreeze_finetune, model, preprocessing)
settings.unfrozen_blocks      # a number or "all", never "auto"

Deeper fine-tuning fits better and costs more. What stays frozen is computed once, and a step is that of the blocks that learn,
so their share of the operations is what an epoch costs. A number of blocks would not do for that: three of MobileNetV2's hold
a half, two of MobileNetV1's two thirds.
"""

import copy
from itertools import accumulate

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.checkpoint import Preprocessing
from pipeline.models.freezing import blocks_of
from pipeline.params import UnfreezeFinetune

MOST = 0.5  # of the operations


def with_depth(settings: UnfreezeFinetune, model: nn.Module, preprocessing: Preprocessing) -> UnfreezeFinetune:
    """The settings with the number of blocks that "auto" comes to for a network; others as they are."""
    if settings.unfrozen_blocks != "auto":
        return settings
    return settings.model_copy(update={"unfrozen_blocks": default_depth(model, preprocessing.input_size)})


def default_depth(model: nn.Module, input_size: tuple[int, int, int]) -> int:
    """As many topmost blocks as hold at most half of the operations, but one at least.

    Args:
        model: stays as it is; nothing is computed but shapes.
        input_size: (channels, height, width).
    """
    shares = _operations_of_blocks(model, input_size)
    from_the_top = accumulate(reversed(shares[:-1]), initial=shares[-1])
    next(from_the_top)  # the head alone
    return max(1, sum(operations <= MOST * sum(shares) for operations in from_the_top))


def _operations_of_blocks(model: nn.Module, input_size: tuple[int, int, int]) -> list[int]:
    """Of each block of `blocks_of`: those of the modules that hold its parameters."""
    shapes_only = copy.deepcopy(model).to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        shapes_only(torch.empty(1, *input_size, device="meta"))
    counted = {path.partition(".")[2]: sum(of_kinds.values()) for path, of_kinds in counter.get_flop_counts().items()}
    block_of = {name: block for block, names in enumerate(blocks_of(model)) for name in names}
    operations = [0] * (1 + max(block_of.values()))
    for path, module in model.named_modules():
        children = sum(counted.get(f"{path}.{child}".lstrip("."), 0) for child, _ in module.named_children())
        inside = [block_of[f"{path}.{name}".lstrip(".")] for name, _ in module.named_parameters()]
        if inside:
            operations[min(inside)] += counted.get(path, 0) - children
    return operations
