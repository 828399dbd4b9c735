"""Worker processes that decode photos: a file that crashes, hangs or starves its worker costs one row, and is named.

A worker takes its files in turn, so it is known which file it died of.
"""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext

from pipeline.preprocess.photo import Row, Task, examine, refused_row

FILES_AHEAD = 32  # of each worker, so that none waits for the main process
SECONDS_PER_PHOTO = 60.0  # far more than `MAX_PIXELS` need; a decoder that is not done by then is in a loop


def examine_all(tasks: Sequence[Task], workers: int, seconds: float = SECONDS_PER_PHOTO) -> Iterator[Row]:
    """Examine every file with `workers` processes; yields rows in no particular order.

    A file whose worker dies, runs out of memory or takes more than `seconds` is examined again after all others, alone, since
    others may have taken the memory that it needs. If it fails again, it is refused.

    Raises:
        OSError: a stored photo cannot be written.
    """
    context, failed = _fork_server(), []
    for task, outcome in _outcomes(tasks, workers, seconds, context):
        if isinstance(outcome, str):
            failed.append(task)
        else:
            yield outcome
    for task, outcome in _outcomes(failed, 1, seconds, context):
        yield refused_row(task, outcome) if isinstance(outcome, str) else outcome


def _outcomes(
    tasks: Sequence[Task], workers: int, seconds: float, context: ForkServerContext
) -> Iterator[tuple[Task, Row | str]]:
    """Each task with its row, or with the reason why there is none."""
    waiting = deque(tasks)
    busy = [_Worker(context, seconds) for _ in range(min(workers, len(tasks)))]
    try:
        while busy:
            for worker in busy:
                worker.take_from(waiting)
            busy = [worker for worker in busy if worker.tasks]
            ready = wait([worker.connection for worker in busy]) if busy else []
            for worker in [worker for worker in busy if worker.connection in ready]:
                yield worker.outcome(waiting)
    finally:  # also where the work is given up, as by Ctrl-C
        for worker in busy:
            worker.process.kill()


class _Worker:
    """A process that examines files in turn; where it dies, another takes its place."""

    def __init__(self, context: ForkServerContext, seconds: float) -> None:
        self._context, self._seconds = context, seconds
        self._start()

    def _start(self) -> None:
        self.tasks: deque[Task] = deque()  # given to the process: it is at work on the first
        self.connection, theirs = self._context.Pipe()
        self.process = self._context.Process(target=_work, args=(theirs, self._seconds), daemon=True)
        self.process.start()
        theirs.close()

    def take_from(self, waiting: deque[Task]) -> None:
        """Give the process further files before it runs out of them."""
        while waiting and len(self.tasks) < FILES_AHEAD:
            self.tasks.append(waiting.popleft())
            with suppress(BrokenPipeError, ConnectionResetError):  # it has died: so `outcome` says
                self.connection.send(self.tasks[-1])

    def outcome(self, waiting: deque[Task]) -> tuple[Task, Row | str]:
        """The first file and its row, or the reason why there is none; files behind one that killed the process wait again."""
        task = self.tasks.popleft()
        try:
            outcome = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            late = self.process.exitcode == -signal.SIGALRM
            waiting.extendleft(reversed(self.tasks))
            self._start()
            return task, f"took longer than {self._seconds:g} s to decode" if late else "crashed the decoder"
        if isinstance(outcome, OSError):
            raise outcome
        return task, outcome


def _fork_server() -> ForkServerContext:
    """Fork workers from a server that has imported this module, that has no threads, and that does not hear Ctrl-C."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    resource_tracker.ensure_running()  # first, because it unblocks the signal again
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # processes inherit that; Ctrl-C is for the main process alone
    forkserver.ensure_running()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    return context


def _work(connection: Connection, seconds: float) -> None:
    """Examine files until the main process is gone: then `recv` raises EOFError."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff prints what is wrong with a file
    while True:
        task = connection.recv()
        signal.setitimer(signal.ITIMER_REAL, seconds)  # the alarm ends the process: nothing gentler stops a decoder in C
        try:
            outcome: Row | str | OSError = examine(task)
        except MemoryError:
            outcome = "not enough memory to decode"
        except OSError as error:
            outcome = error
        signal.setitimer(signal.ITIMER_REAL, 0)
        connection.send(outcome)
