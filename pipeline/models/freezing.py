"""Freeze a network provably.

    set_trainable(model, "head")            # gradients off below the head, norm layers in eval whatever train() says
    before = frozen_fingerprint(model)
    ...                                     # train
    assert frozen_fingerprint(model) == before

In plain torch freezing is `for parameter in model.parameters(): parameter.requires_grad = False`. That leaves BatchNorm's
running mean and variance moving with every batch in `model.train()`, and so a network that drifts although it is "frozen".
Unfreezing with live BatchNorm on small batches is known to wreck this very task (98.1% to 50.6% in a published notebook),
so here norm layers with running statistics stay in eval mode, frozen or not.
"""

import hashlib
from types import MethodType
from typing import Any, Literal

import torch
from timm.models import group_parameters
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.errors import PipelineError
from pipeline.models.head import find_head


def set_trainable(model: nn.Module, unfrozen: Literal["all", "head"] | int) -> None:
    """Decide for every parameter whether it learns, and hold every BatchNorm in eval mode. Idempotent.

    Args:
        model: a timm network with its head in place.
        unfrozen: "head" alone; "all"; or how many of the topmost blocks learn besides the head, a block being what timm's
            coarse `group_matcher` of the network says.

    Raises:
        PipelineError: more blocks are asked for than the network has.
    """
    head = f"{find_head(model)}."
    learns = {name for name, _ in model.named_parameters() if unfrozen == "all" or name.startswith(head)}
    if isinstance(unfrozen, int):
        learns.update(_top_blocks(model, unfrozen))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in learns)
    keep_batch_norm_in_eval(model)


def keep_batch_norm_in_eval(model: nn.Module) -> None:
    """Hold every layer with running statistics in eval mode, whatever `model.train()` says from now on.

    The layers keep their class, so the keys of `state_dict()` stay as they are, and `copy.deepcopy` carries the hold along.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.train = MethodType(_stay_in_eval, module)  # type: ignore[method-assign]
            module.eval()


def frozen_fingerprint(model: nn.Module) -> str:
    """The sha256 of everything that must not move: parameters without gradient, and all buffers, by name and bytes."""
    digest = hashlib.sha256()
    frozen = [(name, tensor) for name, tensor in model.named_parameters() if not tensor.requires_grad]
    for name, tensor in sorted(frozen + list(model.named_buffers())):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _stay_in_eval(module: nn.Module, mode: bool = True) -> nn.Module:
    # nn.Module.train(False) for this module and its children, of which BatchNorm layers of timm may have some (activations).
    return nn.Module.train(module, False)


def _top_blocks(model: Any, count: int) -> set[str]:
    """Names of the parameters in the topmost `count` blocks and above."""
    block_of: dict[str, int] = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    # Blocks are numbered from the stem, 0, to the head, which the matcher makes a block of its own.
    top = max(block_of.values())
    if count > top:
        raise PipelineError(
            f"unfreeze_finetune.unfrozen_blocks = {count}, but {type(model).__name__} has only {top} blocks below its head."
        )
    return {name for name, block in block_of.items() if block >= top - count}
