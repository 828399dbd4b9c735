"""The stored size that a backbone needs: what its evaluation transform shrinks photos to before the centre crop.

stored_size = choose_stored_size("auto", "resnet50", "pretrained")    # 256: 224 px are 87.5% of it
"""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.progress import say

HUB_PREFIX = "hf-hub:"
TORCHVISION_PREFIX = "torchvision/"
TORCHVISION_WEIGHTS = re.compile(r"\w+_Weights\.\w+")
DEFAULTS: dict[str, Any] = {"input_size": (3, 224, 224), "crop_pct": 0.875}  # timm's, for networks that say nothing
STEP, SMALLEST = 32, 64  # auto is a multiple of the one and not below the other, so that like backbones share stored photos


def choose_stored_size(setting: int | str, name: str, weights: str, *, locate: Callable[[str], Path] = Path) -> int:
    """The stored photos' shorter side in pixels; prints it, with a warning where it is less than the backbone needs.

    Args:
        setting: `preprocess.stored_size`: "auto", or a number that is taken as it is.
        name: `backbone.name`.
        weights: `backbone.weights`.
        locate: from the path of a weights file, as written in `weights`, to where it is.

    Raises:
        PipelineError: the name or the weights are not known, or their description cannot be read.
    """
    needed = needed_size(name, weights, locate(weights).with_suffix(".json"))
    if setting == "auto":
        size = max(SMALLEST, math.ceil(needed / STEP) * STEP)
        say(f"photos are stored at {size} px: {name} needs {needed} px")
        return size
    if int(setting) < needed:
        say(f"warning: preprocess.stored_size is {setting} px, but {name} needs {needed} px: photos will be enlarged")
    return int(setting)


def needed_size(name: str, weights: str, description: Path) -> int:
    """The shorter side, in pixels, that timm's evaluation transform shrinks photos to; `description` may lie beside weights."""
    try:
        found = _description(name, weights, description)
    except (ValueError, RuntimeError, KeyError, OSError) as error:
        raise PipelineError(f"The input size of backbone {name} with weights {weights} cannot be found: {error}") from None
    config = DEFAULTS | {key: found[key] for key in DEFAULTS if found.get(key)}
    return math.ceil(max(config["input_size"][1:]) / config["crop_pct"])


def _description(name: str, weights: str, beside: Path) -> dict[str, Any]:
    """`input_size` and `crop_pct`, as far as they are known; what belongs to the weights goes first."""
    import timm  # here, because it takes seconds
    from timm.models import load_model_config_from_hf
    from torchvision import models

    if beside.is_file() and (told := json.loads(beside.read_text(encoding="utf-8"))).get("input_size"):
        return told
    if weights.startswith(HUB_PREFIX):
        return load_model_config_from_hf(weights.removeprefix(HUB_PREFIX))[0]
    given = TORCHVISION_WEIGHTS.fullmatch(weights)
    if given or name.startswith(TORCHVISION_PREFIX):
        enum = models.get_weight(weights) if given else models.get_model_weights(name.removeprefix(TORCHVISION_PREFIX)).DEFAULT
        transform = enum.transforms()
        return {"input_size": (3, *transform.crop_size * 2), "crop_pct": transform.crop_size[0] / transform.resize_size[0]}
    if ":" in name:  # a network of the user's own
        return {}
    config = timm.get_pretrained_cfg(name)
    return vars(config) if config else {}
