"""Find a learning rate for fine-tuning: train a little while the rate grows from step to step, and see what the loss does.

The test is Smith's (Cyclical learning rates for training neural networks, WACV 2017). The suggestion is fastai's "valley" rule
(Howard and Gugger, 2020): the middle of the longest run of falling losses. It is a place to start from, not an optimum: the
loss here is of the first steps alone, and validation has the last word.
"""

import math
from collections.abc import Sequence
from itertools import chain, count
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from pipeline.checkpoint import read_info, read_model_state, refuse_other_data
from pipeline.data.dataset import Photos, data_fingerprints
from pipeline.data.manifest import classes_of, read_manifest
from pipeline.errors import PipelineError
from pipeline.files import write_csv
from pipeline.models.backbone import rebuild
from pipeline.params import Params, UnfreezeFinetune
from pipeline.progress import progress, say
from pipeline.runtime import resolve_runtime
from pipeline.training.activations import SplitNetwork, recipe_of
from pipeline.training.faults import explain_faults
from pipeline.training.features import BATCH_SIZE
from pipeline.training.finetune import Trainer
from pipeline.training.selection import class_weight, guessing_loss

LOWEST, HIGHEST, STEPS = 1e-6, 1.0, 100
SMOOTHING = 0.95  # share of the mean so far in the mean with the next loss
EXPLODED = 4.0  # times the least mean: the test ends there


class _Sweep(Trainer):
    """A training at rates that are given, on photos of one size, because the losses are compared with each other."""

    rates: Sequence[float]

    def _learning_rate(self, step: int) -> float:
        return self.rates[step]

    def copy_of(self, epoch: int) -> tuple[int, bool]:
        return epoch % self.copies, False


def try_learning_rates(
    network: SplitNetwork, train: Photos, settings: UnfreezeFinetune, rates: Sequence[float], weight: Tensor | None = None
) -> pd.DataFrame:
    """Train one step at each of the rising rates, from the frozen checkpoint, until the smoothed loss is `EXPLODED`.

    `weight`, (classes,), is what a photo of each class counts.
    Columns: learning_rate, the loss of the step before it was taken, and smoothed, the running mean of the losses up to there.
    """
    sweep = _Sweep(network, train, train.at(range(min(BATCH_SIZE, len(train)))), settings, frozen_loss=1.0, weight=weight)
    sweep.rates = rates
    sweep.set_training_mode()
    smoothed: list[float] = []
    mean = 0.0
    batches = chain.from_iterable(sweep._batches(epoch) for epoch in count(1))
    with (
        explain_faults(settings, sweep.runtime.workers, where=sweep.where),
        progress("trying learning rates", total=len(rates), unit="steps") as advance,
    ):
        for step, (rate, (inputs, labels)) in enumerate(zip(rates, batches, strict=False)):
            try:
                loss = sweep._step(step, inputs, labels, len(inputs))
            except PipelineError:  # the loss is what fails here, and that is what is looked for
                break
            mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
            smoothed.append(mean / (1 - SMOOTHING ** (step + 1)))
            advance(1, note=f"loss {smoothed[-1]:.4f} at {rate:.1e}")
            if smoothed[-1] > EXPLODED * min(smoothed):
                break
    tried = len(smoothed)
    return pd.DataFrame({"learning_rate": rates[:tried], "loss": sweep.losses[:tried], "smoothed": smoothed})


def suggest(tried: pd.DataFrame) -> float:
    """The middle of the longest falling run of smoothed losses; the run may skip losses that do not fit.

    As fastai does, the first tenth is left out, where the mean is of few losses, and so are the last five, where it explodes. A
    PipelineError says that nothing falls.
    """
    looked_at = tried[STEPS // 10 : -5]
    smoothed = looked_at["smoothed"].tolist()
    longest: list[int] = []  # the longest falling run that ends at each
    for loss in smoothed:
        before = [length for length, earlier in zip(longest, smoothed, strict=False) if earlier > loss]
        longest.append(1 + max(before, default=0))
    if max(longest, default=1) == 1:
        raise PipelineError("The loss falls at no learning rate: there is nothing to suggest. Is the checkpoint a trained one?")
    end = longest.index(max(longest))
    return float(looked_at["learning_rate"].iloc[(2 * end - longest[end] + 1) // 2])


def show_learning_rates(params: Params, checkpoint: Path, data: Path, figure: Path) -> None:
    """Try learning rates from a checkpoint, say which one is suggested, and write a figure (.svg) and a CSV beside it."""
    manifest = read_manifest(data)
    classes = classes_of(manifest)
    info = read_info(checkpoint)
    refuse_other_data(info, checkpoint, classes, data_fingerprints(manifest))
    model = rebuild(info, read_model_state(checkpoint))
    runtime, settings = resolve_runtime(params.runtime), params.unfreeze_finetune
    train = Photos.of_split(manifest, data, "train", classes)
    weight = class_weight(params.head.class_weight, train.labels)
    frozen_loss = info.metrics["val_log_loss"] / guessing_loss(train.labels, weight)
    recipe = recipe_of(model, info.preprocessing, settings, len(train), frozen_loss=frozen_loss)
    if not recipe.unfrozen_blocks:
        raise PipelineError(f"{info.backbone.name} is not fine-tuned, so there is no learning rate to find.")
    chosen = {"batch_size": recipe.batch_size, "unfrozen_blocks": recipe.unfrozen_blocks}
    settings = settings.model_copy(update={**chosen, "epochs": "auto"})  # a preset may have set them to 0
    train = train.at(range(0, len(train), math.ceil(len(train) / (STEPS * recipe.batch_size))))  # no more than all steps see
    choice = params.train_frozen_backbone.backend
    network = SplitNetwork(model, recipe.unfrozen_blocks, info.preprocessing, choice=choice, runtime=runtime)
    tried = try_learning_rates(network, train, settings, np.geomspace(LOWEST, HIGHEST, STEPS).tolist(), weight)
    suggested = suggest(tried)
    figure.parent.mkdir(parents=True, exist_ok=True)
    rows = tried.to_dict("records")
    write_csv(figure.with_suffix(".csv"), [{str(name): value for name, value in row.items()} for row in rows])
    draw(tried, suggested, recipe.learning_rate, figure)
    say(f"suggested: unfreeze_finetune.learning_rate = {suggested:.1e}; now it is {recipe.learning_rate:.1e}")
    say(f"loss by learning rate: {figure} and {figure.with_suffix('.csv')}")


def draw(tried: pd.DataFrame, suggested: float, present: float, file: Path) -> None:
    """Loss by learning rate, with the suggestion and the present setting."""
    drawing = Figure(figsize=(8, 4.5), layout="constrained")
    axes = drawing.subplots()
    axes.plot(tried["learning_rate"], tried["loss"], ".", color="0.75", label="a step")
    axes.plot(tried["learning_rate"], tried["smoothed"], color="tab:blue", label="smoothed")
    axes.axvline(suggested, color="tab:green", linestyle="--", label=f"suggested: {suggested:.1e}")
    axes.axvline(present, color="tab:orange", linestyle=":", label=f"now: {present:.1e}")
    highest = 1.5 * sorted(tried["smoothed"])[math.ceil(0.9 * len(tried)) - 1]
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss", ylim=(0, highest))
    axes.legend()
    axes.grid(alpha=0.3)
    with matplotlib.rc_context({"svg.hashsalt": "learning rates"}):
        drawing.savefig(file, metadata={"Date": None})
