"""Load weights from any file, wholly or in part, with a report of what was loaded and what was not.

    report = load_weights(model, Path("somewhere.pth"), leave_out=find_heads(model))
    report.missing, report.unexpected, report.other_shape

Names are compared before anything is copied, wrappers' prefixes are removed, published checkpoints are renamed by timm's own
filters (Swin, DINOv2, old DenseNets), and nothing is unpickled unless `unsafe` asks for it.
"""

import argparse
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import timm
import torch
from rich.table import Table
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.errors import PipelineError
from pipeline.models.head import is_within

# What wrappers put before a name: DataParallel, torch.compile, Lightning and modules around a backbone.
PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "ema_model.")
# Where a training checkpoint has its weights; an exponential moving average first, because it is what was meant to be used.
CONTAINERS = ("ema_state_dict", "state_dict_ema", "model_ema", "ema", "model_state_dict", "state_dict", "model")
# What training scripts store besides tensors: their arguments, and numbers of NumPy's.
HARMLESS: list[Any] = [argparse.Namespace, np.dtype, *{type(np.dtype(kind)) for kind in "?bhilqBHILQefd"}]
HARMLESS += [(np._core.multiarray.scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]  # type: ignore[attr-defined]
SHOWN = 20  # names in a message


@dataclass(frozen=True)
class LoadReport:
    """What became of every tensor, by the model's names; `str` of it is a message, `table()` the same for a terminal."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]  # not in the file: they are as they were
    unexpected: tuple[str, ...]  # not in the model, by the file's names
    other_shape: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]  # name, shape in the file, shape in the model
    left_out: tuple[str, ...]  # not wanted by the caller, such as a head that is replaced anyway

    @property
    def complete(self) -> bool:
        """Whether all that was wanted was loaded, and the file holds nothing else."""
        return not (self.missing or self.unexpected or self.other_shape)

    def lines(self) -> list[str]:
        """One line a tensor that was not loaded."""
        lines = [f"missing from the file: {name}" for name in self.missing]
        lines += [f"unknown to the network: {name}" for name in self.unexpected]
        lines += [f"of another shape: {name}: {file} in the file, {own} in the network" for name, file, own in self.other_shape]
        return sorted(lines)

    def table(self) -> Table:
        """Columns: what became of them, how many tensors, and the first names."""
        table = Table("tensors", "number", "such as")
        rows = {
            "loaded": self.loaded,
            "missing from the file": self.missing,
            "unknown to the network": self.unexpected,
            "of another shape": [f"{name} {file} for {own}" for name, file, own in self.other_shape],
            "left out": self.left_out,
        }
        for what, names in rows.items():
            table.add_row(what, str(len(names)), ", ".join(names[:3]) + (", …" if len(names) > 3 else ""))
        return table

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
    at_least: float = 0.5,
    part: str | None = None,
    unsafe: bool = False,
) -> LoadReport:
    """Copy what fits from a file or a state dict into a model, in place.

    Args:
        model: on any device; a model on `meta` takes the file's tensors as its own.
        source: a file that `read_weights` reads, or a state dict.
        leave_out: dotted names of modules that are not to be loaded, whatever the file holds for them.
        strict: whether anything missing, unexpected or of another shape is an error.
        at_least: the least fraction of the wanted tensors that must fit.
        part, unsafe: as of `read_weights`.

    Raises:
        PipelineError: the file cannot be read or does not fit; the model is untouched then.

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
    if not report.complete and (convert := _timm_filter(model)):
        converted = _converted(convert, state, model, what)
        fitting, report = min((fitting, report), _compare(own, converted, leave_out), key=lambda found: len(found[1].lines()))
    wanted = len(own) - len(report.left_out)
    differences = "\n".join(str(report).splitlines()[1:])
    if strict and not report.complete:
        raise PipelineError(f"{what} does not fit {type(model).__name__}; nothing was loaded:\n{differences}")
    if len(report.loaded) < max(1, at_least * wanted):
        raise PipelineError(
            f"{what} does not fit {type(model).__name__}: {len(report.loaded)} of {wanted} tensors match by name and shape; "
            f"nothing was loaded. It looks like weights of another network:\n{differences}"
        )
    model.load_state_dict(fitting, strict=False, assign=any(tensor.is_meta for tensor in own.values()))
    return report


def read_weights(
    file: Path, *, device: str | torch.device = "cpu", part: str | None = None, unsafe: bool = False
) -> dict[str, Tensor]:
    """Read a state dict out of a file without unpickling code; in a training checkpoint it is found.

    Args:
        file: .safetensors, or what torch.save wrote: .pt, .pth, .pth.tar, .bin.
        device: where the tensors shall be: "cpu", "cuda:1" ..., or "meta" for names, shapes and dtypes alone.
        part: the key of one model, where the file holds several.
        unsafe: unpickle whole, as a file made by `torch.save(model)` needs. A pickle is a program: loading it runs whatever
            its maker put in, with your rights. Only for files from people whom you would let sit at this machine.

    Raises:
        PipelineError: there is no such file; it is broken; it needs `unsafe`; it holds no weights, or several models.
    """
    content = _content(file, torch.device(device), unsafe)
    if part is not None:
        names = [str(name) for name in content] if isinstance(content, Mapping) else []
        if part not in names:
            raise PipelineError(f"{file} holds no part {part!r}; it holds {', '.join(names) or 'one model alone'}.")
        content = content[part]
    return _state_within(content, file)


def _content(file: Path, device: torch.device, unsafe: bool) -> Any:
    if not file.is_file():
        raise PipelineError(f"{file}: there is no such file.")
    try:
        if _is_safetensors(file):
            # safetensors knows no meta device; the file is mapped, not read, until a tensor is touched.
            loaded = load_file(file, device="cpu" if device.type == "meta" else str(device))
            return {name: tensor.to(device) for name, tensor in loaded.items()}
        with torch.serialization.safe_globals(HARMLESS):
            return torch.load(file, map_location=device, weights_only=not unsafe)
    except Exception as error:  # safetensors, zip and pickle readers each raise their own kinds for a broken file
        reason = [*str(error).rpartition("WeightsUnpickler error:")[2].strip().splitlines(), type(error).__name__][0]
        if not isinstance(error, pickle.UnpicklingError) or not re.search(r"GLOBAL|class|Can only|Can not", reason):
            raise PipelineError(f"{file} cannot be read as weights: {reason}") from error
        raise PipelineError(
            f"{file} cannot be read as weights: it holds more than tensors ({reason.rstrip('. ')}). Unpickling it would run "
            "code from the file with your rights. If you trust its maker, say so: --unsafe on the command line, unsafe=True "
            "in Python. Better, ask for a state dict: torch.save(model.state_dict(), file), or safetensors."
        ) from None


def _is_safetensors(file: Path) -> bool:
    """By the first bytes: the length of a JSON header, and its brace; torch writes a zip or a pickle."""
    with file.open("rb") as opened:
        return file.suffix == ".safetensors" or opened.read(9)[8:] == b"{"


def _state_within(content: Any, file: Path) -> dict[str, Tensor]:
    if isinstance(content, nn.Module):
        return content.state_dict()
    if not isinstance(content, Mapping):
        raise PipelineError(f"{file} cannot be read as weights: it holds a {type(content).__name__}.")
    for name in CONTAINERS:
        if isinstance(content.get(name), Mapping | nn.Module):
            return _state_within(content[name], file)
    models = [str(name) for name, value in content.items() if isinstance(value, nn.Module) or _is_state(value)]
    if len(models) > 1:
        raise PipelineError(f"{file} holds several models: {', '.join(models)}. Say which: part={models[0]!r}.")
    if models:
        return _state_within(content[models[0]], file)
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise PipelineError(f"{file} cannot be read as weights: no tensors in it.")
    return tensors


def _is_state(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(entry, Tensor) for entry in value.values())


def _timm_filter(model: Any) -> Callable[[dict[str, Tensor], nn.Module], dict[str, Tensor]] | None:
    """The filter by which timm renames the tensors of published checkpoints of this architecture; None where it has none."""
    architecture = getattr(model, "pretrained_cfg", {}).get("architecture", "")
    filters = []
    if timm.is_model(architecture):
        # timm hands a network's filter to this function only, which would load the weights.
        with patch("timm.models._builder.load_pretrained", lambda *_, filter_fn=None, **__: filters.append(filter_fn)):
            with torch.device("meta"):
                timm.create_model(architecture, pretrained=True)
    return filters[0] if filters else None


def _converted(convert: Callable[..., Any], state: Mapping[str, Tensor], model: nn.Module, what: str) -> dict[str, Tensor]:
    try:
        return convert({_bare(name): tensor for name, tensor in state.items()}, model)
    except Exception:  # of any kind, for tensors of a network that the filter is not for: they are compared as they are
        return dict(state)


def _compare(
    own: Mapping[str, Tensor], given: Mapping[str, Tensor], leave_out: Sequence[str]
) -> tuple[dict[str, Tensor], LoadReport]:
    """The tensors that fit, by the model's names, and what became of all."""
    source = _sources(own, given)
    wanted = [name for name in own if not is_within(name, leave_out)]
    matched = [name for name in wanted if name in source]
    fitting = {name: given[source[name]] for name in matched if own[name].shape == given[source[name]].shape}
    bare_left_out = [_bare(path) for path in leave_out]
    unused = given.keys() - source.values() - {"n_averaged"}  # AveragedModel's own count
    report = LoadReport(
        loaded=tuple(fitting),
        # Files from before torch 0.4.1 have no count of batches, and torch itself does without it.
        missing=tuple(name for name in wanted if name not in source and not name.endswith("num_batches_tracked")),
        unexpected=tuple(name for name in given if name in unused and not is_within(_bare(name), bare_left_out)),
        other_shape=tuple(
            (name, tuple(given[source[name]].shape), tuple(own[name].shape)) for name in matched if name not in fitting
        ),
        left_out=tuple(name for name in own if is_within(name, leave_out)),
    )
    return fitting, report


def _sources(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, str]:
    """The model's name -> the file's name: the same, or the same without wrappers' prefixes on either side."""
    source = {name: name for name in own if name in given}
    by_bare_name: dict[str, str] = {}
    for name in own:
        by_bare_name.setdefault(_bare(name), name)
    for name in given:
        target = by_bare_name.get(_bare(name))
        if name in source or target is None:
            continue
        if source.get(target, target) != target:
            raise PipelineError(
                f"Both {source[target]} and {name} would be loaded as {target}; nothing was loaded. Keep one in the file."
            )
        source.setdefault(target, name)
    return source


def _bare(name: str) -> str:
    """A name without what wrappers put before it."""
    name = name.replace("_orig_mod.", "")  # torch.compile puts it before any submodule that it compiled
    while name.startswith(PREFIXES):
        name = name.partition(".")[2]
    return name
