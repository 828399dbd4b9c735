"""Where and how the work runs: device, threads, worker processes, and what makes it repeat bit for bit.

runtime = resolve_runtime(params.runtime)
runtime.device, runtime.workers, runtime.bfloat16
"""

import ctypes
import os
import platform
from dataclasses import dataclass

import torch

from pipeline.cores import usable_cores, worker_count
from pipeline.errors import PipelineError
from pipeline.params import Runtime


@dataclass(frozen=True)
class ResolvedRuntime:
    """`bfloat16` says whether training computes in it; the other fields are what `auto` came to."""

    device: torch.device
    workers: int
    threads: int
    bfloat16: bool
    seconds_between_saves: float


def resolve_runtime(runtime: Runtime) -> ResolvedRuntime:
    """Settle what `auto` means on this machine, and set torch up so that the same inputs give the same bits.

    Raises:
        PipelineError: the device that was asked for is not here.
    """
    device = resolve_device(runtime.device)
    _keep_freed_memory()
    threads = usable_cores() if runtime.threads == "auto" else runtime.threads
    torch.set_num_threads(threads)
    if device.type == "cuda":
        # cuBLAS repeats only with a fixed workspace: https://docs.pytorch.org/docs/stable/notes/randomness.html
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    # A debugging aid that comes with it and costs a write of every new tensor.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    workers = worker_count(runtime.workers)
    return ResolvedRuntime(device, workers, threads, _has_bfloat16(device), runtime.seconds_between_saves)


def _keep_freed_memory() -> None:
    """Let the C library keep large freed blocks instead of handing each back to the kernel.

    A training step on a processor allocates and frees the same hundreds of megabytes of activations over and over. By default
    glibc maps each block anew, and the kernel zeroes every page of it again: up to three quarters of a step's time. The
    numbers are glibc's names for its settings (man 3 mallopt); other C libraries do not need this.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(mmap_threshold, 2**30)
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(top_pad, 2**28)


def resolve_device(wanted: str) -> torch.device:
    """The device of a setting: auto, cpu, cuda, cuda:1, mps ...

    Raises:
        PipelineError: it is not here.
    """
    if wanted == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        torch.empty(1, device=wanted)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise PipelineError(
            f"runtime.device = {wanted}: this machine has no such device ({reason}). Set it to auto or cpu."
        ) from None
    return torch.device(wanted)


def _has_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies in bfloat16, read from its flags: a choice by timing would not repeat."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    flags = torch.cpu.get_capabilities()
    return bool(flags.get("avx512_bf16") or flags.get("amx_bf16"))
