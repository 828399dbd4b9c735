"""Where worker processes come from: a fork server that does not hear Ctrl-C.

    context = fork_server(preload=__name__)
    pool = ProcessPoolExecutor(workers, mp_context=context)

A fork of this process may hang, as its threads (progress bar, BLAS) are left in the middle of something; a fresh interpreter
for each worker imports everything again. A fork server imports once and has no threads. Ctrl-C reaches every process of a
terminal's job: the main process alone shall act on it, so the server and all its children are born deaf to it.
"""

import multiprocessing
import signal
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext


def fork_server(preload: str) -> ForkServerContext:
    """Start the server if it does not run yet, with the module `preload` imported, and give the context that forks from it.

    It returns when the server works: a main process that is stopped before would leave children that complain of it.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload])
    resource_tracker.ensure_running()  # first, because where it has yet to start it unblocks the signal again
    # Blocked, not ignored: what is born here inherits that, and a Ctrl-C of this very moment waits and is not lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
        first = context.Process(target=_nothing)
        first.start()
        first.join()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    return context


def _nothing() -> None:
    """What the server's first child does."""
