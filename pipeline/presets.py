"""Presets: three choices that are known to be worth their time, by name."""

import json
from typing import Any

from pipeline.errors import PipelineError
from pipeline.params import PARAMS_FILE, change_params, load_params
from pipeline.progress import say
from pipeline.reproduce import REPORTED, aligned, read_rows

WEIGHTS, LITE0, LITE2 = "package", "tf_efficientnet_lite0", "tf_efficientnet_lite2"
# Backbone and unfreeze_finetune.epochs. Of 3,448 photos for validation each has a lower log-loss than the one before it: 0.040,
# 0.024 and 0.019 (docs/log.md). Of lite2, 2 epochs were measured, and 4 were not.
PRESETS: dict[str, tuple[str, int]] = {"fast": (LITE0, 0), "balanced": (LITE2, 0), "accurate": (LITE2, 2)}


def settings_of(name: str) -> dict[str, Any]:
    """What a preset sets, by "section.key"; raises a PipelineError where there is none of this name."""
    if name not in PRESETS:
        raise PipelineError(f"There is no preset {name!r}; there are {', '.join(PRESETS)}.")
    backbone, epochs = PRESETS[name]
    return {"backbone.name": backbone, "backbone.weights": WEIGHTS, "unfreeze_finetune.epochs": epochs}


def show_presets() -> None:
    """Print each preset's settings, and accuracy and seconds of the reported results that were made with it."""
    rows, lines = (read_rows(REPORTED) if REPORTED.is_file() else []), [("preset", "settings", "measured")]
    for name, (backbone, epochs) in PRESETS.items():
        made_with = backbone, WEIGHTS, {"unfreeze_finetune.epochs": epochs}
        measured = [
            f"{row.accuracy:.2%} in {sum(json.loads(row.seconds).values()):,.0f} s ({row.name})"
            for row in rows
            if row.accuracy is not None and (row.backbone, row.weights, row.settings) == made_with
        ]
        settings = ", ".join(f"{key.partition('.')[2]} {value}" for key, value in settings_of(name).items())
        lines.append((name, settings, "; ".join(measured) or "not measured yet"))
    print(f"{aligned(lines)}\n\nA preset is put into {PARAMS_FILE} by: python -m pipeline backbones --preset NAME\n")


def use_preset(name: str) -> None:
    """Write a preset's settings into params.yaml; all else there stays as it is, comments too."""
    settings = settings_of(name)
    load_params()
    change_params(PARAMS_FILE, settings)
    load_params()  # says what is not installed
    say(f"{PARAMS_FILE} has the preset {name} now: {', '.join(f'{key} = {value}' for key, value in settings.items())}")
