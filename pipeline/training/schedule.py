"""The recipe of fine-tuning and its schedules: pure functions of settings, network, frozen head, number of photos and step."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pipeline.params import UnfreezeFinetune

FEW_PHOTOS = 8000  # below, small batches and rates up to a higher bound make up for the few steps of an epoch
MOST_OPERATIONS = 0.5  # the fraction of a network's operations that is unfrozen at most where nobody sets the number of blocks
RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3)  # learning rates: few, so that no last digit of a machine decides
RATE_BY_FROZEN_LOSS = 5e-3  # times the frozen head's loss, as a fraction of that of guessing
GOOD_HEAD = 0.1  # such a fraction, below which the frozen head already separates the classes well
FORWARD_AND_BACKWARD = 3  # what a training step costs, in forward passes (Kaplan et al., Scaling laws, 2020, section 2.1)


class Recipe(NamedTuple):
    """How a network is fine-tuned; `cost` is in passes of all training photos through the whole network, at full resolution."""

    unfrozen_blocks: int | str
    epochs: int
    copies: int
    batch_size: int
    learning_rate: float
    cost: float

    def __str__(self) -> str:
        blocks = {"all": "all blocks", 1: "the topmost block"}.get(self.unfrozen_blocks, f"{self.unfrozen_blocks} blocks")
        return (
            f"{blocks} unfrozen, {self.epochs} epochs, {self.copies} copies of each photo, batches of {self.batch_size}, "
            f"learning rate {self.learning_rate:g}; at most {self.cost:.1f} times the operations of the frozen pass"
        )


def choose_recipe(
    settings: "UnfreezeFinetune",
    fractions: Sequence[float],
    num_photos: int,
    *,
    frozen_loss: float = 1.0,
    is_split: bool = True,
) -> Recipe:
    """The recipe: what is set, and for the rest a rule of the network, its frozen head and the number of training photos.

    As many of the topmost blocks learn as hold up to half of the operations and keep the cost within `settings.budget`, but one
    at least. Where even that costs more, there are fewer epochs. The better the frozen head is already, the lower is the
    learning rate: large steps would forget more than they find.

    Args:
        settings: section `unfreeze_finetune`; what is "auto" there is chosen here.
        fractions: of the network's operations, of its head with the 0, 1, 2 ... topmost blocks.
        num_photos: of the training split.
        frozen_loss: validation log-loss of the frozen head, as a fraction of that of guessing by the classes' frequencies.
        is_split: whether the frozen part's activations are computed once a copy, rather than in every epoch.
    """
    few = num_photos < FEW_PHOTOS
    # About 32,000 photos in all, augmented or not, but 2 to 8 copies of each.
    copies = min(max(round(32_000 / num_photos), 2), 8)
    # Each photo is seen 4 times, and up to 8 times where that gives under 200 steps of 16: fewer photos need more passes, yet
    # learn nothing new from ever more of them. A rule of this kind replaces a search (Kolesnikov et al., Big Transfer, ECCV
    # 2020); docs/log.md has what it was chosen by.
    epochs = min(max(round(200 * 16 / num_photos), 4), 8)
    budget = _set(settings.budget, 2.0 * epochs)
    affordable = [
        number
        for number, fraction in enumerate(fractions)
        if fraction <= MOST_OPERATIONS and cost_in_passes(fraction, epochs, copies) <= budget
    ]
    blocks = _set(settings.unfrozen_blocks, max(affordable, default=1) or 1)
    fraction = 1.0 if blocks == "all" else fractions[min(int(blocks), len(fractions) - 1)]
    if not is_split:  # an epoch decodes and computes each photo anyway: fresh augmentation in each
        epochs = copies
    while epochs > 1 and cost_in_passes(fraction, epochs, copies, is_split=is_split) > budget:
        epochs -= 1
    epochs = _set(settings.epochs, epochs)
    copies = min(_set(settings.augmented_copies, copies if is_split else epochs), epochs)  # the original photos have their turn
    usual_batch_size = 16 if few and frozen_loss >= GOOD_HEAD else 32
    wanted = max(RATE_BY_FROZEN_LOSS * frozen_loss, RATES[0])
    usual_rate = min(RATES if few else RATES[:-1], key=lambda rate: abs(math.log(rate / wanted)))
    batch_size, rate = _set(settings.batch_size, usual_batch_size), _set(settings.learning_rate, usual_rate)
    cost = cost_in_passes(fraction, epochs, copies, is_split=is_split)
    return Recipe(blocks, epochs, copies, batch_size, rate, cost)


def _set(setting: Any, rule: Any) -> Any:
    return rule if setting == "auto" else setting


def cost_in_passes(fraction: float, epochs: int, copies: int, *, is_split: bool = True) -> float:
    """What fine-tuning a fraction of the operations costs, in passes of the training photos through the whole network.

    The original photos' activations are there already; augmented copies at low resolution are counted as if they were not.
    """
    frozen_passes = min(copies, epochs) - 1 if is_split else epochs
    return (1 - fraction) * max(frozen_passes, 0) + FORWARD_AND_BACKWARD * fraction * epochs


def copy_of_epoch(epoch: int, *, epochs: int, copies: int) -> tuple[int, bool]:
    """Which copy of the photos an epoch takes, and whether it is at low resolution.

    The first half of the copies are at low resolution: they cost half as much, and the network comes to the details later
    (progressive resizing, as in Howard's DAWNBench entry of 2018). The original photos, copy 0, come last. Epochs count from 1,
    and there are at least as many as copies, the original among them.
    """
    turn = (epoch - 1) * copies // epochs
    return (turn + 1) % copies, turn < copies // 2


def learning_rate(step: int, *, total_steps: int, warmup_steps: int, peak: float) -> float:
    """Linear warm-up to `peak`, then half a cosine down to zero (Loshchilov and Hutter, SGDR, ICLR 2017).

    Steps count from 0, where the rate is peak / (warmup_steps + 1), to total_steps - 1; at step `warmup_steps` it is `peak`.
    """
    if step < warmup_steps:
        return peak * (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))
