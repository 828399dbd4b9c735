"""What a run was made on: results repeat bit for bit on the same processor with the same threads and versions, no further.

machine_name(torch.device("cpu"), threads=2)      # 'AMD EPYC 9R14, 2 threads'
"""

import platform
import subprocess
from pathlib import Path

import torch

CPU_INFO = Path("/proc/cpuinfo")


def machine_name(device: torch.device, threads: int) -> str:
    """The processor's model and the threads that compute, and the accelerator where one does."""
    name = f"{_processor()}, {threads} thread{'s' if threads != 1 else ''}"
    return f"{name}, {torch.cuda.get_device_name(device)}" if device.type == "cuda" else name


def source_revision() -> str | None:
    """The Git commit of the present folder, marked where files differ from it; None outside of Git."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=, with changes"],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None


def _processor() -> str:
    if CPU_INFO.is_file():
        for line in CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    return platform.processor() or platform.machine()
