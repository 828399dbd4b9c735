"""Presets: three choices that are known to be worth their time, by name."""

import json
from typing import Any

from pipeline.errors import PipelineError
from pipeline.params import PARAMS_FILE, change_params, load_params
from pipeline.progress import say
from pipeline.reproduce import REPORTED, aligned, read_rows

WEIGHTS = "package"
KEYS = "backbone.name", "preprocess.max_train", "preprocess.max_val", "unfreeze_finetune.epochs"
# The value of each key; docs/log.md has what the presets were chosen by.
PRESETS: dict[str, tuple[str, int | None, int | None, int]] = {
    "fast": ("tf_efficientnet_lite2", 2000, 500, 0),
    "balanced": ("tf_efficientnet_lite2", 4000, None, 2),
    "accurate": ("tf_efficientnet_lite2", None, None, 2),
}


def settings_of(name: str) -> dict[str, Any]:
    """What a preset sets, by "section.key"; raises a PipelineError where there is none of this name."""
    if name not in PRESETS:
        raise PipelineError(f"There is no preset {name!r}; there are {', '.join(PRESETS)}.")
    return dict(zip(KEYS, PRESETS[name], strict=True)) | {"backbone.weights": WEIGHTS}


def show_presets() -> None:
    """Print each preset's settings, and accuracy and seconds of the reported results that were made with it."""
    rows, lines = (read_rows(REPORTED) if REPORTED.is_file() else []), [("preset", "settings", "measured")]
    for name in PRESETS:
        settings = settings_of(name)
        changed = {key: value for key, value in settings.items() if value is not None}
        differing = {key: changed[key] for key in KEYS[1:] if key in changed}
        made_with = settings["backbone.name"], WEIGHTS, differing
        measured = [
            f"{row.accuracy:.2%} in {sum(json.loads(row.seconds).values()):,.0f} s ({row.name})"
            for row in rows
            if row.accuracy is not None and (row.backbone, row.weights, row.settings) == made_with
        ]
        shown = ", ".join(f"{key.partition('.')[2]} {value}" for key, value in changed.items())
        lines.append((name, shown, "; ".join(measured) or "not measured yet"))
    print(f"{aligned(lines)}\n\nA preset is put into {PARAMS_FILE} by: python -m pipeline backbones --preset NAME\n")


def use_preset(name: str) -> None:
    """Write a preset's settings into params.yaml; all else there stays as it is, comments too."""
    settings = settings_of(name)
    load_params()
    change_params(PARAMS_FILE, settings)
    load_params()  # says what is not installed
    say(f"{PARAMS_FILE} has the preset {name} now: {', '.join(f'{key} = {value}' for key, value in settings.items())}")
