"""Several processes train one model: the same photos, the same result, one writer, and one end for all of them."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import torch

from pipeline.checkpoint import read_model_state
from pipeline.data.dataset import epoch_order, training_batches
from pipeline.data.transforms import TrainingTransform
from pipeline.params import load_params
from pipeline.stages import download, preprocess, train_frozen_backbone, unfreeze_finetune
from tests.clones import ROOT, clone, run, set_params
from tests.training import trains_together
from tests.training.trains_together import BATCH_SIZE, EPOCHS, NUM_TRAIN, NUM_VAL, PREPROCESSING, photos

TOLERANCE = 1e-4  # of a tensor's largest element: sums of 22 photos that are rounded as two sums of 11


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("start", [0, BATCH_SIZE])
def test_every_batch_is_shared_out_whole(tmp_path: Path, processes: int, start: int) -> None:
    few, transform = photos(tmp_path, "train", NUM_TRAIN), TrainingTransform(PREPROCESSING, "light", 0)
    order = few.labels[epoch_order(NUM_TRAIN, seed=0, epoch=1)[start:].tolist()]
    ranks = [
        training_batches(
            few, transform, seed=0, epoch=1, batch_size=BATCH_SIZE, workers=0, start=start, rank=rank, processes=processes
        )
        for rank in range(processes)
    ]
    for number, shares in enumerate(zip(*ranks, strict=True)):
        batch = order[number * BATCH_SIZE : (number + 1) * BATCH_SIZE]
        for rank, (_, labels) in enumerate(shares):
            assert torch.equal(labels, batch[rank::processes] if rank < len(batch) else batch[:1])


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which two processes trained, then this one alone."""
    folder = tmp_path_factory.mktemp("together")
    photos(folder, "train", NUM_TRAIN)
    photos(folder, "val", NUM_VAL)
    launch_here(["-m", "tests.training.trains_together", str(folder)])
    torch.save(trains_together.train(folder), folder / "alone.pt")
    return folder


def launch_here(arguments: list[str]) -> None:
    """In a process apart, because `launch` takes over its process's logging."""
    code = f"from pipeline.launch import launch; launch({arguments!r}, processes=2)"
    done = run(ROOT, sys.executable, "-c", code, PYTHONPATH=str(ROOT))
    assert "Traceback" not in done.stderr


def test_two_processes_take_every_photo_once_an_epoch(together: Path) -> None:
    ranks = [torch.load(together / f"rank{rank}.pt") for rank in range(2)]
    ids = [f"train{number:03d}" for number in range(NUM_TRAIN)]
    for epoch in range(1, EPOCHS + 1):
        taken = [[photo for number, photo in rank["taken"] if number == epoch] for rank in ranks]
        assert taken[1][-1] == taken[0][-1]  # the last batch is a single photo, which the second process repeats for nothing
        assert Counter(taken[0] + taken[1][:-1]) == Counter(ids)


def test_two_processes_end_where_one_ends(together: Path) -> None:
    alone, *ranks = (torch.load(together / f"{name}.pt") for name in ("alone", "rank0", "rank1"))
    for name, weight in alone["weights"].items():
        assert torch.equal(ranks[0]["weights"][name], ranks[1]["weights"][name])
        difference = (ranks[0]["weights"][name].double() - weight.double()).abs().max()
        assert difference <= TOLERANCE * weight.double().abs().max(), name
    assert ranks[0]["losses"] == ranks[1]["losses"] == pytest.approx(alone["losses"], rel=TOLERANCE)


def test_two_processes_evaluate_every_photo_to_the_same_bits(together: Path) -> None:
    alone, *ranks = (torch.load(together / f"{name}.pt") for name in ("alone", "rank0", "rank1"))
    assert len(alone["outputs"]) == NUM_VAL
    assert all(torch.equal(rank["outputs"], alone["outputs"]) for rank in ranks)
    chunks = [path.name for path in together.glob("kept/*/*")]
    assert len(chunks) == 2  # one chunk a run, written by one process, with its hash in the name
    assert len(set(chunks)) == 1


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone before fine-tuning, with two processes set; tests here run in order and build on it."""
    folder = clone(tmp_path_factory.mktemp("clones") / "processes")
    changes = {"download.drawn_photos": 80, "unfreeze_finetune.epochs": 5, "unfreeze_finetune.patience": 5}
    runtime = {"runtime.seconds_between_saves": 0, "runtime.threads": 1, "runtime.workers": 1}
    set_params(folder, changes | runtime)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for stage in (download, preprocess, train_frozen_backbone):
            stage.run(load_params())
    set_params(folder, {"runtime.processes": 2})
    return folder


def fine_tuning(folder: Path, *, learning: bool = True) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """Fine-tuning in two processes, from when they are there or have begun to learn, and all processes below it."""
    command = [sys.executable, "-m", "pipeline", "unfreeze-finetune"]
    # In a session of its own, as in a terminal: Ctrl-C goes to whatever is in the foreground there.
    running = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True, start_new_session=True)
    launcher = psutil.Process(running.pid)
    states = "outputs/.resume/unfreeze-finetune/*/*-*"
    wait_for(lambda: any(folder.glob(states)) if learning else _ranks(launcher) == ["0", "1"])
    assert running.poll() is None
    assert _ranks(launcher) == ["0", "1"]
    return running, launcher.children(recursive=True)


def _ranks(launcher: psutil.Process) -> list[str]:
    """Of its processes; one that was only just forked has none yet."""
    return sorted(process.environ().get("RANK", "") for process in launcher.children())


def wait_for(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + 200
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def assert_all_end(below: list[psutil.Process]) -> None:
    """A zombie has ended: where this machine's first process reaps none, it stays in the list."""
    wait_for(lambda: not [process for process in below if process.is_running() and process.status() != psutil.STATUS_ZOMBIE])


