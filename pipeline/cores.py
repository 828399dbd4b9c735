"""How many processes and threads work at once, the one place where `auto` becomes a number, and how threads work ahead.

Imports nothing heavy.
"""

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


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


def ahead(
    function: Callable[[S], T], items: Iterable[S], threads: int, most: int, initializer: Callable[[], None] | None = None
) -> Iterator[T]:
    """What a function gives of each item, in order, by threads; so many items are begun before one's result is waited for."""
    pool = ThreadPoolExecutor(threads, "decoding", initializer)
    under_way: deque[Future[T]] = deque()
    try:
        for item in items:
            under_way.append(pool.submit(function, item))
            if len(under_way) > most:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:  # also where the caller takes no more of them
        pool.shutdown(cancel_futures=True)
