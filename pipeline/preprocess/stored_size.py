"""The stored size that a backbone needs: what its evaluation transform shrinks photos to before the centre crop."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from pipeline.data import pretrained
from pipeline.errors import PipelineError
from pipeline.params import Backbone, OneBackbone
from pipeline.progress import say

DEFAULTS: dict[str, Any] = {"input_size": (3, 224, 224), "crop_pct": 0.875}  # timm's, for networks that say nothing
STEP, SMALLEST = 32, 64  # auto is a multiple of the one and not below the other, so that like backbones share stored photos


class _Description(BaseModel):
    """What a network or its weights say of their photos, as far as it matters here; None where they do not say it."""

    input_size: tuple[int, int, int] | None = None
    crop_pct: Annotated[float, Field(gt=0)] | None = None


def choose_stored_size(setting: int | str, backbone: Backbone, *, locate: Callable[[str], Path] = Path) -> int:
    """The stored photos' shorter side in pixels; prints it, with a warning where it is less than the backbone needs.

    `setting` is "auto", or a number that is taken as it is. `locate` finds a weights file by the path that params.yaml has. A
    PipelineError says that the name or the weights are not known, or their description cannot be read.
    """
    name = " + ".join(part.name for part in backbone.parts)
    needed = max(needed_size(part, locate(part.weights)) for part in backbone.parts)
    if setting == "auto":
        size = max(SMALLEST, math.ceil(needed / STEP) * STEP)
        say(f"photos are stored at {size} px: {name} needs {needed} px")
        return size
    if int(setting) < needed:
        say(f"warning: preprocess.stored_size is {setting} px, but {name} needs {needed} px: photos will be enlarged")
    return int(setting)


def needed_size(backbone: OneBackbone, weights_file: Path) -> int:
    """The shorter side, in pixels, that timm's evaluation transform shrinks photos to.

    As in training, what the weights say of each key goes before what the network says. `weights_file` need not exist.
    """
    name, weights = backbone.name, backbone.weights
    try:
        of_hub = weights.startswith(pretrained.HUB_PREFIX)  # where weights and network are one
        said = pretrained.hub_config(weights)[0] if of_hub else pretrained.network_config(name)
        told = _checked(f"{name}: its preprocessing", said)
        if enum := pretrained.torchvision_weights(name, weights):
            told |= _checked(weights, pretrained.torchvision_config(enum))
        elif weights_file.is_file() and (description := weights_file.with_suffix(".json")).is_file():
            told |= _checked(description, description.read_bytes())
    except PipelineError:
        raise
    except Exception as error:  # what builds a network of one's own may raise anything
        reason = f"{type(error).__name__}: {error}"
        raise PipelineError(f"The input size of backbone {name} with weights {weights} cannot be found: {reason}") from error
    config = pretrained.with_settings(DEFAULTS | told, backbone.crop, backbone.input_size)
    return math.ceil(max(config["input_size"][1:]) / config["crop_pct"])


def _checked(what: object, said: Any) -> dict[str, Any]:
    """`input_size` and `crop_pct`, as far as they are said; `said` is a dict, or bytes of JSON."""
    try:
        read = _Description.model_validate_json(said) if isinstance(said, bytes) else _Description.model_validate(said)
    except ValidationError as error:
        reasons = "; ".join(f"{'.'.join(map(str, one['loc']))} {one['msg']}".strip() for one in error.errors())
        form = "input_size is three numbers (channels, height, width), crop_pct one above 0"
        raise PipelineError(f"{what} cannot be used ({reasons}): {form}.") from None
    return read.model_dump(exclude_none=True)
