"""Several processes that train one model together: started here on one machine, or there already from torchrun.

    launch(["-m", "pipeline", "unfreeze-finetune"], processes=2)    # in the process that a person or DVC started
    with distributed_process():                                     # in each of those that it started
        run(params)

It is torchrun's own backend that starts and watches them (torch.distributed.elastic), so a process finds the same variables
(RANK, WORLD_SIZE, MASTER_ADDR, ...) whether it was started here, by torchrun, or by `accelerate launch`.
"""

import json
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.files import write_atomically

LAUNCHER = "PIPELINE_LAUNCHER"  # variable that holds its process id; under torchrun the parent is the launcher
SECONDS_BETWEEN_LOOKS = 0.5


def is_distributed() -> bool:
    """Whether torchrun, or something like it, started this process beside others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def launch(arguments: list[str], processes: int) -> None:
    """Run `python ARGUMENTS` in several processes until all have ended well; where one does not, the others are ended.

    A PipelineError has what the first process that failed had to say, or what it died of. A signal to end is a SystemExit.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ[LAUNCHER] = str(os.getpid())
    logging.disable(logging.CRITICAL)  # what went wrong is printed once, by whoever catches the error
    with tempfile.TemporaryDirectory() as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            signals_to_handle="SIGTERM,SIGHUP,SIGQUIT",  # Ctrl-C is a KeyboardInterrupt, as in one process
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        try:
            elastic_launch(config, sys.executable)(*arguments)
        except ChildFailedError as error:
            rank, failure = min(error.failures.items(), key=_in_turn)
            if os.path.isfile(failure.error_file):
                raise PipelineError(failure.message) from None
            ended = f"was killed by {failure.signal_name()}" if failure.exitcode < 0 else f"ended with {failure.exitcode}"
            raise PipelineError(
                f"Of the {processes} processes that train together the one of rank {rank} {ended}; the others have been "
                "ended. What it said, if anything, stands above. The same command goes on from what was last saved."
            ) from None
        except SignalException as error:
            raise SystemExit(128 + error.sigval) from None


def _in_turn(failed: tuple[int, Any]) -> tuple[int, float]:
    """The cause first: where one process dies, the others lose a connection and say so, or the launcher ends them (SIGTERM)."""
    failure = failed[1]
    if os.path.isfile(failure.error_file):
        return 1, failure.error_file_data["timestamp"]
    return (2 if failure.exitcode == -signal.SIGTERM else 0), 0


@contextmanager
def distributed_process() -> Iterator[None]:
    """How a process behaves that others run beside: it ends with its launcher, and the first one alone prints.

    What ends it is left to `reported_to_launcher`, not printed: the launcher tells the cause alone, not its echoes in others.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the launcher alone says that it was stopped
    threading.Thread(target=_end_with, args=(int(os.environ.get(LAUNCHER, os.getppid())),), daemon=True).start()
    if os.environ["RANK"] != "0":
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    yield
    from accelerate import PartialState

    PartialState().destroy_process_group()


def reported_to_launcher(message: str) -> bool:
    """Leave the reason of a failure where the launcher, if there is one, looks for it; torchrun prints it too."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file:
        # Whole or not at all: the launcher may end this process, an echo of another's death, while it writes.
        write_atomically(Path(file), json.dumps({"message": message, "timestamp": time.time()}).encode())
    return bool(file)


def _end_with(launcher: int) -> None:
    """End this process, and those that it started, when the launcher is no more; a SIGKILL leaves it no time to say so."""
    while os.getppid() == launcher:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)
