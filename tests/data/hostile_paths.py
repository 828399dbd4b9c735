"""Paths that do something bad when a worker opens them: a module of its own, because workers have to import it."""

import os
import signal
import time
from pathlib import Path


class DeadlyPath(type(Path())):  # type: ignore[misc]
    """Kills the process that opens it."""

    def open(self, *_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class EndlessPath(type(Path())):  # type: ignore[misc]
    """Is never done opening; an alarm that is set is brought forward."""

    def open(self, *_: object, **__: object) -> None:
        if signal.getitimer(signal.ITIMER_REAL)[0] > 0:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            time.sleep(60)


class HungryPath(type(Path())):  # type: ignore[misc]
    """Needs more memory than there is."""

    def open(self, *_: object, **__: object) -> None:
        raise MemoryError
