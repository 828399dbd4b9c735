"""Variants of the fine-tuning recipe over seeds, by validation log-loss alone: paired differences to the recipe.

    uv run python benchmarks/recipes.py --photos 2000                     # after `dvc repro preprocess`
    uv run python benchmarks/recipes.py --teacher ../blend/outputs/probe/out_of_fold.csv
    uv run python benchmarks/recipes.py --set unfreeze_finetune.layer_decay=1.0

`--photos` is a sample of the training photos and of the validation photos; no test photo is looked at. A variant is worth the
log-loss of its best candidate (an epoch, or a point between it and the frozen weights), kept or not. `--teacher` is what
train-frozen-backbone of a stronger backbone left for the same photos: each training photo's probabilities by a head that never
saw it. The table is written to benchmarks/results/recipes.md.
"""

import argparse
import copy
import time
from dataclasses import replace
from pathlib import Path

import common
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import Module
from torch.nn.functional import one_hot

from pipeline.data.dataset import Photos
from pipeline.data.manifest import classes_of, read_manifest, stored_fingerprint
from pipeline.errors import PipelineError
from pipeline.models.backbone import create_backbones
from pipeline.models.head import apply_temperature, find_heads, is_within, replace_head, set_linear_head
from pipeline.models.ood import sample_by_class
from pipeline.params import UnfreezeFinetune, load_params
from pipeline.paths import user_path
from pipeline.training.activations import SplitNetwork, recipe_of
from pipeline.training.features import backend_for, evaluation, run_inference
from pipeline.training.finetune import Trainer
from pipeline.training.probe import Labelled, fit_probe, read_out_of_fold
from pipeline.training.resume import ResumeFolder
from pipeline.training.selection import ALPHAS, Candidate, fit_temperature, guessing_loss

BIASES, DISTILLED = "biases and norms only", "distilled"
SOUP, FLIPPED, LOSS = "greedy soup of the epochs", "flip-averaged features, frozen", "validation log-loss"
SETTINGS = ("unfreeze_finetune.unfrozen_blocks=1", "unfreeze_finetune.warmup_fraction=0.375")  # the top block; a longer warm-up


class SoupTrainer(Trainer):
    """Keeps the EMA weights of every epoch, for a greedy soup of them (Wortsman et al., Model soups, ICML 2022)."""

    states: list[dict[str, Tensor]] = []  # noqa: RUF012 - never changed in place

    def soup(self) -> float:
        """Validation log-loss of the best point between the frozen weights and the mean of those epochs that each lower it."""

        def log_loss(alpha: float = 1.0) -> float:
            self.ema.module.load_state_dict(self._between(alpha))
            return self._score(alpha, 0, self._val_logits(self.ema.module)).log_loss

        def of(states: list[dict[str, Tensor]]) -> float:
            self.best_state = mean_of(states)
            return log_loss()

        best, *others = sorted(self.states, key=lambda state: of([state]))
        chosen, lowest = [best], of([best])
        for state in others:
            if (together := of([*chosen, state])) < lowest:
                chosen, lowest = [*chosen, state], together
        self.best_state = mean_of(chosen)
        return min(map(log_loss, (*ALPHAS, 1.0)))

    def _finish_epoch(self, train_loss: float | None) -> None:
        super()._finish_epoch(train_loss)
        if train_loss is not None:  # epoch 0 is the frozen weights
            self.states = [*self.states, {name: one.cpu().clone() for name, one in self.ema.module.state_dict().items()}]


