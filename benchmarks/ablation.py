"""Ablation of the training recipe: params.yaml with one setting changed, over seeds, ranked by validation log-loss.

    uv run python benchmarks/ablation.py                                  # after `dvc repro preprocess`
    uv run python benchmarks/ablation.py --seeds 1 --set unfreeze_finetune.ema_fraction=0 --set head.type=mlp

Each run is the stages train-frozen-backbone, unfreeze-finetune and evaluate in one clone of the commit that is checked out;
features are computed once. Validation chooses; test scores are shown beside it, and the last column is the mean over the
seeds of the paired difference in test log-loss to the recipe. The table is written to benchmarks/results/ablation.md.
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from common import PROJECT, RESULTS, TRAINING, lend_photos, run_command, run_stage, table
from ruamel.yaml import YAML

from pipeline.files import read_json
from pipeline.params import change_params
from pipeline.reproduce import clone_project

RECIPE = "the recipe"
VARIANTS = (
    "unfreeze_finetune.ema_fraction=0.0",
    "unfreeze_finetune.augmented_copies=1",
    "unfreeze_finetune.augmentation=medium",
    "unfreeze_finetune.layer_decay=1.0",
    "unfreeze_finetune.learning_rate=2.5e-4",
    "unfreeze_finetune.learning_rate=1.0e-3",
    "unfreeze_finetune.weight_decay=0.0",
    "unfreeze_finetune.unfrozen_blocks=1",
    "unfreeze_finetune.unfrozen_blocks=4",
)
FORMS = {"val_log_loss": ".4f", "log_loss": ".4f", "accuracy": ".2%", "seconds": ".0f"}
Runs = dict[str, list[dict[str, float]]]


def run(clone: Path, setting: str, seed: int, log: Path) -> dict[str, float]:
    """One training in the clone, and its scores."""
    (clone / "params.yaml").write_text((PROJECT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    changes: dict[str, Any] = {"unfreeze_finetune.seed": seed}
    if setting != RECIPE:
        key, value = setting.split("=", 1)
        changes[key] = YAML(typ="safe", pure=True).load(value)
    change_params(clone / "params.yaml", changes)
    for stage in (*TRAINING, "evaluate"):
        run_stage(stage, clone, log)
    scores = read_json(clone / "outputs/evaluation/metrics.json")["finetuned"]
    scores["seconds"] = read_json(clone / f"outputs/seconds/{TRAINING[1]}.json")["seconds"]
    return {name: scores[name] for name in FORMS}


def report(results: Runs) -> str:
    """The table, the lowest mean validation log-loss first; runs of equal place have the same seed."""

    def over_seeds(values: list[float], form: str) -> str:
        spread = f" ± {statistics.stdev(values):{form.strip('+')}}" if len(values) > 1 else ""
        return f"{statistics.mean(values):{form}}{spread}"

    rows = []
    for setting, runs in sorted(results.items(), key=lambda item: statistics.mean(one["val_log_loss"] for one in item[1])):
        paired = [one["log_loss"] - base["log_loss"] for one, base in zip(runs, results[RECIPE], strict=True)]
        difference = "" if setting == RECIPE else over_seeds(paired, "+.4f")
        rows.append((setting, *(over_seeds([one[name] for one in runs], form) for name, form in FORMS.items()), difference))
    return table(("", "val log-loss", "test log-loss", "test accuracy", "seconds", "test log-loss, to the recipe"), rows)


def measure(given: argparse.Namespace) -> None:
    """Run every setting with every seed, and write and print the table."""
    results: Runs = {setting: [] for setting in (RECIPE, *(given.set or VARIANTS))}
    with tempfile.TemporaryDirectory() as folder:
        clone = lend_photos(PROJECT, clone_project(PROJECT, Path(folder) / "project"))
        for seed in range(given.seeds):
            for setting, runs in results.items():
                print(f"seed {seed}, {setting}", flush=True)
                runs.append(run(clone, setting, seed, Path(folder) / "log.txt"))
    text = report(results)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "ablation.md").write_text(f"{given.seeds} seeds\n\n{text}\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    run_command(
        __doc__,
        measure,
        set={"action": "append", "metavar": "SECTION.KEY=VALUE", "help": "a setting; may be repeated; else a list"},
        seeds={"type": int, "default": 3},
    )
