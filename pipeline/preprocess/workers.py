"""Worker processes that decode photos: a file that crashes, hangs or starves its worker costs one row, and is named.

A worker takes its files in turn, so it is known which file it died of.
"""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess

from pipeline.preprocess.photo import Row, Task, examine, refused_row

FILES = 64  # at most, of one process: forking it takes milliseconds
SECONDS_PER_PHOTO = 60.0  # far more than `MAX_PIXELS` need; a decoder that is not done by then is in a loop


def examine_all(tasks: Sequence[Task], workers: int, seconds: float = SECONDS_PER_PHOTO) -> Iterator[Row]:
    """Examine every file with `workers` processes; yields rows in no particular order.

    A file whose worker dies, runs out of memory or takes more than `seconds` is examined again after all others, alone, since
    others may have taken the memory that it needs. If it fails again, it is refused. An OSError says that a stored photo cannot
    be written.
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
    size = max(min(len(tasks) // workers, FILES), 1)
    waiting = [deque(tasks[start : start + size]) for start in range(0, len(tasks), size)]
    busy: dict[Connection, tuple[ForkServerProcess, deque[Task]]] = {}
    try:
        while waiting or busy:
            while waiting and len(busy) < workers:
                files = waiting.pop()
                results, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_work, args=(theirs, list(files), seconds), daemon=True)
                process.start()
                theirs.close()
                busy[results] = process, files
            ready = wait(list(busy))
            for results in [connection for connection in busy if connection in ready]:
                process, files = busy[results]
                try:
                    outcome = results.recv()
                except EOFError:  # it is done, or has died of the first of the files that are left
                    del busy[results]
                    process.join()
                    if not files:
                        continue
                    late = process.exitcode == -signal.SIGALRM
                    outcome = f"took longer than {seconds:g} s to decode" if late else "crashed the decoder"
                    waiting.append(files)
                if isinstance(outcome, OSError):
                    raise outcome
                yield files.popleft(), outcome
    finally:  # also where the work is given up, as by Ctrl-C
        for process, _ in busy.values():
            process.kill()


def _fork_server() -> ForkServerContext:
    """Fork workers from a server that has imported this module, that has no threads, and that does not hear Ctrl-C."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    resource_tracker.ensure_running()  # first, because it unblocks the signal again
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # processes inherit that; Ctrl-C is for the main process alone
    forkserver.ensure_running()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    return context


def _work(results: Connection, tasks: Sequence[Task], seconds: float) -> None:
    """Examine files in turn; where the main process is gone, sending raises."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff prints what is wrong with a file
    for task in tasks:
        signal.setitimer(signal.ITIMER_REAL, seconds)  # the alarm ends the process: nothing gentler stops a decoder in C
        try:
            outcome: Row | str | OSError = examine(task)
        except MemoryError:
            outcome = "not enough memory to decode"
        except OSError as error:
            outcome = error
        signal.setitimer(signal.ITIMER_REAL, 0)
        results.send(outcome)
