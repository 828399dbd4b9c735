"""Where and how the work runs: device, precision, processes, threads, workers, and what makes it repeat bit for bit."""

import ctypes
import hashlib
import json
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Literal, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list, gather_object

from pipeline.cores import worker_count
from pipeline.errors import PipelineError
from pipeline.params import Runtime

CPU_INFO = Path("/proc/cpuinfo")
T = TypeVar("T")


@dataclass(frozen=True)
class ResolvedRuntime:
    """What `auto` came to on this machine; `mixed_precision` is that of training, as Accelerate names it."""

    device: torch.device
    workers: int
    threads: int
    mixed_precision: Literal["no", "bf16", "fp16"]
    seconds_between_saves: float
    processes: int = 1  # that train one model together, on all machines
    rank: int = 0  # of this one among them

    @property
    def pinned(self) -> bool:
        """Whether batches are loaded into memory that the device reads by itself."""
        return self.device.type == "cuda"

    @property
    def is_main(self) -> bool:
        """Whether this is the one process that writes files."""
        return self.rank == 0

    def accelerator(self) -> Accelerator:
        """What wraps a model in DistributedDataParallel and autocast, scales float16's gradients and clips them."""
        return Accelerator(cpu=self.device.type == "cpu", mixed_precision=self.mixed_precision, device_placement=False)


def broadcast(runtime: ResolvedRuntime, compute: Callable[[], T]) -> T:
    """What `compute` gives in the main process, where alone it is called; every process must ask in the same order.

    For what is read from a disk, or decides when to stop: processors that differ may round the same sum differently.
    """
    if runtime.processes == 1:
        return compute()
    [answer] = broadcast_object_list([compute() if runtime.is_main else None])
    return answer


def gather(runtime: ResolvedRuntime, own: list[T]) -> list[T]:
    """All processes' lists as one: the first of each process in the order of ranks, then the second of each, and so on."""
    if runtime.processes == 1:
        return own
    return [item for turn in zip_longest(*gather_object([own])) for item in turn if item is not None]


def resolve_runtime(runtime: Runtime) -> ResolvedRuntime:
    """Settle what `auto` means on this machine, and set torch up so that the same inputs give the same bits.

    Started as one of several processes, this one joins the others and waits until they are all there. A PipelineError says that
    the device that was asked for is not here, or not once for each process.
    """
    device = resolve_device(runtime.device)
    _keep_freed_memory()
    threads = worker_count(runtime.threads)
    processes, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if processes > 1:
        device = _join(device, threads)
    torch.set_num_threads(threads)
    if device.type == "cuda":
        # cuBLAS repeats only with a fixed workspace: https://docs.pytorch.org/docs/stable/notes/randomness.html
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    # A debugging aid that comes with it and costs a write of every new tensor.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    workers, precision = worker_count(runtime.workers), mixed_precision(device)
    return ResolvedRuntime(device, workers, threads, precision, runtime.seconds_between_saves, processes, rank)


def _join(device: torch.device, threads: int) -> torch.device:
    """Make this process one of the group that torchrun's variables describe; returns the device that is its own."""
    here, devices = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.accelerator.device_count()
    if device.type != "cpu" and (device.index is not None or here > devices):
        raise PipelineError(
            f"{here} processes on this machine need a device each, and runtime.device = {device} with {devices} devices here "
            f"does not give them one. Set it to {device.type} without a number or to cpu, or start fewer processes."
        )
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # else Accelerate sets a number of its own, with a warning
    state = PartialState(cpu=device.type == "cpu")
    return device if device.type == "cpu" else state.device


def _keep_freed_memory() -> None:
    """Let the C library keep large freed blocks instead of handing each back to the kernel.

    By default glibc maps the hundreds of megabytes of a training step's activations anew each time, and the kernel zeroes
    every page: up to three quarters of a step. The numbers are glibc's names for its settings (man 3 mallopt).
    """
    if platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(mmap_threshold, 2**30) or mallopt(mmap_threshold, 2**25)  # older ones refuse more than that
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(top_pad, 2**28)


def resolve_device(wanted: str) -> torch.device:
    """The device of a setting: cpu, cuda, cuda:1, mps ..., or auto: an accelerator that computes, else the processor.

    A PipelineError tells that the one that was named is not here, or does not compute.
    """
    device = wanted
    if wanted == "auto":
        device = str(torch.accelerator.current_accelerator(check_available=True) or "cpu")
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # each process has its own, and one alone must not take the processor
            return torch.device(device)
    try:
        # A kernel: torch knows GPUs that it has none for, and the memory may be full.
        torch.zeros(1, device=device).add_(1).item()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        if wanted != "auto":
            told = f"this machine has no such device, or it does not compute ({reason})"
            raise PipelineError(f"device = {wanted}: {told}. Set it to auto or cpu.") from None
        print(f"{device} does not compute ({reason}): the processor is used", file=sys.stderr, flush=True)
        device = "cpu"
    return torch.device(device)


def mixed_precision(device: torch.device) -> Literal["no", "bf16", "fp16"]:
    """bfloat16 where the hardware multiplies in it, float16 on GPUs without it (T4, V100), else float32."""
    if has_bfloat16(device):
        return "bf16"
    return "fp16" if device.type == "cuda" else "no"


def has_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies in bfloat16, read from its flags: a choice by timing would not repeat."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    flags = torch.cpu.get_capabilities()
    return bool(flags.get("avx512_bf16") or flags.get("amx_bf16"))


def machine_name(device: torch.device, threads: int) -> str:
    """The processor's model and the threads that compute, and the accelerator where one does."""
    processor = " ".join(_cpu_info().get("model name", "").split()) or platform.processor() or platform.machine()
    name = f"{processor}, {threads} thread{'s' if threads != 1 else ''}"
    return f"{name}, {torch.cuda.get_device_name(device)}" if device.type == "cuda" else name


def processor_fingerprint() -> str:
    """SHA-256 of the processor's vendor, family, model, stepping and flags, which decide how sums are rounded.

    Hypervisors mask the name that `machine_name` gives; elsewhere than on Linux it is what `platform` knows.
    """
    known = {"processor": platform.processor(), "machine": platform.machine(), "system": platform.system()}
    if fields := _cpu_info():
        names = ["vendor_id", "cpu family", "model", "stepping", "flags"]
        names += ["CPU implementer", "CPU variant", "CPU part", "CPU revision", "Features"]  # what they are called on Arm
        known = {name: " ".join(sorted(fields.get(name, "").split())) for name in names}
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()


def hardware(runtime: ResolvedRuntime) -> list[str]:
    """All of the machine that decides how sums are rounded: part of the key of what is kept for a later run."""
    return [processor_fingerprint(), machine_name(runtime.device, runtime.threads)]


def _cpu_info() -> dict[str, str]:
    """What Linux tells of the first processor."""
    if not CPU_INFO.is_file():
        return {}
    first = CPU_INFO.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}
