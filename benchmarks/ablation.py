"""What each ingredient of fine-tuning is worth: the recipe of params.yaml, and the same with one thing changed, over seeds.

    uv run python benchmarks/ablation.py                            # after `dvc repro train-frozen-backbone`
    uv run python benchmarks/ablation.py --seeds 1 --variants "as it is" "no moving average"

A line gives the test accuracy as mean over the seeds with the standard deviation, its 95% Wilson interval at the number of test
photos, log-loss, the difference in accuracy to the first line seed by seed, and the median seconds: training and validation,
and the pass over changed photos, which variants share and which counts for each. Test photos choose nothing here; a default is
chosen on validation, whose log-loss stands beside.

Finished runs are kept in benchmarks/.runs/ablation by all that decides them, so the command goes on where it was stopped. The
table is of what is there, and is written to benchmarks/results/ablation.md.
"""

import argparse
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pipeline.checkpoint import CheckpointInfo, read_info, read_model_state, refuse_other_data
from pipeline.data.dataset import Photos, data_fingerprints
from pipeline.data.manifest import classes_of, fingerprint, read_manifest, stored_fingerprint
from pipeline.errors import PipelineError
from pipeline.evaluation.metrics import wilson
from pipeline.files import read_json, write_json
from pipeline.models.backbone import rebuild
from pipeline.models.freezing import set_trainable
from pipeline.params import UnfreezeFinetune, load_params
from pipeline.paths import FEATURES, FROZEN, PROCESSED
from pipeline.progress import say
from pipeline.runtime import ResolvedRuntime, machine_name, resolve_runtime
from pipeline.training.depth import with_depth
from pipeline.training.features import Kept, backend_for, run_over
from pipeline.training.finetune import Trainer
from pipeline.training.frozen_pass import parts_of_pass, places_at_cut
from pipeline.training.resume import ResumeFolder, parts_of_result
from pipeline.training.task import Task
from pipeline.training.trunk import Trunk, run_above

PROJECT = Path(__file__).resolve().parents[1]
RUNS, RESULTS = PROJECT / "benchmarks/.runs/ablation", PROJECT / "benchmarks/results/ablation.md"
FIRST, NOT_INTERPOLATED = "as it is", "neither interpolated nor calibrated"
VARIANTS: dict[str, dict[str, Any]] = {
    FIRST: {},
    NOT_INTERPOLATED: {},  # of the same training: the best epoch's weights as they are
    "no moving average": {"ema_fraction": 0.0},
    "unchanged photos alone": {"views": 1},
    "one view more": {"views": 3},
    "one rate for all layers": {"layer_decay": 1.0},
    "half the learning rate": {"learning_rate": 0.5},
    "twice the learning rate": {"learning_rate": 2.0},
    "half the epochs": {"epochs": 0.5},
    "medium changes": {"augmentation": "medium"},
    "one block": {"unfrozen_blocks": 1},
    "two blocks": {"unfrozen_blocks": 2},
    "four blocks": {"unfrozen_blocks": 4},
    "the whole network": {"unfrozen_blocks": "all"},
    "label smoothing 0.1": {},
    "mixup 0.2": {},
    "photos of one size": {},
}
FACTORS = ("learning_rate", "epochs")  # given as multiples of what is set


