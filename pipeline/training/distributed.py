"""What processes that train one model together tell each other, by Accelerate's collectives over torch.distributed.

    answer = broadcast(runtime, compute)        # computed once, the same in every process
    outputs = gather(runtime, own)            # what the processes made of batches that they took in turns, in order
    loss = mean_loss_and_gradients(runtime, loss, parameters, weight=share)

Every process must make the same calls in the same order. With one process each is a plain function that changes no bit.

Gradients are summed here, in one piece, rather than by DistributedDataParallel (Li et al., PyTorch Distributed, VLDB 2020). DDP
takes the mean over processes, wrong where the last batch is shared unevenly, and sums in buckets that it rearranges after the
first step: with three processes or more a run that starts again then rounds otherwise than one that was never stopped. It hides
the transfer behind the backward pass in return, which counts between machines and hardly within one.
"""

from collections.abc import Callable, Iterable
from itertools import zip_longest
from typing import TypeVar

import torch
from accelerate.utils import broadcast_object_list, gather_object, reduce
from torch import Tensor, nn

from pipeline.runtime import ResolvedRuntime

T = TypeVar("T")


def broadcast(runtime: ResolvedRuntime, compute: Callable[[], T]) -> T:
    """What `compute` gives in the main process, where alone it is called.

    For what is read from a disk, or would decide when to stop: processors that differ may round the same sum differently.
    """
    if runtime.processes == 1:
        return compute()
    [answer] = broadcast_object_list([compute() if runtime.is_main else None])
    return answer


def gather(runtime: ResolvedRuntime, own: list[T]) -> list[T]:
    """All processes' lists as one: the first of each process in the order of ranks, then the second of each, and so on."""
    if runtime.processes == 1:
        return own
    turns = zip_longest(*gather_object([own]))
    return [item for turn in turns for item in turn if item is not None]


def mean_loss_and_gradients(
    runtime: ResolvedRuntime, loss: Tensor, parameters: Iterable[nn.Parameter], *, weight: float
) -> float:
    """The loss of the whole batch; the parameters' gradients become those of it, the same in every process.

    Args:
        runtime: of this process.
        loss: the mean over this process's share of the batch, () on the device; its gradients are in `parameters`.
        parameters: in the same order in every process.
        weight: how much of the batch that share is; the processes' weights sum to 1.
    """
    if runtime.processes == 1:
        return loss.item()
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([loss.detach().view(1), *(gradient.flatten() for gradient in gradients)])
    # A process without a share may hold what is not finite and counts for nothing.
    summed: Tensor = reduce(flat * weight if weight else torch.zeros_like(flat), reduction="sum")
    value, *pieces = summed.split([1, *(gradient.numel() for gradient in gradients)])
    for gradient, piece in zip(gradients, pieces, strict=True):
        gradient.copy_(piece.view(gradient.shape))
    return value.item()
