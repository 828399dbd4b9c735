"""Ablation of the training recipe: params.yaml with one setting changed, over seeds, ranked by validation log-loss.

    uv run python benchmarks/ablation.py                                  # after `dvc repro preprocess`
    uv run python benchmarks/ablation.py --seeds 1 --set unfreeze_finetune.ema_fraction=0 --set head.type=mlp

Each run is the stages train-frozen-backbone, unfreeze-finetune and evaluate in one clone of the commit that is checked out;
features are computed once, and augmented copies anew in each fine-tuning, so that seconds compare. Validation chooses; test
scores are shown beside it, and the last column is the mean over the seeds of the paired difference in test log-loss to the
recipe. The table is written to benchmarks/results/ablation.md.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import common
from common import PROJECT, RECIPE, TRAINING

from pipeline.files import read_json
from pipeline.params import change_params, load_params
from pipeline.paths import FEATURES
from pipeline.reproduce import clone_project

SETTINGS = ["ema_fraction=0.0", "augmented_copies=1", "augmentation=medium", "layer_decay=1.0", "learning_rate=2.5e-4"]
SETTINGS += ["learning_rate=1.0e-3", "weight_decay=0.0", "unfrozen_blocks=1", "unfrozen_blocks=4"]
VARIANTS = [f"unfreeze_finetune.{setting}" for setting in SETTINGS]
FORMS = {"val log-loss": ".4f", "test log-loss": ".4f", "test accuracy": ".2%", "seconds": ".0f"}


def measure(given: argparse.Namespace) -> None:
    """Run every setting with every seed, and write and print the table."""
    with tempfile.TemporaryDirectory() as folder:
        clone, log = clone_project(PROJECT, Path(folder) / "project"), common.new_log("ablation")
        common.lend_photos(common.PROCESSED, clone)

        def prepare(variant: str, seed: int) -> None:
            (clone / "params.yaml").write_bytes((PROJECT / "params.yaml").read_bytes())
            changes = {"unfreeze_finetune.seed": seed} | ({} if variant == RECIPE else common.setting(variant))
            change_params(clone / "params.yaml", changes)
            load_params(clone / "params.yaml")

        def run(variant: str, seed: int) -> dict[str, dict[str, float]]:
            prepare(variant, seed)
            run_stages(clone, log)
            scores = read_json(clone / "outputs/evaluation/metrics.json")["finetuned"]
            seconds = read_json(clone / f"outputs/seconds/{TRAINING[1]}.json")["seconds"]
            columns = scores["val_log_loss"], scores["log_loss"], scores["accuracy"], seconds
            return {variant: dict(zip(FORMS, columns, strict=True))}

        variants = list(dict.fromkeys([RECIPE, *(given.set or VARIANTS)]))
        for variant in variants:
            prepare(variant, seed=0)  # a mistake is said before an hour of work
        results = common.run_variants(variants, given.seeds, run)
    common.keep("ablation.md", f"seeds: {given.seeds}\n\n{common.table_of_variants(results, FORMS, 'test log-loss')}")


def run_stages(clone: Path, log: Path) -> None:
    """Train and evaluate. What fine-tuning adds to the cache goes again: the variants after it would find it and be faster."""
    cache = clone / FEATURES
    common.run_stage(TRAINING[0], clone, log)
    kept = set(cache.iterdir())
    common.run_stage(TRAINING[1], clone, log)
    for added in set(cache.iterdir()) - kept:
        shutil.rmtree(added)
    common.run_stage("evaluate", clone, log)


if __name__ == "__main__":
    common.run_command(
        __doc__,
        measure,
        set={"action": "append", "metavar": "SECTION.KEY=VALUE", "help": "a setting; may be repeated; else a list"},
        seeds={"type": int, "default": 3},
    )
