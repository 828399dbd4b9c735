"""What one process of several does in test_distributed.py, and the test itself in one process: a short training in float32.

launch(["-m", "tests.training.trains_together", FOLDER], processes=2)
"""

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor

from pipeline.checkpoint import Preprocessing
from pipeline.data.dataset import Photos
from pipeline.data.transforms import TrainingTransform
from pipeline.launch import distributed_process
from pipeline.params import load_params
from pipeline.runtime import resolve_runtime
from pipeline.training import finetune
from pipeline.training.features import Kept, run_over
from pipeline.training.resume import SharedResumeFolder
from pipeline.training.task import Task
from tests.clones import ROOT

# Photos of which the last batch holds a single one, and validation photos of one whole batch and a part.
NUM_TRAIN, BATCH_SIZE, NUM_VAL, EPOCHS = 45, 22, 37, 2
PREPROCESSING = Preprocessing(
    input_size=(3, 32, 32), mean=(0.5,) * 3, std=(0.25,) * 3, interpolation="bilinear", crop_pct=1, crop_mode="center"
)


def photos(folder: Path, name: str, count: int) -> Photos:
    """Noise of which one class is the darker, made where it is not there yet."""
    rng = np.random.default_rng(count)
    paths = [folder / f"{name}{number:03d}.png" for number in range(count)]
    for number, path in enumerate(paths):
        pixels = rng.integers(0, 156, (40, 40, 3), dtype=np.uint8) + np.uint8(99 * (number % 2))
        if not path.exists():
            Image.fromarray(pixels).save(path)
    return Photos(tuple(path.stem for path in paths), tuple(paths), torch.arange(count) % 2)


def mean_colours(images: Tensor) -> Tensor:
    """A network without rounding of its own."""
    return images.float().mean((1, 2))


def train(folder: Path) -> dict[str, object]:
    """Train, and tell the weights, the course, the photos that this process took by epoch, and all outputs of `run_over`."""
    runtime_settings = {"device": "cpu", "workers": 0, "threads": 1, "seconds_between_saves": 0.0}
    setting = load_params(ROOT / "params.yaml").runtime.model_copy(update=runtime_settings)
    runtime = replace(resolve_runtime(setting), bfloat16=False)
    taken: list[tuple[int, str]] = []

    class Recording(TrainingTransform):
        def __call__(self, photo: np.ndarray, epoch: int, photo_id: str) -> Tensor:
            taken.append((epoch, photo_id))
            return super().__call__(photo, epoch, photo_id)

    finetune.TrainingTransform = Recording
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=2)
    changes = {"epochs": EPOCHS, "batch_size": BATCH_SIZE, "patience": EPOCHS, "unfrozen_blocks": "all"}
    settings = load_params(ROOT / "params.yaml").unfreeze_finetune.model_copy(update=changes)
    of_train, of_val = photos(folder, "train", NUM_TRAIN), photos(folder, "val", NUM_VAL)
    kept = Kept(folder / "kept", processes=runtime.processes)
    outputs = run_over(mean_colours, of_val, PREPROCESSING, runtime=runtime, description="colours", kept=kept)
    resume = SharedResumeFolder(runtime, folder / f"resume{runtime.processes}", {})
    result = finetune.finetune(model, Task(of_train, of_val, PREPROCESSING, settings, runtime, "torch"), resume)
    finetune.TrainingTransform = TrainingTransform
    losses = [epoch.val_log_loss for epoch in result.history] + [epoch.train_loss for epoch in result.history[1:]]
    weights = result.training_state["model_state_dict"]
    return {"weights": weights, "losses": losses, "taken": taken, "outputs": outputs.values}


if __name__ == "__main__":
    with distributed_process():
        given = Path(sys.argv[1])
        told = train(given)
        torch.save(told, given / f"rank{os.environ['RANK']}.pt")
