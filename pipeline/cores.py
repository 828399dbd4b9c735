"""How many processes and threads work at once: the one place where `auto` becomes a number. Imports nothing heavy.

worker_count("auto")  # one a core that this process may use
worker_count(4)
"""

import os


def usable_cores() -> int:
    """The cores that this process may use, which in a container or under `taskset` are fewer than the machine has.

    Processes that train one model together on one machine, of which torchrun sets the number, have their even share.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def worker_count(setting: int | str) -> int:
    """What `runtime.workers` or `runtime.threads` comes to: a core each for "auto", else the number itself."""
    return usable_cores() if setting == "auto" else int(setting)
