"""What one process of several does in test_distributed.py, and the test itself in one process: short trainings in float32.

launch(["-m", "tests.training.trains_together", FOLDER, MODE], processes=2)
"""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import PipelineError
from pipeline.launch import distributed_process, reported_to_launcher
from pipeline.params import Runtime
from pipeline.runtime import ResolvedRuntime, resolve_runtime
from pipeline.training.finetune import Trainer
from pipeline.training.resume import ResumeFolder
from tests.training import tiny

# Photos of which the last batch holds a single one, and validation photos of one whole batch and a part.
NUM_TRAIN, BATCH_SIZE, NUM_VAL = 45, 22, 37


class Stopping:
    """In the place of a tracking: what happens in one process after a step."""

    def __init__(self, folder: Path, mode: str) -> None:
        self.folder, self.mode = folder, mode

    def start(self, *_: Any, **__: Any) -> None: ...

    def epoch(self, *_: Any) -> None: ...

    def step(self, losses: list[float]) -> None:
        rank = os.environ.get("RANK", "0")
        (self.folder / f"{self.mode}{rank}").touch()
        if self.mode == "dies" and rank == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.mode == "refuses" and rank == "1":
            raise PipelineError("There is something wrong with this photo.")


def train(folder: Path, mode: str) -> dict[str, Any]:
    """Train the whole network, then the same split and from cached activations: the weights, the course, and features."""
    resolved = resolve_runtime(Runtime(device="cpu", workers=0, threads=1, seconds_between_saves=1e6))
    runtime: ResolvedRuntime = replace(resolved, mixed_precision="no")
    photos = tiny.photos(folder / "photos", NUM_TRAIN)
    val, stopping = photos.at(range(NUM_VAL)), Stopping(folder, mode)
    epochs = 1000 if mode == "goes on" else 2
    found: dict[str, Any] = {}
    for blocks in ("all", 2):
        settings = tiny.settings(epochs=epochs, batch_size=BATCH_SIZE, patience=epochs, unfrozen_blocks=blocks)
        own = tiny.model(drop_path_rate=0.0)  # each process draws its own paths
        cache = tiny.cache(folder / f"{runtime.processes}")
        network = tiny.network(blocks, own=own, cache=cache, runtime=runtime)
        resume = ResumeFolder(folder / f"resume{runtime.processes}{blocks}", {}, runtime)
        trainer = Trainer(network, photos, val, settings, 1.0, stopping)  # type: ignore[arg-type]
        history = trainer.run(resume).history
        losses = [epoch.val_log_loss for epoch in history] + [epoch.train_loss for epoch in history[1:]]
        found[f"{blocks}"] = {"before": trainer.initial_state, "weights": trainer.best_state, "losses": losses}
    return found | {"activations": network.activations("val", val).tensor()}


if __name__ == "__main__":
    with distributed_process():
        given, chosen = Path(sys.argv[1]), sys.argv[2]
        try:
            torch.save(train(given, chosen), given / f"rank{os.environ['RANK']}.pt")
        except Exception as error:
            reported_to_launcher(str(error))
            sys.exit(1)
