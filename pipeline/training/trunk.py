"""What the frozen lower blocks of a network make of the photos, computed once: a training step is then one of the upper blocks.

    trunk = build_trunk(model, train, val, preprocessing, transform, choice="auto", runtime=runtime, keep=keep)
    logits = trunk.upper(trunk.view(1)[:32].float())

What frozen blocks compute depends on the photo and on how it was changed, and on nothing that learns. So a few changed views of
every photo are sent through them, by the engine that is fastest, and the epochs take turns with the views. An epoch then costs
neither decoding nor the lower blocks, which have most of a network's operations and few of its parameters.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from pipeline.checkpoint import Preprocessing
from pipeline.data.augment import TrainingTransform
from pipeline.data.loader import Photos, view_batches
from pipeline.models.boundary import cut_below_learning
from pipeline.models.engine import Engine
from pipeline.progress import say
from pipeline.runtime import ResolvedRuntime
from pipeline.training.features import BATCH_SIZE, Kept, engine_for, run_over, run_over_batches

# What one view of the training photos may take. Above it, photos go through the whole network in every step. A rule by size
# alone: what is free in memory at the moment would not repeat.
LARGEST = 2 * 2**30


@dataclass(frozen=True)
class Trunk:
    """The frozen lower part of a network, and the upper part that learns: the network's own modules.

    What crosses between the two is kept in float16, for photos in the order of their ids, (n, ...). `keep` says, from a name
    ("val", "view 1"), where it outlives a kill.
    """

    upper: nn.Module
    engine: Engine
    photos: Photos
    transform: TrainingTransform
    preprocessing: Preprocessing
    runtime: ResolvedRuntime
    keep: Callable[[str], Kept]
    val: Tensor

    def view(self, number: int) -> Tensor:
        """The training photos, changed as in epoch `number`, as the lower part sees them."""
        return run_over_batches(
            lambda images: self.engine.run(self.preprocessing.normalised(images)).half(),
            self.photos,
            partial(view_batches, transform=self.transform, view=number, batch_size=BATCH_SIZE, workers=self.runtime.workers),
            description=f"frozen blocks, view {number} of training photos",
            kept=self.keep(f"view {number}"),
        ).values


def build_trunk(
    model: nn.Module,
    train: Photos,
    val: Photos,
    preprocessing: Preprocessing,
    transform: TrainingTransform,
    *,
    choice: str,
    runtime: ResolvedRuntime,
    keep: Callable[[str], Kept],
) -> Trunk | None:
    """Cut a network below what learns, and send the validation photos through what is frozen.

    Args:
        model: in training mode; `set_trainable` has said what learns.
        transform: what changes a training photo for an epoch.
        choice: the engine, as `build_engine` takes it.
        keep: from a name to where what is computed outlives a kill.

    Returns:
        None where the network cannot be cut, as when all of it learns, where the values are too large for float16, or where a
        view of the training photos would be larger than `LARGEST`.
    """
    example = _example(preprocessing)
    cut = cut_below_learning(model, example)
    if cut is None:
        return None
    engine = engine_for(copy.deepcopy(cut.lower).eval(), val, preprocessing, choice=choice, runtime=runtime)
    if (size := engine.run(example).half()[0].nbytes * len(train)) > LARGEST:
        say(f"what the frozen blocks give would take {size / 2**30:.1f} GiB, so they compute in every step")
        return None
    of_val = run_over(
        lambda images: engine.run(images).half(),
        val,
        preprocessing,
        runtime=runtime,
        description="frozen blocks, validation photos",
        kept=keep("val"),
    ).values
    if not torch.isfinite(of_val).all():
        say("what the frozen blocks give is too large for float16, so they compute in every step")
        return None
    return Trunk(cut.upper, engine, train, transform, preprocessing, runtime, keep, of_val)


def upper_part(model: nn.Module, preprocessing: Preprocessing) -> nn.Module:
    """The part above the cut of a copy of a network that `build_trunk` has cut."""
    cut = cut_below_learning(model, _example(preprocessing))
    assert cut is not None
    return cut.upper


def _example(preprocessing: Preprocessing) -> Tensor:
    return torch.randn(2, *preprocessing.input_size, generator=torch.Generator().manual_seed(0))
