"""Load weights from any file, wholly or in part, with a report of what was loaded and what was not.

Names are compared before anything is copied, wrappers' prefixes are removed, published checkpoints are renamed by timm's own
filters (Swin, DINOv2, old DenseNets), a first convolution over grey photos is spread over three channels, and nothing is
unpickled unless `unsafe` asks for it.
"""

import argparse
import pickle
import re
from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path, PosixPath
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import timm
import torch
from safetensors.torch import load_file
from timm.models import adapt_input_conv
from torch import Tensor, nn

from pipeline.errors import PipelineError
from pipeline.models.head import is_within

# What wrappers put before a name: DataParallel, torch.compile, Lightning and modules around a backbone.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.", "ema_model.")
# Where a training checkpoint has its weights; an exponential moving average first, because it is what was meant to be used.
# DINO's teacher is one of its student.
CONTAINERS = ("ema_state_dict", "state_dict_ema", "model_ema", "ema", "teacher", "model_state_dict", "state_dict", "model")
# What training scripts store besides tensors: their arguments, paths, and numbers and arrays of NumPy's.
HARMLESS: list[Any] = [argparse.Namespace, PosixPath, np.ndarray, np.dtype]
HARMLESS += {type(np.dtype(kind)) for kind in "?bhilqBHILQefd"}
HARMLESS += [
    (getattr(np._core.multiarray, function), f"numpy.{core}.multiarray.{function}")  # type: ignore[attr-defined]
    for core in ("core", "_core")
    for function in ("scalar", "_reconstruct")
]
CONVERT = (
    """python -c "import pathlib, torch, pipeline.models.weights as weights; """
    """torch.save(weights.read_weights(pathlib.Path({file!r}), unsafe=True), {plain!r})\""""
)
SHOWN = 20  # names in a message
LEAST = 0.5  # the fraction of the wanted tensors that must fit: below, they are another network's


