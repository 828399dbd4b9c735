"""Backbones by timm's name, with weights from a file, from timm's hub, or random, and what they say of their input.

    backbone = create_backbone("mobilenetv2_100", weights="weights/mobilenetv2_100.safetensors")
    backbone.model, backbone.preprocessing.input_size

In plain torch: `model = timm.create_model(name, pretrained=True)`, or `model.load_state_dict(torch.load(file), strict=False)`.
What this adds: a file is never half loaded. Its classifier is left out, because the head is replaced anyway; everything else
must match by name and shape, and what does not is listed.
"""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import timm
import torch
from safetensors.torch import save
from timm.data import create_transform, resolve_data_config
from timm.models import load_state_dict
from torch import Tensor, nn

from pipeline.checkpoint import BackboneInfo, CheckpointInfo, Preprocessing
from pipeline.errors import PipelineError
from pipeline.files import sha256_of
from pipeline.models.head import find_head, replace_head
from pipeline.progress import say

DATA_KEYS = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
OFFLINE_WAYS = (
    "Without a network: set backbone.weights to a local weights file (.safetensors, .pth) of this network, or to none for "
    "random weights, or fetch the weights on another machine and copy its Hugging Face cache here."
)


@dataclass(frozen=True)
class Backbone:
    """A network with its pretrained weights, its own classifier still in place."""

    model: nn.Module
    info: BackboneInfo
    preprocessing: Preprocessing


def create_backbone(name: str, weights: str, *, locate: Callable[[str], Path] = Path) -> Backbone:
    """Build a network of timm's and load its weights.

    Args:
        name: an architecture of `timm.list_models()`.
        weights: "pretrained" (timm's hub), "none" (random, seeded by 0), or the path of a .safetensors, .pth, .pt or .bin
            file; a JSON of the same name beside it may hold model_kwargs, input_size, mean, std, interpolation, crop_pct.
        locate: from that path as it was written to where the file is.

    Raises:
        PipelineError: the weights cannot be had, or do not fit the network.
    """
    if weights in ("none", "pretrained"):
        model = _random(name, {}) if weights == "none" else _from_hub(name)
        sha256 = None if weights == "none" else _state_hash(model.state_dict())
        return Backbone(model, BackboneInfo(name=name, kwargs={}, weights=weights, weights_sha256=sha256), _told_by(model))
    file = locate(weights)
    description = _description_beside(file, name)
    kwargs = description.get("model_kwargs", {})
    model = _random(name, kwargs)
    _load_file(model, file, name)
    info = BackboneInfo(name=name, kwargs=kwargs, weights=weights, weights_sha256=sha256_of(file))
    told = {key: description[key] for key in DATA_KEYS if key in description}
    return Backbone(model, info, _told_by(model, told))


def rebuild(info: CheckpointInfo, state: dict[str, Tensor]) -> nn.Module:
    """The network that a checkpoint describes, with its head and weights."""
    model = timm.create_model(info.backbone.name, pretrained=False, **info.backbone.kwargs)
    replace_head(model, info.head.num_outputs, initialisation="zeros")
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise PipelineError(f"The checkpoint's weights do not fit {info.backbone.name}: {error}") from None
    return model


def evaluation_transform(preprocessing: Preprocessing) -> Any:
    """timm's own evaluation transform: PIL image -> float tensor (channels, height, width), normalised."""
    return create_transform(**preprocessing.model_dump(), is_training=False)


def _random(name: str, kwargs: dict[str, Any]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model(name, pretrained=False, **kwargs)


def _from_hub(name: str) -> nn.Module:
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise PipelineError(f"timm has no pretrained weights for {name}. {OFFLINE_WAYS}")
    source = config.url or f"{huggingface_hub.constants.ENDPOINT}/{config.hf_hub_id}"
    say(f"fetching the pretrained weights of {name}, unless they are here already: {source}")
    huggingface_hub.utils.logging.set_verbosity_error()  # its retries are told once, in the message below
    started = time.monotonic()
    try:
        return timm.create_model(name, pretrained=True)
    except OSError as error:  # what huggingface_hub and urllib raise when a host cannot be reached are all of this kind
        seconds = time.monotonic() - started
        raise PipelineError(f"{source} could not be reached; tried for {seconds:.0f} s: {error}\n{OFFLINE_WAYS}") from None


def _told_by(model: nn.Module, told: dict[str, Any] | None = None) -> Preprocessing:
    """What the network's own configuration says of its input; `told` goes first."""
    config = resolve_data_config(told or {}, model=model)
    return Preprocessing(**{key: config[key] for key in DATA_KEYS})


def _description_beside(file: Path, name: str) -> dict[str, Any]:
    if not file.is_file():
        raise PipelineError(
            f"backbone.weights = {file}: there is no such file. Give the path of a weights file, pretrained or none."
        )
    description_file = file.with_suffix(".json")
    if not description_file.is_file():
        return {}
    try:
        description = json.loads(description_file.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise PipelineError(f"{description_file}, which describes the weights beside it, is not valid JSON: {error}") from None
    architecture = description.get("architecture", name)
    if architecture != name:
        raise PipelineError(
            f"{file} holds weights of {architecture}, but backbone.name is {name}. Set backbone.name={architecture}, or "
            "other weights."
        )
    return description


def _load_file(model: nn.Module, file: Path, name: str) -> None:
    try:
        state = load_state_dict(str(file), device="cpu", weights_only=True)
    except Exception as error:  # safetensors, zip and pickle readers each raise their own kinds for a broken file
        raise PipelineError(f"{file} cannot be read as weights: {error}") from error
    head = f"{find_head(model)}."
    own = {key: tensor for key, tensor in model.state_dict().items() if not key.startswith(head)}
    given = {key: tensor for key, tensor in state.items() if not key.startswith(head)}
    lines = [f"  missing from the file: {key}" for key in own.keys() - given.keys()]
    lines += [f"  unknown to the network: {key}" for key in given.keys() - own.keys()]
    lines += [
        f"  of another shape: {key}: {tuple(given[key].shape)} in the file, {tuple(own[key].shape)} in the network"
        for key in own.keys() & given.keys()
        if own[key].shape != given[key].shape
    ]
    if lines:
        shown = sorted(lines)[:20] + ([f"  … and {len(lines) - 20} more"] if len(lines) > 20 else [])
        raise PipelineError("\n".join([f"{file} does not fit {name}; nothing was loaded:", *shown]))
    model.load_state_dict(given, strict=False)


def _state_hash(state: dict[str, Tensor]) -> str:
    return hashlib.sha256(save({key: tensor.contiguous() for key, tensor in state.items()})).hexdigest()
