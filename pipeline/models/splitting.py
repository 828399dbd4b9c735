"""SplitModel a network where it begins to learn, so that what is frozen below is computed by the fastest backend, and once.

    cut = split_model(model, example)     # None where the network cannot be cut in two
    kept = cut.lower(images)                     # frozen: a function of the photo alone
    logits = cut.upper(kept)                     # what learns: the model's own modules, not copies
    both = computed_together([frozen, tuned], example)      # two networks that differ in their upper blocks, as one

With the lowest blocks frozen, everything that they compute is a constant of the photo. Autograd needs none of it, an inference
backend computes it several times faster than eager torch, and what was computed once need not be computed again.

The cut is found in the network's graph (torch.fx): below it lies every value that depends on no learning parameter, and it is
valid where a single tensor crosses it. Blocks are taken as wholes, so only the forward of the network itself has to be
traceable, which is plain in nearly all of timm.
"""

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

TOLERANCE = 1e-4  # largest difference between the cut and the whole network, relative to the largest output


@dataclass(frozen=True)
class SplitModel:
    """`upper(lower(images))` is the network's output; both hold the network's own modules and parameters."""

    lower: nn.Module  # (n, channels, height, width) -> the tensor that crosses the cut, (n, ...)
    upper: nn.Module  # (n, ...) -> (n, outputs)


def split_model(model: nn.Module, example: Tensor) -> SplitModel | None:
    """SplitModel a network below its lowest learning parameter.

    In plain torch::

        lower, upper = nn.Sequential(*layers[:-2]), nn.Sequential(*layers[-2:])
        with torch.no_grad():
            kept = lower(images)

    which needs a network that is a plain list of layers. Here the cut is found in any graph, and shown to change nothing.

    Args:
        model: in the mode in which both parts are going to run; `set_trainable` has said what learns.
        example: (n, channels, height, width) on the model's device, on which the parts are held against the whole.

    Returns:
        The two parts, or None: everything learns, the forward cannot be traced, or more than one tensor would cross the cut.
    """
    tracer = _Tracer()
    try:
        graph = tracer.trace(model, _defaults(model))
    except Exception:  # a forward that branches on values is refused by errors of any kind
        return None
    above = _depending_on_learning(graph, model)
    crossing = {node for user in above for node in user.all_input_nodes if node not in above and node.op != "get_attr"}
    if len(crossing) != 1 or next(iter(crossing)).op == "placeholder":
        return None
    boundary = crossing.pop()
    cut = SplitModel(_lower(model, graph, boundary), _upper(model, graph, boundary, above))
    return cut if _is_whole(cut, model, example) else None


def computed_together(models: Sequence[nn.Module], example: Tensor) -> nn.Module | None:
    """Networks of one architecture as one network, which computes once what their lower blocks have in common.

    In plain torch: `[model(images) for model in models]`, which computes the common blocks for each.

    Args:
        models: in eval mode; they stay as they are.
        example: as for `split_model`.

    Returns:
        (n, channels, height, width) -> all their outputs side by side, (n, outputs of all), or None: they differ from the
        bottom, or a single tensor does not part what they share from what they do not.
    """
    first, *others = (dict(model.named_parameters()) for model in models)
    buffers = [dict(model.named_buffers()) for model in models]
    if any(not torch.equal(tensor, other[name]) for other in buffers[1:] for name, tensor in buffers[0].items()):
        return None
    differing = {name for name, tensor in first.items() if any(not torch.equal(tensor, other[name]) for other in others)}
    cuts = []
    for model in map(copy.deepcopy, models):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in differing)
        cuts.append(split_model(model, example))
    whole = [cut for cut in cuts if cut is not None]
    return _Together(whole[0].lower, [cut.upper for cut in whole]).eval() if len(whole) == len(cuts) else None


class _Together(nn.Module):
    lower: Any

    def __init__(self, lower: nn.Module, uppers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.lower, self.uppers = lower, nn.ModuleList(uppers)

    def forward(self, images: Tensor) -> Tensor:
        kept = self.lower(images)
        return torch.cat([upper(kept) for upper in self.uppers], 1)


def _defaults(model: nn.Module) -> dict[str, Any]:
    """Of all that a forward takes besides the images, such as the attention mask of timm's transformers."""
    parameters = list(inspect.signature(model.forward).parameters.values())[1:]
    return {parameter.name: parameter.default for parameter in parameters if parameter.default is not parameter.empty}


class _Tracer(fx.Tracer):
    """Traces through what is partly frozen; a module that is frozen as a whole, or learns as a whole, is one node."""

    def is_leaf_module(self, module: nn.Module, module_qualified_name: str) -> bool:
        learns = {parameter.requires_grad for parameter in module.parameters()}
        return len(learns) < 2


def _depending_on_learning(graph: fx.Graph, model: nn.Module) -> set[fx.Node]:
    above: set[fx.Node] = set()
    for node in graph.nodes:
        if any(source in above for source in node.all_input_nodes) or _learns(node, model):
            above.add(node)
    return above


def _learns(node: fx.Node, model: nn.Module) -> bool:
    match node.op:
        case "call_module":
            return any(parameter.requires_grad for parameter in model.get_submodule(str(node.target)).parameters())
        case "get_attr":
            path, _, name = str(node.target).rpartition(".")
            return bool(getattr(getattr(model.get_submodule(path), name), "requires_grad", False))
    return False


def _lower(model: nn.Module, graph: fx.Graph, boundary: fx.Node) -> nn.Module:
    """From the input to the boundary: all that the boundary depends on."""
    needed = {boundary}
    for node in reversed(graph.nodes):
        if node in needed:
            needed.update(node.all_input_nodes)
    part, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in graph.nodes:
        if node in needed or node.op == "placeholder":
            copies[node] = part.node_copy(node, copies.__getitem__)
    part.output(copies[boundary])
    return fx.GraphModule(model, part)


def _upper(model: nn.Module, graph: fx.Graph, boundary: fx.Node, above: set[fx.Node]) -> nn.Module:
    """From the boundary to the output, with the frozen tensors that are read on the way."""
    part, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    copies[boundary] = part.placeholder("kept")
    for node in graph.nodes:
        if node in above or (not above.isdisjoint(node.users) and node.op == "get_attr"):
            copies[node] = part.node_copy(node, copies.__getitem__)
    return fx.GraphModule(model, part)


def _is_whole(cut: SplitModel, model: nn.Module, example: Tensor) -> bool:
    """On copies, because a head's own norm layers would learn from the example, and with the same draws of dropout."""
    cut, model = copy.deepcopy((cut, model))
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        expected = model(example)
        torch.manual_seed(0)
        difference = (cut.upper(cut.lower(example)) - expected).abs().max()
    return bool(difference <= TOLERANCE * expected.abs().max())
