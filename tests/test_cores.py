"""One answer to how many processes work: the cores that this process may use."""

import os
import subprocess
import sys

import pytest

from pipeline.cores import usable_cores, worker_count
from tests.clones import ROOT


def test_a_number_is_taken_as_it_is_and_processes_that_train_together_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = usable_cores()
    assert [worker_count(setting) for setting in (0, 7, "auto")] == [0, 7, alone]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert [worker_count(setting) for setting in (0, 7, "auto")] == [0, 7, max(1, alone // 2)]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to cores")
def test_cores_that_are_kept_from_this_process_do_not_count() -> None:
    code = (
        "import os, sys; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from pipeline.cores import usable_cores\n"
        "print(usable_cores(), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "False"]
