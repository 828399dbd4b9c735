"""Paths that do something bad when a worker opens them: a module of its own, because workers have to import it."""

import ctypes
import os
import signal
import time
from pathlib import Path


class DeadlyPath(type(Path())):  # type: ignore[misc]
    """Kills the process that opens it."""

    def __fspath__(self) -> str:
        os.kill(os.getpid(), signal.SIGKILL)


class FaultyPath(type(Path())):  # type: ignore[misc]
    """Has the process that opens it read where it has no memory, as a decoder with a fault does."""

    def __fspath__(self) -> str:
        ctypes.string_at(0)


class EndlessPath(type(Path())):  # type: ignore[misc]
    """Is never done opening."""

    def __fspath__(self) -> str:
        time.sleep(300)
        raise AssertionError("nobody stopped it")


class HungryPath(type(Path())):  # type: ignore[misc]
    """Needs more memory than there is."""

    def __fspath__(self) -> str:
        raise MemoryError