class LoadReport(NamedTuple):
    """What became of every tensor, by the model's names; `str` of it is a message."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]  # not in the file: they are as they were
    unexpected: tuple[str, ...]  # not in the model, by the file's names
    other_shape: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]  # name, shape in the file, shape in the model
    left_out: tuple[str, ...]  # not wanted by the caller, such as a head that is replaced anyway

    @property
    def complete(self) -> bool:
        """Whether all that was wanted was loaded, and the file holds nothing else."""
        return not self.lines()

    def lines(self) -> list[str]:
        """One line a tensor that was not loaded."""
        return sorted(
            [f"missing from the file: {name}" for name in self.missing]
            + [f"unknown to the network: {name}" for name in self.unexpected]
            + [f"of another shape: {name}: {file} in the file, {own} in the network" for name, file, own in self.other_shape]
        )

    def __str__(self) -> str:
        lines = self.lines()
        more = [f"  … and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
        return "\n".join([f"{len(self.loaded)} tensors loaded", *(f"  {line}" for line in lines[:SHOWN]), *more])


def load_weights(
    model: nn.Module,
    source: Path | Mapping[str, Tensor],
    *,
    leave_out: Sequence[str] = (),
    strict: bool = False,
    part: str | None = None,
    unsafe: bool = False,
) -> LoadReport:
    """Copy what fits from a file or a state dict into a model, in place.

    Args:
        model: on any device; a model on `meta` takes the file's tensors as its own.
        source: a file that `read_weights` reads, with its `part` and `unsafe`, or a state dict.
        leave_out: dotted names of modules that are not to be loaded, whatever the file holds for them.
        strict: whether anything missing, unexpected or of another shape is an error.

    A PipelineError says that the file cannot be read, or less than half of the wanted tensors fit; the model is untouched then.

    >>> model = nn.Linear(3, 2)
    >>> print(load_weights(model, {"module.weight": torch.ones(2, 3), "scale": torch.ones(1)}))
    1 tensors loaded
      missing from the file: bias
      unknown to the network: scale
    """
    state = read_weights(source, part=part, unsafe=unsafe) if isinstance(source, Path) else source
    what = str(source) if isinstance(source, Path) else "The state dict"
    own = model.state_dict()
    fitting, report = _compare(own, state, leave_out)
    if not report.complete:
        renamed = _compare(own, _renamed_by_timm(state, model), leave_out)
        fitting, report = min((fitting, report), renamed, key=lambda found: len(found[1].lines()))
    wanted = len(own) - len(report.left_out)
    if (strict and not report.complete) or len(report.loaded) < max(1, LEAST * wanted):
        differences = str(report).partition("\n")[2]
        reason = f"{len(report.loaded)} of {wanted} tensors match by name and shape; nothing was loaded.\n{differences}"
        raise PipelineError(f"{what} does not fit {type(model).__name__}: {reason}")
    model.load_state_dict(fitting, strict=False, assign=any(tensor.is_meta for tensor in own.values()))
    return report


def read_weights(file: Path, *, part: str | None = None, unsafe: bool = False) -> dict[str, Tensor]:
    """Read a state dict out of a file without unpickling code; in a training checkpoint it is found.

    Args:
        file: .safetensors, or what torch.save wrote: .pt, .pth, .pth.tar, .bin.
        part: the key of one model, where the file holds several.
        unsafe: unpickle whole, as a file made by `torch.save(model)` needs. A pickle is a program: loading it runs whatever
            its maker put in, with your rights. Only for files from people whom you would let sit at this machine.

    A PipelineError says that there is no such file; it is broken; it needs `unsafe`; it holds no weights, or several models.
    """
    content = _content(file, unsafe)
    if part is not None:
        names = [str(name) for name in content] if isinstance(content, Mapping) else []
        if part not in names:
            raise PipelineError(f"{file} holds no part {part!r}; it holds {', '.join(names) or 'one model alone'}.")
        content = content[part]
    return _state_within(content, file)


def _content(file: Path, unsafe: bool) -> Any:
    if not file.is_file():
        raise PipelineError(f"{file}: there is no such file.")
    try:
        with file.open("rb") as opened:  # safetensors begin with the length of a JSON header, and its brace
            is_safetensors = file.suffix == ".safetensors" or opened.read(9)[8:] == b"{"
        if is_safetensors:
            return load_file(file)
        with torch.serialization.safe_globals(HARMLESS):
            return torch.load(file, map_location="cpu", weights_only=not unsafe)
    except Exception as error:  # safetensors, zip and pickle readers each raise their own kinds for a broken file
        reason = [*str(error).rpartition("WeightsUnpickler error:")[2].strip().splitlines(), type(error).__name__][0]
        if not isinstance(error, pickle.UnpicklingError) or not re.search(r"GLOBAL|class|Can only|Can not", reason):
            raise PipelineError(f"{file} cannot be read as weights: {reason}") from error
        raise PipelineError(
            f"{file} cannot be read as weights: it holds more than tensors ({re.split(r'[. ]*( Please|$)', reason)[0]}). "
            "Unpickling it would run code from the file with your rights. Ask its maker for a state dict, "
            "torch.save(model.state_dict(), file), or for safetensors. If you trust its maker, take the weights out of it "
            "once, in this project's folder, and use the new file:\n  "
            + CONVERT.format(file=str(file), plain=str(file.with_suffix(".plain.pth")))
        ) from None


def _state_within(content: Any, file: Path) -> dict[str, Tensor]:
    """The state dict of a model, or of the one model in a training checkpoint."""
    if isinstance(content, nn.Module):
        return content.state_dict()
    if not isinstance(content, Mapping):
        raise PipelineError(f"{file} cannot be read as weights: it holds a {type(content).__name__}.")
    models = [name for name, value in content.items() if isinstance(value, nn.Module) or _is_state(value)]
    known = [name for name in CONTAINERS if name in models or isinstance(content.get(name), Mapping)]
    if len(models) > 1 and not known:
        raise PipelineError(f"{file} holds several models: {', '.join(models)}. Say which: part={models[0]!r}.")
    if known or models:
        return _state_within(content[(known or models)[0]], file)
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise PipelineError(f"{file} cannot be read as weights: no tensors in it.")
    return tensors


def _is_state(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(entry, Tensor) for entry in value.values())


def _renamed_by_timm(state: Mapping[str, Tensor], model: Any) -> Mapping[str, Tensor]:
    """By timm's filter for published checkpoints of this architecture; as they are where it has none."""
    filters: list[Any] = []
    architecture = getattr(model, "pretrained_cfg", {}).get("architecture", "")
    if timm.is_model(architecture):
        # timm hands a network's filter to this function only, which would load the weights.
        with patch("timm.models._builder.load_pretrained", lambda *_, filter_fn=None, **__: filters.append(filter_fn)):
            with torch.device("meta"):
                timm.create_model(architecture, pretrained=True)
    if not any(filters):
        return state
    arguments = ({_bare(name): tensor for name, tensor in state.items()}, model)
    try:
        return filters[0](*arguments[: len(signature(filters[0]).parameters)])  # some take the state alone
    except Exception:  # of any kind, for tensors of a network that the filter is not for
        return state


