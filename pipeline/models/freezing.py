"""Freezing and unfreezing, layer-wise learning rates and weight decay, by one notion of a network's blocks.

    set_trainable(model, 2)                 # the head and the two topmost blocks learn; BatchNorm stays in eval
    before = frozen_fingerprint(model)
    groups = parameter_groups(model, weight_decay=0.02, layer_decay=0.8)
    ...                                     # train
    assert frozen_fingerprint(model) == before

`requires_grad = False` alone leaves BatchNorm's running statistics moving with every batch in `model.train()`. On small batches
that is known to wreck this very task (98.1% to 50.6% in a published notebook), so the backbone's norm layers with running
statistics stay in eval mode here, frozen or not.
"""

import copy
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from itertools import accumulate
from types import MethodType
from typing import Any, Literal

import torch
from timm.models import group_parameters
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.errors import PipelineError
from pipeline.models.head import find_heads, is_within

BODY = 0.8  # the fraction of a network's parameters from which on a child is the network's body, whose children are the blocks


def set_trainable(model: nn.Module, unfrozen: Literal["all", "head"] | int | Sequence[str]) -> None:
    """Set which parameters learn, and keep the backbone's norm layers in eval mode through any later `model.train()`.

    Every call sets every parameter. Only a new head's own norm layers gather statistics. The keys of `state_dict()` stay.

    Args:
        unfrozen: "all": nothing is frozen; "head": all but the head is; a number: so many of the topmost blocks learn
            with the head, as `blocks_of` counts them; dotted names of modules or parameters: just these learn.

    A PipelineError says that more blocks are asked for than the network has, or a name is not in it.
    """
    learns = _learning(model, unfrozen)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in learns)
    live = _learning_statistics(model)
    for name, module in _with_running_statistics(model):
        if name in live:
            module.__dict__.pop("train", None)
        else:
            module.train = MethodType(_stay_in_eval, module)  # type: ignore[method-assign]
            module.eval()


def blocks_of(model: Any) -> list[list[str]]:
    """The names of a network's parameters, block by block from the stem up; the last list is the head's.

    A block is one of timm's coarse `group_matcher`; what that groups with the head (a last norm or convolution) is in the last
    list. In other networks a block is a child, or where that is a Sequential or holds most of the parameters, a child of that.
    """
    numbered: dict[str, int]
    if hasattr(model, "group_matcher"):
        try:
            matcher = model.group_matcher(coarse=True)
        except AssertionError:  # RDNet has the fine one alone
            matcher = model.group_matcher(coarse=False)
        numbered = group_parameters(model, matcher, reverse=True)
    else:
        numbered = _numbered_by_structure(model)
    # A matcher may give several classifiers several numbers, or numbers amid the blocks', so the head is set apart here.
    heads = find_heads(model)
    of_head = {name for name in numbered if is_within(name, heads)}
    last = max((number for name, number in numbered.items() if name not in of_head), default=0)
    last_is_head = any(numbered[name] == last for name in of_head)
    blocks: dict[int, list[str]] = {}
    for name, _ in model.named_parameters():
        top = name in of_head or (last_is_head and numbered[name] == last)
        blocks.setdefault(last + 1 if top else numbered[name], []).append(name)
    return [blocks[number] for number in sorted(blocks)]


