"""Ablation of the training recipe: params.yaml with one setting changed, over seeds, ranked by validation log-loss.

    uv run python benchmarks/ablation.py                                  # after `dvc repro preprocess`
    uv run python benchmarks/ablation.py --seeds 1 --set unfreeze_finetune.ema_fraction=0 --set head.type=mlp

Each run is the stages train-frozen-backbone, unfreeze-finetune and evaluate in one clone of the commit that is checked out;
features are computed once. Validation chooses; test scores are shown beside it, and the last column is the mean over the
seeds of the paired difference in test log-loss to the recipe. The table is written to benchmarks/results/ablation.md.
"""

import argparse
import tempfile
from pathlib import Path

import common
from common import PROJECT, RECIPE, TRAINING

from pipeline.files import read_json
from pipeline.params import change_params
from pipeline.reproduce import clone_project

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
FORMS = {"val log-loss": ".4f", "test log-loss": ".4f", "test accuracy": ".2%", "seconds": ".0f"}


def measure(given: argparse.Namespace) -> None:
    """Run every setting with every seed, and write and print the table."""
    with tempfile.TemporaryDirectory() as folder:
        clone, log = clone_project(PROJECT, Path(folder) / "project"), Path(folder) / "log.txt"
        common.lend_photos(common.PROCESSED, clone)

        def run(variant: str, seed: int) -> dict[str, dict[str, float]]:
            (clone / "params.yaml").write_bytes((PROJECT / "params.yaml").read_bytes())
            changes = {"unfreeze_finetune.seed": seed} | ({} if variant == RECIPE else common.setting(variant))
            change_params(clone / "params.yaml", changes)
            for stage in (*TRAINING, "evaluate"):
                common.run_stage(stage, clone, log)
            scores = read_json(clone / "outputs/evaluation/metrics.json")["finetuned"]
            seconds = read_json(clone / f"outputs/seconds/{TRAINING[1]}.json")["seconds"]
            columns = scores["val_log_loss"], scores["log_loss"], scores["accuracy"], seconds
            return {variant: dict(zip(FORMS, columns, strict=True))}

        results = common.run_variants(list(dict.fromkeys([RECIPE, *(given.set or VARIANTS)])), given.seeds, run)
    common.keep("ablation.md", f"seeds: {given.seeds}\n\n{common.table_of_variants(results, FORMS, 'test log-loss')}")


if __name__ == "__main__":
    common.run_command(
        __doc__,
        measure,
        set={"action": "append", "metavar": "SECTION.KEY=VALUE", "help": "a setting; may be repeated; else a list"},
        seeds={"type": int, "default": 3},
    )
