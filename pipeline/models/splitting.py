"""Split a network where it begins to learn, so that what is frozen is computed once, by the fastest backend.

    split = split_model(model, example)          # None where the network cannot be split in two
    activations = split.frozen(images)           # a function of the photo alone: computed once, cached
    logits = split.trainable(activations)        # the model's own modules, not copies
    both = share_frozen_part([frozen, finetuned], example)      # two networks that differ in their upper blocks, as one

With the lowest blocks frozen, everything that they compute is a constant of the photo: computed once, without autograd, by an
inference backend several times faster than eager torch.

The place is found in the network's graph (torch.fx): the frozen part is every value that depends on no learning parameter, and
the split is valid where a single tensor leads from there to the rest. Blocks are taken as wholes, so only the forward of the
network itself has to be traceable, which it is in nearly all of timm.
"""

import copy
import inspect
from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn

TOLERANCE = 1e-4  # largest difference between the split and the whole network, relative to the largest output


class SplitModel(NamedTuple):
    """`trainable(frozen(images))` is the network's output; both hold the network's own modules and parameters."""

    frozen: nn.Module  # (n, channels, height, width) -> activations (n, ...)
    trainable: nn.Module  # activations (n, ...) -> (n, outputs)


def split_model(model: nn.Module, example: Tensor) -> SplitModel | None:
    """Split a network below its lowest learning parameter.

    The model is in the mode in which both parts are going to run; `set_trainable` has decided what learns. On the example,
    (n, channels, height, width) on the model's device, the parts are compared with the whole. None where everything learns, the
    forward cannot be traced, or several tensors lead from what is frozen to what learns.
    """
    # What a forward takes besides the images, such as the attention mask of timm's transformers, gets its default.
    arguments = list(inspect.signature(model.forward).parameters.values())[1:]
    try:
        graph = _Tracer().trace(model, {one.name: one.default for one in arguments if one.default is not one.empty})
    except Exception:  # a forward that branches on values is refused by errors of any kind
        return None
    learning: set[fx.Node] = set()
    for node in graph.nodes:
        if _learns(node, model) or not learning.isdisjoint(node.all_input_nodes):
            learning.add(node)
    leading = {node for user in learning for node in user.all_input_nodes if node not in learning and node.op != "get_attr"}
    if len(leading) != 1 or (last_frozen := leading.pop()).op == "placeholder":
        return None
    frozen = {last_frozen}
    for node in reversed(graph.nodes):
        if node in frozen:
            frozen.update(node.all_input_nodes)
    frozen.update(node for node in graph.nodes if node.op == "placeholder")
    read_on_the_way = {node for node in graph.nodes if node.op == "get_attr" and not learning.isdisjoint(node.users)}
    split = SplitModel(
        _part(model, graph, frozen, end=last_frozen), _part(model, graph, learning | read_on_the_way, start=last_frozen)
    )
    # In training and in inference: a dropout that the forward itself calls is traced in the present mode alone.
    return split if all(_agrees(split, model, example, in_eval=in_eval) for in_eval in (False, True)) else None


def share_frozen_part(models: Sequence[nn.Module], example: Tensor) -> nn.Module | None:
    """Networks of one architecture as one network, which computes once what their frozen blocks have in common.

    The models are in eval mode and stay as they are. It gives all their outputs side by side, (n, outputs of all). None where
    they differ from the stem on, or cannot be split where they begin to differ.
    """
    first, *others = (model.state_dict() for model in models)
    differing = {name for name, tensor in first.items() if any(not torch.equal(tensor, other[name]) for other in others)}
    if differing & {name for name, _ in models[0].named_buffers()}:
        return None
    splits = []
    for model in map(copy.deepcopy, models):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in differing)
        if (split := split_model(model, example)) is None:
            return None
        splits.append(split)
    return _Shared(splits[0].frozen, [split.trainable for split in splits]).eval()


class _Shared(nn.Module):
    def __init__(self, frozen: nn.Module, trainable: Sequence[nn.Module]) -> None:
        super().__init__()
        self.frozen, self.trainable = frozen, nn.ModuleList(trainable)

    def forward(self, images: Tensor) -> Tensor:
        activations = self.frozen(images)
        return torch.cat([part(activations) for part in self.trainable], 1)


class _Tracer(fx.Tracer):
    """Traces through what is partly frozen; a module that is frozen as a whole, or learns as a whole, is one node."""

    def is_leaf_module(self, module: nn.Module, module_qualified_name: str) -> bool:
        return len({parameter.requires_grad for parameter in module.parameters()}) < 2


def _learns(node: fx.Node, model: nn.Module) -> bool:
    if node.op == "call_module":
        return any(parameter.requires_grad for parameter in model.get_submodule(str(node.target)).parameters())
    return node.op == "get_attr" and bool(getattr(attrgetter(str(node.target))(model), "requires_grad", False))


def _part(
    model: nn.Module, graph: fx.Graph, nodes: set[fx.Node], *, start: fx.Node | None = None, end: fx.Node | None = None
) -> nn.Module:
    """The nodes of a graph as a network, from the value `start` (or the images) to the value `end` (or the output)."""
    part, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    if start:
        copies[start] = part.placeholder("activations")
    for node in graph.nodes:
        if node in nodes:
            copies[node] = part.node_copy(node, copies.__getitem__)
    if end:
        part.output(copies[end])
    return fx.GraphModule(model, part)


def _agrees(split: SplitModel, model: nn.Module, example: Tensor, *, in_eval: bool) -> bool:
    """On copies, because a head's own norm layers would learn from the example, and with the same draws of dropout."""
    split, model = copy.deepcopy((split, model))
    if in_eval:
        for part in (model, split.frozen, split.trainable):
            part.eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        expected = model(example)
        torch.manual_seed(0)
        activations = split.frozen(example)
        if not isinstance(activations, Tensor) or not activations.is_floating_point():  # of several, or of an FFT
            return False
        difference = (split.trainable(activations) - expected).abs().max()
    return bool(difference <= TOLERANCE * expected.abs().max())