class LabelSmoothing(Trainer):
    """A tenth of each label goes to all classes alike (Szegedy et al., Rethinking the Inception architecture, CVPR 2016)."""

    def _logits_and_loss(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits, _ = super()._logits_and_loss(inputs, labels)
        return logits, cross_entropy(logits.float(), labels, label_smoothing=0.1)


class Mixup(Trainer):
    """Pairs of photos, or of what the frozen blocks made of them, are mixed (Zhang et al., mixup, ICLR 2018), alpha 0.2."""

    def _logits_and_loss(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        others = torch.randperm(len(inputs))  # from the global generator, which is seeded by (seed, step)
        share = np.random.default_rng(others.numpy()).beta(0.2, 0.2)
        others = others.to(labels.device)
        logits, loss = super()._logits_and_loss(inputs.lerp(inputs[others], share), labels)
        return logits, (1 - share) * loss + share * cross_entropy(logits.float(), labels[others])


class OneSize(Trainer):
    """No view is one of smaller photos."""

    def view_of(self, epoch: int) -> tuple[int, bool]:
        return super().view_of(epoch)[0], False


TRAINERS: dict[str, type[Trainer]] = {
    "label smoothing 0.1": LabelSmoothing,
    "mixup 0.2": Mixup,
    "photos of one size": OneSize,
}


class Bench:
    """The photos, the frozen checkpoint and the machine, which all runs share."""

    def __init__(self) -> None:
        params = load_params()
        manifest = read_manifest(PROCESSED)
        classes, self.data = classes_of(manifest), data_fingerprints(manifest)
        self.info: CheckpointInfo = read_info(FROZEN)
        refuse_other_data(self.info, FROZEN, classes, self.data)
        self.state = read_model_state(FROZEN)
        self.runtime: ResolvedRuntime = resolve_runtime(params.runtime)
        self.splits = {name: Photos.of_split(manifest, PROCESSED, name, classes) for name in ("train", "val", "test")}
        model, stored = rebuild(self.info, self.state), stored_fingerprint(manifest)
        self.settings: UnfreezeFinetune = with_depth(params.unfreeze_finetune, model, self.info.preprocessing)
        self.of_pass = parts_of_pass(
            model, self.info.backbone, self.info.preprocessing, stored, choice="auto", runtime=self.runtime
        )
        self.prints = {name: fingerprint(manifest, name) for name in self.splits}
        self.deciding = {"frozen": self.info.files, "photos": self.prints, "bfloat16": self.runtime.bfloat16}

    def task(self, settings: UnfreezeFinetune) -> Task:
        """What a fine-tuning is given, with what the stages keep of the photos in reach."""
        photos = {"train": self.data.train, "val": self.data.val, "test": self.prints["test"]}
        unchanged = places_at_cut(FEATURES, settings, photos, self.of_pass)
        # In a folder of their own, because what a stage has kept would be timed as if it cost nothing.
        views = places_at_cut(RUNS / "views", settings, photos, self.of_pass)

        def place(name: str) -> Kept:
            return unchanged(name) if name in photos else views(name)

        train, val = self.splits["train"], self.splits["val"]
        return Task(train, val, self.info.preprocessing, settings, self.runtime, "auto", place)

    def test_logits(self, model: nn.Module, trunk: Trunk | None, task: Task) -> Tensor:
        """Logits (n, classes) of a network in eval mode for the test photos."""
        test, preprocessing = self.splits["test"], task.preprocessing
        over = partial(run_over, photos=test, preprocessing=preprocessing, runtime=self.runtime, description="testing")
        if trunk is None:
            backend = backend_for(model, test, preprocessing, choice=task.backend, runtime=self.runtime)
            return over(backend.run).values
        lower = trunk.backend
        return run_above(model, over(lambda images: lower.run(images).half(), kept=task.keep("test")).values, task)


def changed(settings: UnfreezeFinetune, changes: Mapping[str, Any], seed: int, default_epochs: int) -> UnfreezeFinetune:
    """The settings with a variant's changes, of which some are factors."""
    values = dict(changes)
    if "learning_rate" in values:
        values["learning_rate"] *= settings.learning_rate
    if "epochs" in values:
        values["epochs"] = max(1, round(values["epochs"] * default_epochs))
    return settings.model_copy(update={**values, "seed": seed})


def train_and_score(bench: Bench, kind: type[Trainer], settings: UnfreezeFinetune, folder: Path) -> dict[str, Any]:
    """One training: `kept`, what it keeps, and `best`, the best epoch without interpolation, each scored on the test photos."""
    task = bench.task(settings)
    model = rebuild(bench.info, bench.state)
    started = time.monotonic()
    trainer = kind(model, task)
    of_views = _seconds_of_views(trainer, folder)
    before_training = time.monotonic()
    resume = ResumeFolder(folder / "resume", {"run": folder.name})
    trainer.start()
    while not trainer.finished():
        trainer.train_epoch(resume)
    result = trainer.result()
    seconds = time.monotonic() - before_training + of_views
    resume.remove()
    say(f"{seconds:.0f} s, {time.monotonic() - started:.0f} s with what was not counted twice")
    weights = {"kept": result.model_state, "best": trainer.best_state}
    val = {"kept": result.kept.val_log_loss, "best": result.best.val_log_loss}
    scored = {name: _scored(bench, state, trainer.trunk, task) | {"val": val[name]} for name, state in weights.items()}
    return {"seconds": seconds, **scored}


def _seconds_of_views(trainer: Trainer, folder: Path) -> float:
    """What the pass over changed photos costs: measured the first time, told from then on."""
    if trainer.trunk is None:
        return 0.0
    settings = trainer.settings
    total = 0.0
    for number, smaller in sorted({trainer.view_of(epoch) for epoch in range(1, trainer.epochs + 1)}):
        if number == 0:
            continue  # the unchanged photos, which the stage before has kept
        size = "smaller" if smaller else "whole"
        name = f"view-{settings.unfrozen_blocks}-{settings.augmentation}-{settings.seed}-{size}-{number}.json"
        told = folder.parent / name
        started = time.monotonic()
        trainer.trunk.view(number, smaller=smaller)
        if not told.is_file():
            write_json(told, {"seconds": time.monotonic() - started})
        total += read_json(told)["seconds"]
    return total


def _scored(bench: Bench, state: dict[str, Tensor], trunk: Trunk | None, task: Task) -> dict[str, float]:
    labels = bench.splits["test"].labels
    model = rebuild(bench.info, state)
    if trunk is not None:
        model = _cuttable(model, task)
    logarithms = bench.test_logits(model, trunk, task).double().log_softmax(1)
    right = (logarithms.argmax(1) == labels).double().mean().item()
    return {"accuracy": right, "log_loss": -logarithms[torch.arange(len(labels)), labels].mean().item()}


def _cuttable(model: nn.Module, task: Task) -> nn.Module:
    """`model` with the same blocks set to learn as in training, so that it is cut at the same place."""
    set_trainable(model, task.settings.unfrozen_blocks)
    return model.eval()


def table(results: Mapping[str, list[dict[str, Any]]], heading: str, num_test: int) -> str:
    """The runs that there are, as Markdown; `results` maps a variant to one result a seed, in the same order of seeds."""
    head = ["", "seeds", "validation log-loss", "test log-loss", "test accuracy", "against the first line", "seconds"]
    lines = [heading, "", f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for name, runs in results.items():
        which = "best" if name == NOT_INTERPOLATED else "kept"
        own = [run[which]["accuracy"] for run in runs]
        mean = statistics.mean(own)
        low, high = wilson(round(mean * num_test), num_test, 0.95)
        against = [run[which]["accuracy"] - base["kept"]["accuracy"] for run, base in zip(runs, results[FIRST], strict=False)]
        cells = [
            name,
            str(len(runs)),
            f"{statistics.mean(run[which]['val'] for run in runs):.4f}",
            f"{statistics.mean(run[which]['log_loss'] for run in runs):.4f}",
            f"{mean:.2%}{_deviation(own)} ({low:.2%} to {high:.2%})",
            "" if name == FIRST else f"{100 * statistics.mean(against):+.2f} points{_deviation(against)}",
            f"{statistics.median(run['seconds'] for run in runs):.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _deviation(values: list[float]) -> str:
    return f" ± {100 * np.std(values, ddof=1):.2f}" if len(values) > 1 else ""


def run_all(variants: list[str], seeds: int) -> str:
    """Run what is not kept yet, and tell all of it.

    Raises:
        PipelineError: there is no frozen checkpoint or no photos, or a run failed.
    """
    bench = Bench()
    default_epochs = Trainer(rebuild(bench.info, bench.state), bench.task(bench.settings)).epochs
    results: dict[str, list[dict[str, Any]]] = {}
    for seed in range(seeds):
        for name in variants:
            settings = changed(bench.settings, VARIANTS[name], seed, default_epochs)
            kind = TRAINERS.get(name, Trainer)
            parts = parts_of_result(settings=settings.model_dump(), trainer=kind.__name__, **bench.deciding)
            folder = RUNS / hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
            if not (folder / "result.json").is_file():
                say(f"seed {seed}, {name}")
                folder.mkdir(parents=True, exist_ok=True)
                write_json(folder / "result.json", train_and_score(bench, kind, settings, folder))
            results.setdefault(name, []).append(read_json(folder / "result.json"))
    sizes = {name: len(photos) for name, photos in bench.splits.items()}
    heading = (
        f"{bench.info.backbone.name}; {sizes['train']:,} training, {sizes['val']:,} validation and {sizes['test']:,} test "
        f"photos; {machine_name(bench.runtime.device, bench.runtime.threads)}."
    )
    return table(results, heading, sizes["test"])


def main() -> None:
    """Run the variants, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    every = [name for name in VARIANTS if name != "the whole network"]
    shown = ", ".join(VARIANTS)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=every, metavar="VARIANT", help=shown)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    try:
        told = run_all([FIRST, *(name for name in given.variants if name != FIRST)], given.seeds)
    except PipelineError as error:
        sys.exit(str(error))
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(told, encoding="utf-8")
    print(told)


if __name__ == "__main__":
    main()
