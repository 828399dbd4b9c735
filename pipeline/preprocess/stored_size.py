"""The stored size that a backbone needs: what its evaluation transform shrinks photos to before the centre crop."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.data import pretrained
from pipeline.data.pretrained import TORCHVISION_PREFIX, TORCHVISION_WEIGHTS
from pipeline.errors import PipelineError
from pipeline.params import Backbone, OneBackbone
from pipeline.progress import say

DEFAULTS: dict[str, Any] = {"input_size": (3, 224, 224), "crop_pct": 0.875}  # timm's, for networks that say nothing
STEP, SMALLEST = 32, 64  # auto is a multiple of the one and not below the other, so that like backbones share stored photos


def choose_stored_size(setting: int | str, backbone: Backbone, *, locate: Callable[[str], Path] = Path) -> int:
    """The stored photos' shorter side in pixels; prints it, with a warning where it is less than the backbone needs.

    `setting` is "auto", or a number that is taken as it is. `locate` finds a weights file by the path that params.yaml has.

    Raises:
        PipelineError: the name or the weights are not known, or their description cannot be read.
    """
    name = " + ".join(part.name for part in backbone.parts)
    needed = max(needed_size(part, locate(part.weights).with_suffix(".json")) for part in backbone.parts)
    if setting == "auto":
        size = max(SMALLEST, math.ceil(needed / STEP) * STEP)
        say(f"photos are stored at {size} px: {name} needs {needed} px")
        return size
    if int(setting) < needed:
        say(f"warning: preprocess.stored_size is {setting} px, but {name} needs {needed} px: photos will be enlarged")
    return int(setting)


def needed_size(backbone: OneBackbone, description: Path) -> int:
    """The shorter side, in pixels, that timm's evaluation transform shrinks photos to; `description` may lie beside weights."""
    name, weights = backbone.name, backbone.weights
    try:
        found = _description(name, weights, description)
    except (ValueError, RuntimeError, KeyError, OSError) as error:
        raise PipelineError(f"The input size of backbone {name} with weights {weights} cannot be found: {error}") from None
    known = {key: found[key] for key in DEFAULTS if found.get(key)}
    config = pretrained.with_settings(DEFAULTS | known, backbone.crop, backbone.input_size)
    return math.ceil(max(config["input_size"][1:]) / config["crop_pct"])


def _description(name: str, weights: str, beside: Path) -> dict[str, Any]:
    """`input_size` and `crop_pct`, as far as they are known; what belongs to the weights goes first."""
    import timm  # here, because it takes seconds
    from torchvision import models

    if beside.is_file() and (told := json.loads(beside.read_text(encoding="utf-8"))).get("input_size"):
        return told
    if weights.startswith(pretrained.HUB_PREFIX):
        return pretrained.hub_config(weights)[0]
    given = TORCHVISION_WEIGHTS.fullmatch(weights)
    if given or name.startswith(TORCHVISION_PREFIX):
        enum = models.get_weight(weights) if given else models.get_model_weights(name.removeprefix(TORCHVISION_PREFIX)).DEFAULT
        return pretrained.torchvision_config(enum)
    if ":" in name:  # a network of the user's own
        return getattr(pretrained.own_module(name), "preprocessing", {})
    config = timm.get_pretrained_cfg(name)
    return vars(config) if config else {}
