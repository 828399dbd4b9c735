"""Several processes train one model: the same photos, the same result, one writer, and one end for all of them."""

import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from torch import Tensor

from pipeline.data.dataset import epoch_order, in_batches
from tests.clones import ROOT, run, wait_for
from tests.training import tiny, trains_together
from tests.training.trains_together import BATCH_SIZE, NUM_TRAIN

TOLERANCE = 1e-4  # of a tensor's largest element: sums of 22 photos that are rounded as two sums of 11


def test_every_batch_is_divided_whole(tmp_path: Path) -> None:
    photos = tiny.photos(tmp_path, NUM_TRAIN)
    photos = replace(photos, labels=torch.arange(NUM_TRAIN))  # so that a label names its photo
    trainer = tiny.Trainer(tiny.network("all"), photos, photos, tiny.settings(batch_size=BATCH_SIZE), 1.0)
    batches = in_batches(epoch_order(NUM_TRAIN, seed=0, epoch=1), BATCH_SIZE)
    for processes, rank, done in ((1, 0, 0), (2, 0, 0), (2, 1, 0), (3, 1, 1), (3, 2, 1)):
        trainer.runtime = replace(tiny.RUNTIME, rank=rank, processes=processes)
        trainer.photos_done = done * BATCH_SIZE
        found = [labels.tolist() for _, labels in trainer._batches(1)]
        assert found == [batch[rank::processes] or batch[:1] for batch in batches[done:]]


def launch_two(folder: Path, mode: str) -> subprocess.Popen[str]:
    """In a process apart, because `launch` takes over its process's logging, and in a session of its own, as in a terminal."""
    code = (
        "import sys\nfrom pipeline.errors import PipelineError\nfrom pipeline.launch import launch\n"
        f"try: launch(['-m', 'tests.training.trains_together', {str(folder)!r}, {mode!r}], processes=2)\n"
        "except PipelineError as error: sys.exit(f'error: {error}')\nexcept KeyboardInterrupt: sys.exit(130)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment
    )


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which two processes trained."""
    folder = tmp_path_factory.mktemp("together")
    tiny.photos(folder / "photos", NUM_TRAIN)
    running = launch_two(folder, "ends")
    _, errors = running.communicate(timeout=250)
    assert running.returncode == 0, errors
    assert "Traceback" not in errors
    return folder


def test_two_processes_end_where_one_ends(together: Path) -> None:
    alone = trains_together.train(together, "ends")
    ranks = [torch.load(together / f"rank{rank}.pt") for rank in range(2)]
    for blocks in ("all", "2"):
        expected, one, other = alone[blocks], ranks[0][blocks], ranks[1][blocks]
        assert one["losses"] == other["losses"] == pytest.approx(expected["losses"], rel=TOLERANCE)
        for name, weight in expected["weights"].items():
            assert torch.equal(one["weights"][name], other["weights"][name])
            largest = weight.double().abs().max()
            assert (one["weights"][name].double() - weight.double()).abs().max() <= TOLERANCE * largest, name
        moved = [name for name, tensor in one["before"].items() if not torch.equal(tensor, one["weights"][name])]
        assert moved == [
            name for name, tensor in expected["before"].items() if not torch.equal(tensor, expected["weights"][name])
        ]
        assert moved


def test_what_is_cached_was_computed_by_both_and_written_by_one(together: Path) -> None:
    ranks: list[Tensor] = [torch.load(together / f"rank{rank}.pt")["activations"] for rank in range(2)]
    runtime = replace(tiny.RUNTIME, threads=1)
    photos = tiny.photos(together / "photos", NUM_TRAIN).at(range(trains_together.NUM_VAL))
    expected = tiny.network(own=tiny.model(drop_path_rate=0.0), runtime=runtime).activations("val", photos).tensor()
    assert torch.equal(ranks[0], expected)
    assert torch.equal(ranks[1], expected)
    assert [len(list(key.iterdir())) for key in together.glob("2/cache/*")] == [1, 1, 1]


@pytest.mark.parametrize(
    ("mode", "ending", "status", "message"),
    [
        ("dies", None, 1, "error: Of the 2 processes that train together the one of rank 1 was killed by SIGKILL"),
        ("refuses", None, 1, "error: There is something wrong with this photo."),
        ("goes on", signal.SIGINT, 130, ""),
        ("goes on", signal.SIGKILL, -9, ""),
    ],
    ids=["killed", "refused", "Ctrl-C", "launcher killed"],
)
def test_when_one_process_ends_all_end_with_its_cause_in_one_message(
    tmp_path: Path, mode: str, ending: signal.Signals | None, status: int, message: str
) -> None:
    tiny.photos(tmp_path / "photos", NUM_TRAIN)
    running = launch_two(tmp_path, mode)
    wait_for(lambda: (tmp_path / f"{mode}1").exists() or running.poll() is not None, 200)
    below = psutil.Process(running.pid).children(recursive=True)
    if ending == signal.SIGINT:
        os.killpg(running.pid, ending)
    elif ending:
        running.kill()
    _, errors = running.communicate(timeout=200)
    # A zombie has ended: where this machine's first process reaps none, it stays in the list.
    wait_for(lambda: all(not one.is_running() or one.status() == psutil.STATUS_ZOMBIE for one in below), 200)
    assert running.returncode == status
    assert errors.count("error:") == (ending is None)
    assert message in errors
    assert "Traceback" not in errors


TORCHRUN = "torchrun --nnodes=2 --node-rank={rank} --nproc-per-node=1 --master-addr=127.0.0.1 --master-port={port}"
ACCELERATE = (
    "accelerate launch --multi_gpu --num_machines=2 --machine_rank={rank} --num_processes=2 --main_process_ip=127.0.0.1"
    " --main_process_port={port}"
)


@pytest.mark.slow
@pytest.mark.parametrize("command", [TORCHRUN, ACCELERATE], ids=["torchrun", "accelerate"])
def test_two_machines_end_with_the_bits_of_two_processes_on_one(together: Path, tmp_path: Path, command: str) -> None:
    tiny.photos(tmp_path / "photos", NUM_TRAIN)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    arguments = ["-m", "tests.training.trains_together", str(tmp_path), "ends"]
    with ThreadPoolExecutor(2) as machines:
        commands = [[*command.format(rank=rank, port=port).split(), *arguments] for rank in range(2)]
        list(machines.map(lambda words: run(ROOT, *words, PYTHONPATH=str(ROOT)), commands))
    found, expected = (torch.load(folder / "rank0.pt") for folder in (tmp_path, together))
    for blocks in ("all", "2"):
        assert found[blocks]["losses"] == expected[blocks]["losses"]
        for name, tensor in expected[blocks]["weights"].items():
            assert torch.equal(found[blocks]["weights"][name], tensor), name