@pytest.mark.parametrize("learning", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("ending", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_when_the_launcher_ends_all_end(project: Path, ending: signal.Signals, status: int, learning: bool) -> None:
    running, below = fine_tuning(project, learning=learning)
    os.killpg(running.pid, ending)
    _, errors = running.communicate(timeout=200)
    assert_all_end(below)
    assert running.returncode == status
    assert "Traceback" not in errors
    assert errors.count("goes on from there") == (ending == signal.SIGINT)
    shutil.rmtree(project / "outputs/.resume", ignore_errors=True)


def test_when_a_process_dies_all_end_with_its_cause_in_one_message(project: Path) -> None:
    running, below = fine_tuning(project)
    next(process for process in below if process.environ().get("RANK") == "1").kill()
    _, errors = running.communicate(timeout=200)
    assert_all_end(below)
    assert running.returncode == 1
    assert errors.count("error:") == 1
    assert "the one of rank 1 was killed by SIGKILL" in errors
    assert "Traceback" not in errors


def test_two_processes_go_on_and_one_says_that_it_cannot(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(project / "outputs/.resume", project / "kept")
    done = run(project, "python", "-m", "pipeline", "unfreeze-finetune")
    assert done.stdout.count("going on after") == done.stdout.count("after epoch 5:") == 1
    assert "Traceback" not in done.stderr
    assert not (project / "outputs/.resume/unfreeze-finetune").exists()
    metrics = json.loads((project / "outputs/metrics/unfreeze-finetune.json").read_text())
    keys = list(read_model_state(project / "outputs/finetuned"))

    shutil.copytree(project / "kept", project / "outputs/.resume", dirs_exist_ok=True)
    set_params(project, {"runtime.processes": 1})
    monkeypatch.chdir(project)
    unfreeze_finetune.run(load_params())
    assert "(differing: processes)" in capsys.readouterr().out
    alone = json.loads((project / "outputs/metrics/unfreeze-finetune.json").read_text())
    assert metrics["val_log_loss"] == pytest.approx(alone["val_log_loss"], abs=0.05)  # in bfloat16, where the processor has it
    assert keys == list(read_model_state(project / "outputs/finetuned"))


TORCHRUN = "torchrun --nnodes=2 --node-rank={rank} --nproc-per-node=1 --master-addr=127.0.0.1 --master-port={port}"
ACCELERATE = (
    "accelerate launch --multi_gpu --num_machines=2 --machine_rank={rank} --num_processes=2 --main_process_ip=127.0.0.1"
    " --main_process_port={port}"
)


@pytest.mark.slow
@pytest.mark.parametrize("command", [TORCHRUN, ACCELERATE], ids=["torchrun", "accelerate"])
def test_two_machines_end_with_the_bits_of_two_processes_on_one(project: Path, command: str) -> None:
    set_params(project, {"runtime.processes": 2})
    run(project, "python", "-m", "pipeline", "unfreeze-finetune")
    expected = read_model_state(project / "outputs/finetuned")
    set_params(project, {"runtime.processes": 1})  # each machine's launcher says how many there are
    shutil.rmtree(project / "outputs/finetuned")
    port = free_port()
    with ThreadPoolExecutor(2) as machines:
        commands = [[*command.format(rank=rank, port=port).split(), "-m", "pipeline", "unfreeze-finetune"] for rank in range(2)]
        for _ in machines.map(lambda words: run(project, *words), commands):
            pass  # a command that fails is told when its turn comes
    tensors = read_model_state(project / "outputs/finetuned")
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@pytest.mark.slow
def test_an_error_of_one_process_is_told_once(project: Path) -> None:
    set_params(project, {"runtime.processes": 2, "runtime.workers": 0})
    photo = next(project.glob("data/processed/images/train/*/*.jpg"))
    photo.write_bytes(b"no photo")
    done = run(project, "python", "-m", "pipeline", "unfreeze-finetune", check=False)
    assert done.returncode == 1
    assert done.stderr.count("error:") == 1
    assert f"{photo.name} can no longer be decoded" in done.stderr
    assert "Traceback" not in done.stderr