def _compare(
    own: Mapping[str, Tensor], given: Mapping[str, Tensor], leave_out: Sequence[str]
) -> tuple[dict[str, Tensor], LoadReport]:
    """The tensors that fit, by the model's names, and what became of all."""
    source = _sources(own, given)
    fitting, missing, other_shape, left_out = {}, [], [], []
    for name, tensor in own.items():
        if is_within(name, leave_out):
            left_out.append(name)
        elif name in source:
            found = _over_colours(given[source[name]], tensor)
            if found.shape == tensor.shape:
                fitting[name] = found
            else:
                other_shape.append((name, tuple(found.shape), tuple(tensor.shape)))
        elif not name.endswith("num_batches_tracked"):  # files from before torch 0.4.1 have none, and torch does without
            missing.append(name)
    wrapper, bare_left_out = _wrapper(source), [_bare(path) for path in leave_out]
    unused = given.keys() - source.values() - {"n_averaged"}  # torch's AveragedModel counts in it
    unexpected = [
        name for name in given if name in unused and name.startswith(wrapper) and not is_within(_bare(name), bare_left_out)
    ]
    return fitting, LoadReport(tuple(fitting), tuple(missing), tuple(unexpected), tuple(other_shape), tuple(left_out))


def _sources(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, str]:
    """The model's name -> the file's name: the same, or the same without wrappers' prefixes on either side."""
    own_of_bare = {_bare(name): name for name in own}
    source = {name: name for name in own if name in given}
    for name in given:
        target = own_of_bare.get(_bare(name))
        if target is None or name in source or source.get(target) == target:
            continue
        if target in source:
            raise PipelineError(
                f"Both {source[target]} and {name} would be loaded as {target}; nothing was loaded. Keep one in the file."
            )
        source[target] = name
    return source


def _over_colours(weight: Tensor, own: Tensor) -> Tensor:
    """A first convolution over grey photos for colour ones: a third of it for each channel. Others are as they are."""
    is_grey = own.ndim == 4 and own.shape[1] == 3 and weight.shape == (own.shape[0], 1, *own.shape[2:])
    return adapt_input_conv(3, weight, base_chans=1) if is_grey else weight


def _wrapper(source: Mapping[str, str]) -> str:
    """What stands before every name in the file where the network is a part of a larger module, such as Lightning's "model.".

    What lies beside it in the file (a loss, a projection head, the module that it is an average of) is not of the network.
    """
    wrappers = {name.removesuffix(_bare(own)) for own, name in source.items()}
    wrapper = wrappers.pop() if len(wrappers) == 1 else ""
    return wrapper if wrapper.replace("module.", "").replace("_orig_mod.", "") else ""  # those wrap all there is


def _bare(name: str) -> str:
    """A name without what wrappers put before it."""
    name = name.replace("_orig_mod.", "")  # torch.compile puts it before any submodule that it compiled
    while name.startswith(PREFIXES):
        name = name.partition(".")[2]
    return name
