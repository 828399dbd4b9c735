"""Worker processes that decode photos: a file that crashes, hangs or starves its worker costs one row, and is named."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext

from pipeline.preprocess.photo import Row, Task, examine, refused_row

PHOTOS_PER_CHUNK = 32
CHUNKS_IN_FLIGHT = 2  # a worker: one that it works on and one that waits, so that memory stays flat and nobody idles
SECONDS_PER_PHOTO = 60.0  # far more than `MAX_PIXELS` need; a decoder that is not done by then is in a loop


def examine_all(tasks: Sequence[Task], workers: int, seconds: float = SECONDS_PER_PHOTO) -> Iterator[list[Row]]:
    """Examine every file with `workers` processes; yields finished rows in chunks, in no particular order.

    Where a worker dies or runs out of memory, the files that were in flight are examined again, one at a time; the one
    that is at fault then is refused. A file may take `seconds`.

    Raises:
        OSError: a stored photo cannot be written.
    """
    context = _fork_server()
    chunks = iter([tasks[start : start + PHOTOS_PER_CHUNK] for start in range(0, len(tasks), PHOTOS_PER_CHUNK)])
    while in_flight := (yield from _examine_in_pool(chunks, workers, seconds, context)):
        yield from _examine_one_by_one(in_flight, seconds, context)


def _examine_in_pool(
    chunks: Iterator[Sequence[Task]], workers: int, seconds: float, context: ForkServerContext
) -> Generator[list[Row], None, list[Task]]:
    """Work off `chunks`; stops early where a worker dies, and returns the tasks that were in flight then."""
    pending: dict[Future[list[Row]], Sequence[Task]] = {}
    in_flight: list[Task] = []
    with _pool(workers, context) as pool:
        while True:
            while not in_flight and len(pending) < CHUNKS_IN_FLIGHT * workers and (chunk := next(chunks, None)):
                try:
                    pending[pool.submit(_examine_chunk, chunk, seconds)] = chunk
                except BrokenProcessPool:
                    in_flight += chunk
            if not pending:
                return in_flight
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                chunk = pending.pop(future)
                try:
                    yield future.result()
                except (BrokenProcessPool, MemoryError):
                    in_flight += chunk


def _examine_one_by_one(tasks: Sequence[Task], seconds: float, context: ForkServerContext) -> Iterator[list[Row]]:
    remaining = iter(tasks)
    broken = True
    while broken:
        broken = False
        with _pool(1, context) as pool:
            for task in remaining:
                started = time.monotonic()
                try:
                    yield pool.submit(_examine_chunk, [task], seconds).result()
                except MemoryError:
                    yield [refused_row(task, "not enough memory to decode")]
                except BrokenProcessPool:
                    late = time.monotonic() - started >= seconds
                    yield [refused_row(task, f"took longer than {seconds:g} s to decode" if late else "crashed the decoder")]
                    broken = True
                    break


@contextmanager
def _pool(workers: int, context: ForkServerContext) -> Iterator[ProcessPoolExecutor]:
    """A process pool whose workers are killed where the work is given up, as by Ctrl-C."""
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    try:
        yield pool
    except BaseException:
        for worker in set(multiprocessing.active_children()) - others:
            worker.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _fork_server() -> ForkServerContext:
    """Fork workers from a server that has imported this module, that has no threads, and that does not hear Ctrl-C."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    resource_tracker.ensure_running()  # first, because it unblocks the signal again
    # Processes inherit that a signal is blocked. Ctrl-C is for the main process alone, and waits until the server works.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
        first = context.Process(target=os.getpid)
        first.start()
        first.join()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    return context


def _start_worker() -> None:
    """Keep quiet (libtiff prints what is wrong with a file), and do not outlive the main process."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _examine_chunk(tasks: Sequence[Task], seconds: float) -> list[Row]:
    return [_examine_in_time(task, seconds) for task in tasks]


def _examine_in_time(task: Task, seconds: float) -> Row:
    """Examine one file; the alarm ends the process, because nothing gentler stops a decoder written in C."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return examine(task)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
