"""Schedules of fine-tuning: pure functions of the step, the network and the number of photos."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.params import UnfreezeFinetune


FEW_PHOTOS = 8000  # below, small batches and a higher rate make up for the few steps of an epoch


def default_epochs(num_photos: int) -> int:
    """How often to see each of `num_photos` training photos: 4 times, and up to 8 times where that gives under 200 steps.

    Fewer photos need more passes, yet learn nothing new from ever more of them; a rule of this kind replaces a search
    (Kolesnikov et al., Big Transfer, ECCV 2020, whose rule sets steps by the size of the data set too).
    """
    return min(max(round(200 * default_batch_size(num_photos) / num_photos), 4), 8)


def default_batch_size(num_photos: int) -> int:
    """Photos a step."""
    return 16 if num_photos < FEW_PHOTOS else 32


def batch_size_and_rate(settings: "UnfreezeFinetune", num_photos: int) -> tuple[int, float]:
    """Photos a step, and the peak of the learning rate: as set, or by the number of training photos."""
    batch_size, rate = settings.batch_size, settings.learning_rate
    default_rate = 1e-3 if num_photos < FEW_PHOTOS else 5e-4
    return default_batch_size(num_photos) if batch_size == "auto" else batch_size, default_rate if rate == "auto" else rate


def default_copies(num_photos: int) -> int:
    """How many copies of each photo to compute activations of, augmented or not: about 32,000 in all, but 2 to 8 of each."""
    return min(max(round(32_000 / num_photos), 2), 8)


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
