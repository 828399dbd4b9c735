"""Faults of training explained in one message: the step at which it stopped, and which setting to change.

    with explain_faults(settings, workers, where=lambda: "step 12 of epoch 1"):
        ...                                  # decoding, steps, validation, saving
        check_loss(losses, num_classes=2)    # after each step

Memory that runs out, on a GPU or not, a decoding process that the system killed, and a full disk become `PipelineError`s.
"""

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


def check_loss(losses: Sequence[float], *, num_classes: int, learning_rate: float) -> None:
    """Stop a training whose loss is no longer finite, or has exploded.

    Args:
        losses: of every step so far, in nats a photo.
        num_classes: guessing among so many costs log(num_classes).
        learning_rate: of the last step, for the message.

    Raises:
        PipelineError: the last loss is NaN or infinite, or the mean of the last `WINDOW` is `EXPLODED` times that of guessing.
    """
    step, recent = len(losses), losses[-WINDOW:]
    if not math.isfinite(losses[-1]):
        what = f"is {losses[-1]}"
    elif len(recent) == WINDOW and sum(recent) / WINDOW > EXPLODED * math.log(num_classes):
        what = f"has exploded: {sum(recent) / WINDOW:.3g} over the last {WINDOW} steps, where guessing gives"
        what += f" {math.log(num_classes):.3g},"
    else:
        return
    raise PipelineError(
        f"The training loss {what} at step {step} (learning rate {learning_rate:.2g}). Lower unfreeze_finetune.learning_rate, "
        "or raise warmup_fraction; `python -m pipeline lr-find` shows which rates it bears. outputs/frozen is untouched."
    )


@contextmanager
def explain_faults(settings: UnfreezeFinetune, workers: int, *, where: Callable[[], str]) -> Iterator[None]:
    """Turn what a person can put right into one message.

    Args:
        settings: named in what to change.
        workers: processes that decode.
        where: gives the step that is running.

    Raises:
        PipelineError: memory or the disk is full, or a decoding process was killed.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise PipelineError(_no_memory("The GPU's memory", where(), settings)) from None
    except MemoryError:
        raise PipelineError(_no_memory("The memory", where(), settings)) from None
    except OSError as error:
        raise _of_system(error, where(), settings, workers) from None
    except Exception as error:  # what torch and ONNX Runtime raise for want of memory has no type of its own
        if isinstance(error, RuntimeError) and WORKER_DIED.search(str(error)):
            raise PipelineError(_worker_died(error, where(), workers)) from None
        if isinstance(error, PipelineError) or not OUT_OF_MEMORY.search(str(error)):
            raise
        raise PipelineError(_no_memory("The memory", where(), settings)) from None


def _no_memory(which: str, where: str, settings: UnfreezeFinetune) -> str:
    return (
        f"{which} ran out at {where}. Lower unfreeze_finetune.batch_size, now {settings.batch_size}, or unfrozen_blocks, now "
        f"{settings.unfrozen_blocks}, take a smaller backbone, or end other programs that use it. {UNTOUCHED}"
    )


def _worker_died(error: RuntimeError, where: str, workers: int) -> str:
    shared = "its /dev/shm is full" if "Bus error" in str(error) else "the system does that when memory runs out"
    return (
        f"A process that decodes photos was killed at {where}; {shared}. Lower runtime.workers, now {workers} (0 decodes in "
        f"the training process itself), or unfreeze_finetune.batch_size. {UNTOUCHED}"
    )


def _of_system(error: OSError, where: str, settings: UnfreezeFinetune, workers: int) -> Exception:
    """A full disk names the step; a process that cannot be started for want of memory has its message; the rest stays."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return PipelineError(f"At {where}: {cannot_write(Path(error.filename or Path.cwd()), error)} {UNTOUCHED}")
    if error.errno == errno.ENOMEM:
        advice = f"Lower runtime.workers, now {workers}, or unfreeze_finetune.batch_size, now {settings.batch_size}."
        return PipelineError(f"The memory ran out at {where}. {advice} {UNTOUCHED}")
    return error
