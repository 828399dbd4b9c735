"""Faults of training explained in one message: the step at which it stopped, and which setting to change."""

import errno
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from pipeline.errors import PipelineError
from pipeline.files import cannot_write
from pipeline.params import UnfreezeFinetune

WINDOW = 20  # steps whose mean loss is looked at: one odd batch is no explosion
# Guessing costs log(classes) a photo; only a network that is sure of the wrong class of most photos costs four times that.
EXPLODED = 4.0

OUT_OF_MEMORY = re.compile(
    r"can't allocate memory|not enough memory|out of memory|bad_alloc|bad allocation|failed to allocate memory", re.IGNORECASE
)
WORKER_DIED = re.compile(r"DataLoader worker.*(killed by signal|exited unexpectedly)", re.DOTALL)
UNTOUCHED = (
    "outputs/frozen is untouched, and what was trained so far is kept: with the same settings, the same command goes on there."
)


def check_loss(losses: Sequence[float], *, guessing: float, learning_rate: float) -> None:
    """Stop a training whose loss, in nats a photo and of every step so far, is no longer finite or has exploded.

    A PipelineError says that the last loss is NaN or infinite, or the mean of the last `WINDOW` is `EXPLODED` times that of
    guessing.
    """
    recent = sum(losses[-WINDOW:]) / WINDOW
    if not math.isfinite(losses[-1]):
        what = f"is {losses[-1]}"
    elif len(losses) >= WINDOW and recent > EXPLODED * guessing:
        what = f"has exploded: {recent:.3g} over the last {WINDOW} steps, where guessing gives {guessing:.3g},"
    else:
        return
    raise PipelineError(
        f"The training loss {what} at step {len(losses)} (learning rate {learning_rate:.2g}). Lower "
        "unfreeze_finetune.learning_rate, or raise warmup_fraction; `python -m pipeline lr-find` shows which rates it bears. "
        "outputs/frozen is untouched."
    )


@contextmanager
def explain_faults(settings: UnfreezeFinetune, workers: int, *, where: Callable[[], str]) -> Iterator[None]:
    """Turn a full memory or disk, or a decoding process that was killed, into one PipelineError; `where` gives the step."""
    try:
        yield
    except PipelineError:
        raise
    except Exception as error:
        message = _explanation(error, where(), settings, workers)
        if message is None:
            raise
        raise PipelineError(f"{message} {UNTOUCHED}") from None


def _explanation(error: Exception, where: str, settings: UnfreezeFinetune, workers: int) -> str | None:
    """What happened and what to change, or None for a defect."""
    text = str(error)
    if isinstance(error, RuntimeError) and WORKER_DIED.search(text):
        cause = "its /dev/shm is full" if "Bus error" in text else "the system does that when memory runs out"
        return (
            f"A process that decodes photos was killed at {where}; {cause}. Lower runtime.workers, now {workers} (0 decodes in "
            "the training process itself), or unfreeze_finetune.batch_size."
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"At {where}: {cannot_write(Path(error.filename or Path.cwd()), error)}"
    if isinstance(error, OSError) and error.errno != errno.ENOMEM:
        return None
    # What torch and ONNX Runtime raise for want of memory has no type of its own.
    if isinstance(error, MemoryError | OSError | torch.OutOfMemoryError) or OUT_OF_MEMORY.search(text):
        which = "The GPU's memory" if isinstance(error, torch.OutOfMemoryError) else "The memory"
        return (
            f"{which} ran out at {where}. Lower unfreeze_finetune.batch_size, now {settings.batch_size}, unfrozen_blocks, now "
            f"{settings.unfrozen_blocks}, or runtime.workers, now {workers}, take a smaller backbone, or end other programs."
        )
    return None
