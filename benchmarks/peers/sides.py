"""What is compared: our two training stages, and the peers, each run once and measured from outside.

result = run_side("fastai", task, folder=Path("runs/fastai-0"), seed=0)
result["stages"]["frozen"]["seconds"], result["peak_memory_mb"]
"""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from pipeline.errors import PipelineError
from pipeline.files import read_json, write_json
from pipeline.params import PARAMS_FILE, change_params
from pipeline.reproduction.rerun import clone_project

OURS = "this project"
SCRIPTS = {
    "fastai": "fastai_peer.py",
    "Hugging Face Trainer": "trainer_peer.py",
    "timm recipe": "timm_peer.py",
    "PyTorch tutorial": "tutorial_peer.py",
}
SIDES = (OURS, *SCRIPTS)
STAGES = {"frozen": "train-frozen-backbone", "finetuned": "unfreeze-finetune"}
OUR_SETTINGS = {
    "optimiser": "logistic regression to convergence; then AdamW on the blocks with the upper half of the operations, cosine",
    "augmentation": "light",
    "precision": "bfloat16 where the processor has it; frozen parts in OpenVINO or ONNX Runtime, the rest channels_last",
    "kept": "the best epoch of a moving average, interpolated with the frozen network by calibrated validation log-loss",
}
HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[1]
SECONDS_BETWEEN_SAMPLES = 0.5


@dataclass(frozen=True)
class Task:
    """What every side is given: `photos` is a folder as data/processed is."""

    photos: Path
    backbone: str
    weights: Path
    epochs_frozen: int
    epochs_unfrozen: int
    threads: int


def run_side(side: str, task: Task, *, folder: Path, seed: int) -> dict[str, Any]:
    """Run one side, leaving log.txt and result.json in `folder`, and return the result.

    Returns:
        `stages`, by name the seconds, the photos trained on, and how many of `n` test photos were then right; `settings`,
        `versions` and `peak_memory_mb`.

    Raises:
        PipelineError: it failed; log.txt says how.
    """
    folder.mkdir(parents=True, exist_ok=True)
    result = _ours(task, folder, seed) if side == OURS else _peer(SCRIPTS[side], task, folder, seed)
    unfinished = folder / "result.json.new"
    write_json(unfinished, result)
    unfinished.rename(folder / "result.json")
    return result


def _peer(script: str, task: Task, folder: Path, seed: int) -> dict[str, Any]:
    """A peer, in the environment that its script describes."""
    uv = shutil.which("uv")
    if uv is None:
        raise PipelineError("uv is not installed; it makes each peer's environment. Install it with: pip install uv")
    output = folder / "stages.json"
    settings = {
        "images": task.photos / "images",
        "backbone": task.backbone,
        "weights": task.weights,
        "epochs-frozen": task.epochs_frozen,
        "epochs-unfrozen": task.epochs_unfrozen,
        "seed": seed,
        "threads": task.threads,
        "output": output,
    }
    arguments = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    peak = _measured([uv, "run", "--script", str(HERE / script), *arguments], folder, HERE, task.threads)
    return read_json(output) | {"peak_memory_mb": peak}


def _ours(task: Task, folder: Path, seed: int) -> dict[str, Any]:
    """The real stages, in a clone of the commit that is checked out."""
    with tempfile.TemporaryDirectory() as temporary:
        clone = _clone(task, Path(temporary) / "project", seed)
        command = [sys.executable, "-m", "pipeline"]
        peak = max(_measured([*command, name], folder, clone, task.threads) for name in STAGES.values())
        _measured([*command, "evaluate"], folder, clone, task.threads)
        measured = {key: read_json(clone / f"outputs/metrics/{name}.json") for key, name in STAGES.items()}
        scores = read_json(clone / "outputs/evaluation/metrics.json")
    training, n = (len(list(task.photos.glob(f"images/{split}/*/*"))) for split in ("train", "test"))
    passes = {"frozen": 1, "finetuned": measured["finetuned"]["epochs"]}
    stages = {
        key: {
            "seconds": metrics["seconds"],
            "photos": passes[key] * training,
            "correct": round(scores[key]["accuracy"] * n),
            "n": n,
        }
        for key, metrics in measured.items()
    }
    versions = {name: importlib.metadata.version(name) for name in ("torch", "timm", "onnxruntime", "openvino")}
    return {"settings": OUR_SETTINGS, "versions": versions, "stages": stages, "peak_memory_mb": peak}


def _clone(task: Task, target: Path, seed: int) -> Path:
    """A clone that holds the photos, set to the task."""
    clone = clone_project(PROJECT, target)
    (clone / "data").mkdir(exist_ok=True)
    (clone / "data/processed").symlink_to(task.photos.resolve())
    shutil.copytree(task.photos / "metrics", clone / "outputs/metrics", dirs_exist_ok=True)
    changes = {
        "backbone.name": task.backbone,
        "backbone.weights": str(task.weights.resolve()),
        "unfreeze_finetune.epochs": task.epochs_unfrozen,
        "unfreeze_finetune.seed": seed,
        "runtime.device": "cpu",
        "runtime.threads": task.threads,
        "runtime.workers": task.threads,
    }
    change_params(clone / PARAMS_FILE, changes)
    return clone


def _measured(command: Sequence[str], folder: Path, where: Path, threads: int) -> float:
    """Run a command to its end and return the peak of its processes' memory together, in megabytes."""
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    log = folder / "log.txt"
    with log.open("a", encoding="utf-8") as written:
        process = subprocess.Popen(
            command,
            cwd=where,
            env=environment | {"OMP_NUM_THREADS": str(threads)},
            stdout=written,
            stderr=subprocess.STDOUT,
        )
        watcher = _Watcher(process.pid)
        watcher.start()
        try:
            status = process.wait()
        finally:
            process.kill()
            watcher.stop()
    if status:
        last = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])
        raise PipelineError(f"{' '.join(command[:4])} ended with status {status}. The whole log: {log}. Its end:\n{last}")
    return watcher.peak


class _Watcher(threading.Thread):
    """Samples what a process and all its children hold, pages that they share counted once."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._root, self._done, self.peak = psutil.Process(pid), threading.Event(), 0.0

    def run(self) -> None:
        while not self._done.wait(SECONDS_BETWEEN_SAMPLES):
            held = 0
            try:
                for each in (self._root, *self._root.children(recursive=True)):
                    held += _held_by(each)
            except psutil.Error:
                continue
            self.peak = max(self.peak, held / 1e6)

    def stop(self) -> None:
        self._done.set()
        self.join()


def _held_by(process: psutil.Process) -> int:
    """Bytes; the proportional set size where the system counts it, else what the process alone holds."""
    try:
        info = process.memory_full_info()
    except psutil.Error:
        return 0
    return getattr(info, "pss", info.uss)