def parameter_groups(model: Any, *, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer, with layer-wise learning-rate decay (Clark et al., ELECTRA, 2020; BEiT, 2021).

    Of what learns alone. Bound by `functools.partial` it is a `param_group_fn` of `timm.optim.create_optimizer_v2`.

    Args:
        weight_decay: of weights of two dimensions or more; biases, norms and what `model.no_weight_decay()` names have none.
        layer_decay: a group's "lr_scale" is this to the power of its block's distance from the head in `blocks_of`. Whoever
            sets the learning rate multiplies it, as timm's schedulers do.
    """
    parameters = dict(model.named_parameters())
    without_decay = model.no_weight_decay() if hasattr(model, "no_weight_decay") else set()

    def has_decay(name: str) -> bool:
        is_weight = parameters[name].ndim > 1 and not name.endswith("bias")
        return is_weight and not any(fnmatch(name, pattern) for pattern in without_decay)

    groups, blocks = [], blocks_of(model)
    for distance, block in zip(reversed(range(len(blocks))), blocks, strict=True):
        for decay, decays in ((weight_decay, True), (0.0, False)):
            chosen = [parameters[name] for name in block if parameters[name].requires_grad and has_decay(name) == decays]
            if chosen:
                groups.append({"params": chosen, "weight_decay": decay, "lr_scale": layer_decay**distance})
    return groups


def fractions_of_operations(model: nn.Module, input_size: tuple[int, int, int]) -> list[float]:
    """The fractions of a network's operations in its head, in that and its topmost block, and so on up to all of them.

    What stays frozen is computed once, so the operations of what learns are the cost of an epoch. A number of blocks says
    little: three blocks of MobileNetV2 hold half, two of MobileNetV1 two thirds. `input_size` is (channels, height, width).
    """
    counted_copy = copy.deepcopy(model).cpu().eval().requires_grad_(False)  # the counter follows gradients, and may stumble
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        # A real image, because a forward that looks at values cannot be counted by shapes alone.
        counted_copy(torch.zeros(1, *input_size))
    counted = {path.partition(".")[2]: sum(of_kinds.values()) for path, of_kinds in counter.get_flop_counts().items()}
    block_of = {name: block for block, names in enumerate(blocks_of(model)) for name in names}
    operations = [0] * (1 + max(block_of.values()))  # of each block: those of the modules that hold its parameters
    for path, module in model.named_modules():
        children = sum(counted.get(f"{path}.{child}".lstrip("."), 0) for child, _ in module.named_children())
        inside = [block_of[f"{path}.{name}".lstrip(".")] for name, _ in module.named_parameters()]
        if inside:
            operations[min(inside)] += counted.get(path, 0) - children
    return [above / sum(operations) for above in accumulate(reversed(operations))]


def frozen_fingerprint(model: nn.Module) -> str:
    """The SHA-256 of everything that must not move: parameters without gradient, and buffers, by name and bytes.

    Of the buffers those of `state_dict()`: others are caches that a network fills as it runs (ConViT's relative positions).
    Statistics that a learning head's own norm layers gather are left out.
    """
    live = _learning_statistics(model)
    learning = {name for name, parameter in model.named_parameters(remove_duplicate=False) if parameter.requires_grad}
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name not in learning and name.rpartition(".")[0] not in live:
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _learning(model: nn.Module, unfrozen: Literal["all", "head"] | int | Sequence[str]) -> set[str]:
    """Names of the parameters that learn."""
    names = [name for name, _ in model.named_parameters()]
    if unfrozen == "all":
        return set(names)
    if isinstance(unfrozen, int):
        *blocks, head = blocks_of(model)
        if not 0 <= unfrozen <= len(blocks):
            raise PipelineError(
                f"unfreeze_finetune.unfrozen_blocks = {unfrozen}, but {type(model).__name__} has only {len(blocks)} blocks "
                "below its head."
            )
        return {name for block in (*blocks[len(blocks) - unfrozen :], head) for name in block}
    paths = find_heads(model) if unfrozen == "head" else unfrozen
    unknown = [path for path in paths if not any(is_within(name, (path,)) for name in names)]
    if unknown:
        raise PipelineError(f"{type(model).__name__} has no parameters at {', '.join(map(repr, unknown))}.")
    return {name for name in names if is_within(name, paths)}


def _numbered_by_structure(model: nn.Module) -> dict[str, int]:
    """Parameter name -> its block's place, for networks without timm's matcher."""
    sizes: Counter[str] = Counter()  # weights that several modules share count in the first
    for name, parameter in model.named_parameters():
        for depth in range(name.count(".") + 1):
            sizes[".".join(name.split(".")[:depth])] += parameter.numel()
    places: dict[str, int] = {}
    return {name: places.setdefault(_block(model, name, sizes), len(places)) for name, _ in model.named_parameters()}


def _block(model: nn.Module, name: str, sizes: Counter[str]) -> str:
    """The dotted path of the block that a parameter belongs to."""
    module, path = model, ""
    for part in name.split(".")[:-1]:
        is_entry = isinstance(module, nn.Sequential | nn.ModuleList)
        module, path = module.get_submodule(part), f"{path}.{part}".lstrip(".")
        is_opened = isinstance(module, nn.Sequential | nn.ModuleList) or sizes[path] > BODY * sizes[""]
        if is_entry or not is_opened:
            break
    return path


def _with_running_statistics(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """BatchNorm of every kind, and whatever else gathers statistics of the batches that it sees."""
    for name, module in model.named_modules():
        if any(buffer.startswith("running_") for buffer, _ in module.named_buffers(recurse=False)):
            yield name, module


def _learning_statistics(model: nn.Module) -> set[str]:
    """The dotted names of a head's own norm layers that learn."""
    heads = find_heads(model)
    return {
        name
        for name, module in _with_running_statistics(model)
        if is_within(name, heads) and any(parameter.requires_grad for parameter in module.parameters())
    }


def _stay_in_eval(module: nn.Module, mode: bool = True) -> nn.Module:
    # nn.Module.train(False) for this module and its children, of which BatchNorm layers of timm may have some (activations).
    return nn.Module.train(module, False)
