"""Backbones by timm's name, with weights from a file, from timm's hub, or random, and what they say of their input.

    backbone = create_backbone("mobilenetv2_100", weights="weights/mobilenetv2_100.safetensors")
    backbone.model, backbone.preprocessing.input_size

In plain torch: `model = timm.create_model(name, pretrained=True)`, or `model.load_state_dict(torch.load(file), strict=False)`.
What this adds: a file is never half loaded. Its classifier is left out, because the head is replaced anyway; everything else
must match by name and shape, and what does not is listed.
"""

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import timm
import torch
import torchvision
from safetensors.torch import save
from timm.data import resolve_data_config
from timm.models import load_model_config_from_hf
from torch import Tensor, nn

from pipeline.checkpoint import BackboneInfo, CheckpointInfo, Preprocessing
from pipeline.errors import PipelineError
from pipeline.files import sha256_of
from pipeline.models.head import find_heads, replace_head
from pipeline.models.loading import load_weights
from pipeline.progress import say

HUB_PREFIX = "hf-hub:"
TORCHVISION_WEIGHTS = re.compile(r"\w+_Weights\.\w+")
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


def create_backbone(name: str, weights: str, *, locate: Callable[[str], Path] = Path, unsafe: bool = False) -> Backbone:
    """Build a network of timm's and load its weights.

    In plain torch: `timm.create_model(name, pretrained=True)`, or a network without weights and `load_state_dict`. What this
    adds: one argument for all sources, a hash of the weights for the record, the preprocessing that belongs to just these
    weights, and one clear message where they cannot be had.

    Args:
        name: an architecture of `timm.list_models()`, perhaps with timm's tag of the weights: resnet50.a1_in1k.
        weights: one of
            "none": random, seeded by 0;
            "pretrained": timm's own, from its hub;
            "hf-hub:OWNER/NAME": a model of this architecture on the Hugging Face hub, in timm's format;
            "ResNet50_Weights.IMAGENET1K_V2": weights by torchvision's name, where their layers are named as timm's are;
            a path: a .safetensors, .pth, .pt, .tar or .bin file; a JSON of the same name beside it may hold model_kwargs,
            input_size, mean, std, interpolation, crop_pct, and the file's sha256, which is checked then.
        locate: from that path as it was written to where the file is.
        unsafe: unpickle the file whole; read what `pipeline.models.loading.read_weights` says of it first.

    Raises:
        PipelineError: the weights cannot be had, or do not fit the network.
    """
    if weights in ("none", "pretrained") or weights.startswith(HUB_PREFIX):
        model, kwargs = _from_hub(name, weights) if weights != "none" else (_random(name, {}), {})
        sha256 = None if weights == "none" else _state_hash(model.state_dict())
        return Backbone(model, BackboneInfo(name=name, kwargs=kwargs, weights=weights, weights_sha256=sha256), _told_by(model))
    if TORCHVISION_WEIGHTS.fullmatch(weights):
        return _from_torchvision(name, weights)
    file = locate(weights)
    description = _description_beside(file, name)
    kwargs = description.get("model_kwargs", {})
    model = _random(name, kwargs)
    load_weights(model, file, leave_out=find_heads(model), strict=True, unsafe=unsafe)
    info = BackboneInfo(name=name, kwargs=kwargs, weights=weights, weights_sha256=sha256_of(file))
    told = {key: description[key] for key in DATA_KEYS if key in description}
    return Backbone(model, info, _told_by(model, told))


def rebuild(info: CheckpointInfo, state: dict[str, Tensor]) -> nn.Module:
    """The network that a checkpoint describes, with its head and weights.

    In plain torch::

        model = timm.create_model("resnet18", num_classes=2)
        model.load_state_dict(torch.load("model.pt", weights_only=True))

    which one has to remember beside the file. What this adds: name, arguments and head are read from the checkpoint, hidden
    layers included, and a misfit is told in words.

    Args:
        info: what `pipeline.checkpoint.read_info` gave.
        state: what `pipeline.checkpoint.read_model_state` gave.

    Raises:
        PipelineError: the weights do not fit the network.
    """
    model = timm.create_model(info.backbone.name, pretrained=False, **info.backbone.kwargs)
    head = info.head
    replace_head(
        model,
        head.num_outputs,
        hidden=head.hidden,
        activation=head.activation,
        norm=head.norm,
        dropout=head.dropout,
        initialisation="zeros",
    )
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise PipelineError(f"The checkpoint's weights do not fit {info.backbone.name}: {error}") from None
    return model


def _random(name: str, kwargs: dict[str, Any]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model(name, pretrained=False, **kwargs)


def _from_hub(name: str, weights: str) -> tuple[nn.Module, dict[str, Any]]:
    """A network with weights of timm's choice or of an id on the hub, and the arguments that build it."""
    if weights == "pretrained":
        config = timm.get_pretrained_cfg(name)
        if config is None or not config.has_weights:
            raise PipelineError(f"timm has no pretrained weights for {name}. {OFFLINE_WAYS}")
        hub = f"{huggingface_hub.constants.ENDPOINT}/{config.hf_hub_id}"
        source = hub if config.hf_hub_id else str(config.url)  # in the order in which timm tries them
        with _fetching(name, source):
            return timm.create_model(name, pretrained=True), {}
    hub_id = weights.removeprefix(HUB_PREFIX)
    with _fetching(name, f"{huggingface_hub.constants.ENDPOINT}/{hub_id}"):
        config, architecture, kwargs = load_model_config_from_hf(hub_id)
        if architecture != name.split(".")[0]:
            raise PipelineError(
                f"{weights} holds weights of {architecture}, but backbone.name is {name}. Set backbone.name={architecture}, or "
                "other weights."
            )
        return timm.create_model(weights, pretrained=True), kwargs or {}


def _from_torchvision(name: str, weights: str) -> Backbone:
    try:
        enum = torchvision.models.get_weight(weights)
    except (ValueError, AttributeError, KeyError):
        raise PipelineError(
            f"backbone.weights = {weights}: torchvision has no weights of this name. Its names are such as "
            "ResNet50_Weights.IMAGENET1K_V2."
        ) from None
    with _fetching(name, enum.url):
        state = dict(enum.get_state_dict(progress=False, check_hash=True))
    model = _random(name, {})
    load_weights(model, state, leave_out=find_heads(model), strict=True)
    transform = enum.transforms()
    told = {
        "input_size": (len(transform.mean), *2 * transform.crop_size),
        "mean": tuple(transform.mean),
        "std": tuple(transform.std),
        "interpolation": transform.interpolation.value,
        "crop_pct": transform.crop_size[0] / transform.resize_size[0],
    }
    info = BackboneInfo(name=name, kwargs={}, weights=weights, weights_sha256=_state_hash(state))
    return Backbone(model, info, _told_by(model, told))


@contextmanager
def _fetching(name: str, source: str) -> Iterator[None]:
    """Say what is fetched, and turn a failure of the network into one message."""
    say(f"fetching the pretrained weights of {name}, unless they are here already: {source}")
    huggingface_hub.utils.logging.set_verbosity_error()  # its retries are told once, in the message below
    started = time.monotonic()
    try:
        yield
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
    if description.get("sha256", sha256 := sha256_of(file)) != sha256:
        raise PipelineError(
            f"{file} is not the file that {description_file.name} beside it describes: its sha256 is {sha256}, not "
            f"{description['sha256']}. It was damaged or exchanged; fetch or make it again."
        )
    return description


def _state_hash(state: dict[str, Tensor]) -> str:
    return hashlib.sha256(save({key: tensor.contiguous() for key, tensor in state.items()})).hexdigest()
