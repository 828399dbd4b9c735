"""What this machine has and whether it works, on one screen, for bug reports."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import huggingface_hub
import psutil
import requests
import timm
import torch
import urllib3

from pipeline.checkpoint import library_versions
from pipeline.cores import cpu_quota, usable_cores
from pipeline.errors import PipelineError
from pipeline.models.backends import build_backend
from pipeline.progress import say
from pipeline.runtime import has_bfloat16, machine_name, resolve_device

FLAGS = ("avx2", "avx512_f", "avx512_bf16", "amx_tile", "amx_bf16", "sve", "bf16")  # as torch names them
PROJECT, HUB_TIMEOUT, WIDTH = "cats-and-dogs-transfer", 3.0, 100  # seconds, columns
OF_DVC = ("DVC version", "Cache types", "Cache directory")


def show() -> int:
    """Print what there is; the exit status is 1 where what every run needs does not work: torch, OpenVINO or DVC."""
    broken = []
    for name, found, works in _findings():
        say(textwrap.fill(found or "nothing", WIDTH, initial_indent=f"{name:13} ", subsequent_indent=" " * 14))
        broken += [] if works else [name]
    if broken:
        say(f"broken: {', '.join(broken)}")
    return 1 if broken else 0


def _findings() -> Iterator[tuple[str, str, bool]]:
    """A name, what was found, and False where a run cannot do without it."""
    _, commit = _run("git", "describe", "--always", "--dirty", "--abbrev=12")
    yield "project", f"{PROJECT} {importlib.metadata.version(PROJECT)}, commit {commit}", True
    yield "versions", ", ".join(f"{name} {found}" for name, found in library_versions().items()), True
    cores, quota, cpu, has = usable_cores(), cpu_quota(), torch.device("cpu"), torch.cpu.get_capabilities()
    yield "processor", f"{machine_name(cpu, cores)}; {', '.join(flag for flag in FLAGS if has.get(flag)) or 'no flags'}", True
    yield "cores", f"{cores} usable of {os.cpu_count()}; {f'a quota of {quota:g}' if quota < 1e9 else 'no quota'}", True
    device = resolve_device("auto")
    gpu = device.type if device != cpu else "none that computes" if torch.accelerator.is_available() else "none"
    if gpu == "cuda":
        room = torch.cuda.get_device_properties(device).total_memory / 1e9
        gpu = f"{torch.cuda.get_device_name(device)}, {room:.0f} GB, bfloat16: {has_bfloat16(device)}"
    yield "GPU", gpu, True
    memory, disk = psutil.virtual_memory(), shutil.disk_usage(".")
    yield "memory", f"{memory.available / 1e9:,.1f} of {memory.total / 1e9:,.1f} GB free", True
    yield "disk", f"{disk.free / 1e9:,.1f} of {disk.total / 1e9:,.1f} GB free", True
    network = timm.create_model("test_resnet", num_classes=3).eval().requires_grad_(False)
    images = torch.rand(4, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    backends = {"auto": device} if device != cpu else {}
    for name, where in {"openvino": cpu, "torch": cpu, **backends}.items():
        try:
            backend = build_backend(network, images, choice=name, device=where, threads=cores)
            found, works = f"agrees with eager torch (relative RMS error {backend.relative_rms_error:.1e})", True
        except (PipelineError, RuntimeError) as error:  # torch raises the latter, of a GPU whose memory is full
            found, works = str(error).partition("\n")[0], False
            found = found.removesuffix(" Set train_frozen_backbone.backend to auto or to another backend.")
        yield name if where == cpu else str(where), found, works
    hub = huggingface_hub.constants.ENDPOINT
    try:
        requests.head(hub, timeout=HUB_TIMEOUT).raise_for_status()
        found = "answers"
    except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:  # the others: mistyped
        found = f"cannot be reached ({type(error).__name__}), which only downloads and uploads need"
    yield "hub", f"{hub} {found}", True
    works, told = _run(sys.executable, "-m", "dvc", "doctor")
    lines = [line for line in told.splitlines() if line.startswith(OF_DVC)] if works else [told]
    yield "DVC", "; ".join(lines).replace("<https://error.dvc.org/no-dvc-cache>", "not known before the first run"), works


def _run(*command: str) -> tuple[bool, str]:
    """Whether it is installed and ended well, and what it said."""
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        return False, str(error)
    return done.returncode == 0, (done.stdout if done.returncode == 0 else done.stderr).strip()
