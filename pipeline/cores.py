"""How many processes and threads work at once: the one place where `auto` becomes a number. Imports nothing heavy."""

import math
import os
from contextlib import suppress
from pathlib import Path


def usable_cores() -> int:
    """The cores that this process may use, which in a container or under `taskset` are fewer than the machine has.

    Processes that train one model together on one machine, of which torchrun sets the number, have their even share.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = math.ceil(min(cores, cpu_quota()))
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def cpu_quota(own: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> float:
    """The least CPU quota of this process's control groups, in cores, such as that of `docker run --cpus 1.5`; else infinite.

    joblib knows it too, but takes a second to import, and looks at the topmost group alone.
    """
    quotas = [math.inf]
    for line in own.read_text().splitlines() if own.is_file() else []:
        _, controllers, group = line.split(":", 2)
        top = mount / "cpu" if "cpu" in controllers.split(",") else mount  # version 1, and version 2, which names none
        for folder in (top / part for part in (Path(group.lstrip("/")), *Path(group.lstrip("/")).parents)):
            with suppress(OSError, ValueError):  # there is none there, or it is "max"
                quota, period = map(int, (folder / "cpu.max").read_text().split())
                quotas.append(quota / period)
            with suppress(OSError, ValueError):
                quota, period = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
                quotas.append(quota / period if quota > 0 else math.inf)
    return min(quotas)


def worker_count(setting: int | str) -> int:
    """What `runtime.workers` or `runtime.threads` comes to: for "auto" one a core that this process may use."""
    return usable_cores() if setting == "auto" else int(setting)
