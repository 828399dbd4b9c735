"""Worker processes that examine photos and may die of one: a file that kills or hangs its worker costs one row.

Files go to a process pool in chunks. Where a worker dies, all files that were on their way are examined again, one at
a time in a process apart; the file that this process dies of is the culprit.
"""

import ctypes
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext

from pipeline.preprocess.fork_server import fork_server
from pipeline.preprocess.photo import Row, Task, blank_row, examine

PHOTOS_PER_CHUNK = 32
CHUNKS_IN_FLIGHT = 2  # a worker: one that it works on and one that waits, so that memory stays flat and nobody idles
# Of glibc's mallopt: blocks up to 32 MB come from the heap, of which up to 64 MB that are free are kept.
MALLOC_SETTINGS = {"M_MMAP_THRESHOLD": (-3, 32 * 2**20), "M_TRIM_THRESHOLD": (-1, 64 * 2**20)}
SECONDS_PER_PHOTO = 60.0  # far more than 100 megapixels need; a decoder that is not done by then is in a loop


def examine_all(tasks: Iterable[Task], workers: int) -> Iterator[list[Row]]:
    """Examine every task with `workers` processes; yields finished rows in chunks, in no particular order.

    Tasks are taken as they are needed, so an iterator that makes them costs no memory.

    Raises:
        OSError: a stored photo cannot be written.
    """
    context = fork_server(preload=__name__)
    chunks = _chunks(tasks)
    while unfinished := (yield from _examine_in_pool(chunks, workers, context)):
        yield from _examine_one_by_one(unfinished, context)


def _chunks(tasks: Iterable[Task]) -> Iterator[list[Task]]:
    remaining = iter(tasks)
    while chunk := list(islice(remaining, PHOTOS_PER_CHUNK)):
        yield chunk


def _examine_in_pool(
    chunks: Iterator[list[Task]], workers: int, context: ForkServerContext
) -> Generator[list[Row], None, list[Task]]:
    """Work off `chunks`; stops early where a worker dies, and returns the tasks that were then on their way."""
    pending: dict[Future[list[Row]], list[Task]] = {}
    unfinished: list[Task] = []
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    try:
        while True:
            while not unfinished and len(pending) < CHUNKS_IN_FLIGHT * workers and (chunk := next(chunks, None)):
                try:
                    pending[pool.submit(_examine_chunk, chunk)] = chunk
                except BrokenProcessPool:
                    unfinished += chunk
            if not pending:
                return unfinished
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                chunk = pending.pop(future)
                try:
                    rows = future.result()
                except (BrokenProcessPool, MemoryError):
                    unfinished += chunk
                else:
                    yield rows
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Do not outlive the main process, and keep quiet: libtiff prints what is wrong with a file."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    _keep_freed_memory()
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _keep_freed_memory() -> None:
    """Use the memory of one photo for the next: giving it back and taking it anew costs up to a fifth of the time."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc alone has it
        for parameter, value in MALLOC_SETTINGS.values():
            libc.mallopt(parameter, value)


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _examine_chunk(tasks: list[Task]) -> list[Row]:
    return [_examine_in_time(task) for task in tasks]


def _examine_in_time(task: Task) -> Row:
    """Examine one file; the alarm ends the process, because nothing gentler stops a decoder written in C."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, SECONDS_PER_PHOTO)
    try:
        return examine(task)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _examine_one_by_one(tasks: Sequence[Task], context: ForkServerContext) -> Iterator[list[Row]]:
    """Examine files in a process apart, a fresh one after each death; the file it died of is refused with the cause."""
    remaining = deque(tasks)
    while remaining:
        ours, theirs = context.Pipe()
        process = context.Process(target=_answer, args=(theirs,))
        process.start()
        theirs.close()
        with ours:
            yield from _ask(ours, remaining)
        process.join()
        if remaining:
            yield [blank_row(remaining.popleft(), _cause_of_death(process.exitcode))]


def _ask(connection: Connection, remaining: deque[Task]) -> Iterator[list[Row]]:
    """Let the other process examine the remaining tasks in turn; stops where it dies of the first that then remains."""
    while remaining:
        try:
            connection.send(remaining[0])
            answer = connection.recv()
        except (EOFError, ConnectionError):
            return
        if isinstance(answer, OSError):
            raise answer
        remaining.popleft()
        yield [answer]


def _answer(connection: Connection) -> None:
    """Examine every task that comes, until the other side hangs up."""
    _start_worker()
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        try:
            answer: Row | OSError = _examine_in_time(task)
        except MemoryError:
            answer = blank_row(task, "not enough memory to decode")
        except OSError as error:
            answer = error
        connection.send(answer)


def _cause_of_death(exit_code: int | None) -> str:
    if exit_code == -signal.SIGALRM:
        return f"took longer than {SECONDS_PER_PHOTO:.0f} s to decode"
    if exit_code is not None and exit_code < 0:
        return f"crashed the decoder: {signal.Signals(-exit_code).name}"
    return f"crashed the decoder: exit status {exit_code}"