def mean_of(states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of state dicts; what is no floating-point number is the first's."""
    first = states[0]
    return {
        name: torch.stack([one[name] for one in states]).mean(0) if first[name].is_floating_point() else first[name]
        for name in first
    }


class Bench:
    """The photos, the backbone with its solved head, and a cache that all variants share."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.train, self.val = (sampled(common.stored_photos(split), given.photos) for split in ("train", "val"))
        self.runtime, self.folder = common.resolved(), common.RUNS / "recipes"
        names = classes_of(read_manifest(common.PROCESSED))
        self.classes, self.taught = len(names), self.train
        if given.teacher:
            taught = read_out_of_fold(given.teacher, names, self.train.ids).to_numpy()
            self.taught = replace(self.train, labels=(one_hot(self.train.labels) + torch.from_numpy(taught)).float() / 2)
        self.backbone = create_backbones(load_params(common.PROJECT / "params.yaml").backbone.parts, locate=user_path)
        replace_head(self.backbone.model, self.classes, initialisation="zeros")
        network = self.network(UnfreezeFinetune())
        features = {"train": network.features("train", self.train), "val": network.features("val", self.val)}
        self.frozen = self._solve(features)
        self.flipped = self._solve({name: (of + self._mirrored(name)) / 2 for name, of in features.items()}, keep=False)

    def network(self, settings: UnfreezeFinetune) -> SplitNetwork:
        """A copy of the network, split for a recipe, with its activations cached."""
        model, preprocessing = copy.deepcopy(self.backbone.model), self.backbone.preprocessing
        blocks = recipe_of(model, preprocessing, settings, len(self.train)).unfrozen_blocks
        network = SplitNetwork(model, blocks, preprocessing, choice="auto", runtime=self.runtime)
        network.use_cache(self.folder / "features", self.backbone.info, stored_fingerprint(read_manifest(common.PROCESSED)))
        return network

    def _mirrored(self, split: str) -> Tensor:
        photos, preprocessing = {"train": self.train, "val": self.val}[split], self.backbone.preprocessing
        outputs = self.network(UnfreezeFinetune()).outputs.eval()
        backend = backend_for(outputs, photos, preprocessing, choice="auto", runtime=self.runtime, float32=split == "val")

        def run(pixels: Tensor) -> Tensor | tuple[Tensor, ...]:
            return backend.run(pixels.flip(2))

        [values] = run_inference(run, photos, evaluation(preprocessing), runtime=self.runtime, description="mirrored")
        return values.tensor()[:, self.classes :]

    def _solve(self, features: dict[str, Tensor], *, keep: bool = True) -> float:
        """Validation log-loss of a linear probe; it becomes the backbone's head."""
        probe = fit_probe(Labelled(features["train"], self.train.labels), Labelled(features["val"], self.val.labels))
        logits = probe.logits(features["val"])
        if keep:
            set_linear_head(self.backbone.model, probe.weight, probe.bias)
            apply_temperature(self.backbone.model, fit_temperature(logits, self.val.labels))
        return Candidate.of(0.0, 0, logits, self.val.labels).log_loss

    def run(self, variant: str, seed: int) -> dict[str, dict[str, float]]:
        """Validation log-loss of a variant's best candidate, and its seconds, those of activations left out; the soup's too."""
        settings = settings_of(variant, seed)
        network = self.network(settings)
        if variant == BIASES:
            freeze_matrices(network.model)
        train = self.taught if variant == DISTILLED else self.train
        trainer = SoupTrainer(network, train, self.val, settings, self.frozen / guessing_loss(self.train.labels))
        for number in range(1, trainer.epochs + 1):  # computed once for all variants, so no part of the time
            copied, low = trainer.copy_of(number)
            network.activations(
                "train", train, copy_number=copied, low_resolution=low, augmentation=settings.augmentation, seed=seed
            )
        resume = ResumeFolder(self.folder / "resume", {"run": f"{variant} {seed}"}, self.runtime)
        started = time.monotonic()
        trainer.start()
        while not trainer.finished():
            trainer.train_epoch(resume)
        result = trainer.result()
        found = {variant: {LOSS: result.history[0].val_log_loss - result.choice.gain, "seconds": time.monotonic() - started}}
        if variant == common.RECIPE:
            found[SOUP] = {LOSS: trainer.soup(), "seconds": time.monotonic() - started}
        return found


def freeze_matrices(model: Module) -> None:
    """Of what learns below the head, leave biases and norms alone to learn."""
    heads = find_heads(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and (parameter.ndim == 1 or is_within(name, heads)))


def sampled(photos: Photos, most: int | None) -> Photos:
    """About `most` of the photos, of each class alike; all of them where no number is given."""
    return photos.at(sample_by_class(photos.labels, most)) if most else photos


def settings_of(variant: str, seed: int) -> UnfreezeFinetune:
    """The recipe, with the setting that the variant is, if it is one; a PipelineError says that there is none such."""
    changes = {} if variant in (common.RECIPE, DISTILLED, BIASES) else common.setting(variant)
    try:
        return UnfreezeFinetune(seed=seed, **{key.removeprefix("unfreeze_finetune."): to for key, to in changes.items()})
    except ValidationError as error:
        reason = f"{error.errors()[0]['msg']}. Only settings of unfreeze_finetune are tried here; ablation.py tries others."
        raise PipelineError(f"--set {variant}: {reason}") from None


def measure(given: argparse.Namespace) -> None:
    """Run every variant with every seed, and write and print the table."""
    variants = [common.RECIPE, *([DISTILLED] if given.teacher else []), *(given.set or [BIASES, *SETTINGS])]
    for variant in variants:
        settings_of(variant, seed=0)  # a mistake is said before an hour of work
    bench = Bench(given)
    frozen = {"frozen": bench.frozen, FLIPPED: bench.flipped}
    results = {name: [{LOSS: loss, "seconds": 0.0}] * given.seeds for name, loss in frozen.items()}
    results |= common.run_variants(variants, given.seeds, bench.run)
    photos = f"{len(bench.train):,} training and {len(bench.val):,} validation photos; frozen variants were not timed"
    common.keep("recipes.md", f"{photos}\n\n{common.table_of_variants(results, {LOSS: '.4f', 'seconds': '.0f'}, LOSS)}")


if __name__ == "__main__":
    common.run_command(
        __doc__,
        measure,
        photos={"type": int, "help": "samples of about so many training and validation photos; all where it is left out"},
        set={"action": "append", "metavar": "SECTION.KEY=VALUE", "help": "tried instead of the usual; may be repeated"},
        seeds={"type": int, "default": 3},
        teacher={"type": Path, "help": "out_of_fold.csv of a run with a stronger backbone on the same photos"},
    )
