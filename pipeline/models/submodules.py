"""Submodules and tensors by dotted path: look at them, add, replace and delete them.

    module_at(model, "layer4.0.conv2")
    replace_module(model, "layer4.0.act2", nn.SiLU())

These are thin names for torch's own idioms, which each docstring shows; what they add is a message that names the nearest path
where one is misspelt, and care that an existing module is never overwritten, or a new one put nowhere, by mistake.
"""

import difflib

from torch import Tensor, nn

from pipeline.errors import PipelineError


def module_at(model: nn.Module, path: str) -> nn.Module:
    """The submodule at a dotted path; "" is the model itself.

    In plain torch: `model.get_submodule("layer4.0")`, or `model.layer4[0]`.

    Raises:
        PipelineError: there is none; the nearest paths are named.

    >>> module_at(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), "1")
    ReLU()
    """
    modules = dict(model.named_modules())
    if path not in modules:
        raise PipelineError(_unknown(model, "module", path, list(modules)))
    return modules[path]


def tensor_at(model: nn.Module, path: str) -> Tensor:
    """The parameter or buffer at a dotted path: the tensor itself, not a copy.

    In plain torch: `model.get_parameter("fc.weight")`, `model.get_buffer("bn1.running_mean")`, or
    `dict(model.named_parameters())["fc.weight"]`. Here either kind is found by one function.

    Raises:
        PipelineError: there is none; the nearest paths are named.

    >>> tensor_at(nn.BatchNorm1d(2), "running_var")
    tensor([1., 1.])
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    if path not in tensors:
        raise PipelineError(_unknown(model, "parameter or buffer", path, list(tensors)))
    return tensors[path]


def add_module(model: nn.Module, path: str, module: nn.Module) -> None:
    """Add a submodule at a path that is free; its parent must exist.

    In plain torch: `model.layer4.add_module("extra", module)`, or `model.layer4.extra = module`, which overwrites whatever
    is there. In a `Sequential` it runs last; elsewhere the parent's `forward` must call it.

    Raises:
        PipelineError: the parent does not exist, or the path is taken.

    >>> model = nn.Sequential(nn.Linear(2, 2))
    >>> add_module(model, "act", nn.ReLU())
    >>> model
    Sequential(
      (0): Linear(in_features=2, out_features=2, bias=True)
      (act): ReLU()
    )
    """
    parent_path, _, name = path.rpartition(".")
    parent = module_at(model, parent_path)
    if not name or hasattr(parent, name):
        raise PipelineError(f"{type(model).__name__} has something at {path!r} already. Use replace_module, or another name.")
    parent.add_module(name, module)


def replace_module(model: nn.Module, path: str, module: nn.Module) -> nn.Module:
    """Put a module in the place of another, in its mode (training or eval), and return the old one.

    In plain torch: `model.set_submodule("layer4.0.act2", module)`, or `model.layer4[0].act2 = module`, either of which leaves
    the newcomer in training mode within a model in eval.

    Raises:
        PipelineError: there is no module to replace.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU()).eval()
    >>> replace_module(model, "1", nn.Dropout())
    ReLU()
    >>> model[1].training
    False
    """
    old = module_at(model, path)
    if not path:
        raise PipelineError("The path '' is the model itself: there is nothing to put another in its place within.")
    model.set_submodule(path, module.train(old.training), strict=True)
    return old


def delete_module(model: nn.Module, path: str) -> nn.Module:
    """Take a module out, and return it.

    In plain torch: `del model.layer4[1]`, which also renumbers what follows, or `model.fc = nn.Identity()`. From a
    `Sequential` or `ModuleList` the module goes, and those that follow move up; anywhere else an
    `Identity` takes its place, because the parent's `forward` calls it by name.

    Raises:
        PipelineError: there is no such module.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Dropout())
    >>> delete_module(model, "1")
    ReLU()
    >>> model
    Sequential(
      (0): Linear(in_features=2, out_features=2, bias=True)
      (1): Dropout(p=0.5, inplace=False)
    )
    """
    old = module_at(model, path)
    parent_path, _, name = path.rpartition(".")
    if not name:
        raise PipelineError("The path '' is the model itself: it cannot be taken out of itself.")
    parent = module_at(model, parent_path)
    if isinstance(parent, nn.Sequential | nn.ModuleList):
        del parent[list(parent._modules).index(name)]
    else:
        replace_module(model, path, nn.Identity())
    return old


def _unknown(model: nn.Module, kind: str, path: str, known: list[str]) -> str:
    near = difflib.get_close_matches(path, known, n=3, cutoff=0.4)
    nearest = f" The nearest are {', '.join(near)}." if near else ""
    return f"{type(model).__name__} has no {kind} at {path!r}.{nearest}"
