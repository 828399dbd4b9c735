"""A fine-tuning of seconds: forty small photos of two colours, a random network, two epochs of five steps."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image

from pipeline.checkpoint import Preprocessing
from pipeline.data.dataset import Photos
from pipeline.params import UnfreezeFinetune, load_params
from pipeline.runtime import ResolvedRuntime
from pipeline.training.curves import Curves
from pipeline.training.finetune import Finetuned, finetune
from pipeline.training.resume import ResumeFolder
from pipeline.training.task import Task
from pipeline.training.tracked import Run
from pipeline.training.tracking import Trackers
from tests.clones import ROOT

CLASSES = ("cat", "dog")
STEPS, EPOCHS = 10, 2
PREPROCESSING = Preprocessing(
    input_size=(3, 64, 64), mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic", crop_pct=1.0, crop_mode="center"
)


def settings(**changes: object) -> UnfreezeFinetune:
    own = load_params(ROOT / "params.yaml").unfreeze_finetune
    return own.model_copy(update={"epochs": EPOCHS, "batch_size": 8, "learning_rate": 1e-3, "unfrozen_blocks": 2, **changes})


def photos(folder: Path, count: int = 40) -> Photos:
    """Reddish cats and bluish dogs, hard to tell apart for the noise."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        noise = rng.integers(0, 200, (72, 72, 3), dtype=np.uint8)
        noise[..., 2 * (index % 2)] += 25
        Image.fromarray(noise).save(folder / f"{index:03d}.jpg")
    paths = tuple(sorted(folder.glob("*.jpg")))
    return Photos(tuple(path.stem for path in paths), paths, torch.arange(count) % 2)


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=2, drop_rate=0.2)


def resume_folder(folder: Path) -> ResumeFolder:
    return ResumeFolder(folder / "resume", {"run": "tiny"}, 0.0)


def trackers(folder: Path, names: Sequence[str], val: Photos) -> Trackers:
    run = Run("tiny", {"unfreeze_finetune.epochs": EPOCHS, "l2_strengths": [1.0, 2.0]}, CLASSES, val, PREPROCESSING)
    return Trackers(names, folder / "tracking", lambda: Curves(folder / "plots/training", folder / "plots/epochs.csv"), run)


def train(
    folder: Path,
    names: Sequence[str] = (),
    *,
    resume: ResumeFolder | None = None,
    watching: Trackers | None = None,
    workers: int = 0,
    **changes: object,
) -> Finetuned:
    """Fine-tune in `folder`: photos, resume, plots and tracking lie in it."""
    some = photos(folder / "photos")
    runtime = ResolvedRuntime(torch.device("cpu"), workers, torch.get_num_threads(), bfloat16=False, seconds_between_saves=0)
    watching = watching or trackers(folder, names, some)
    resume = resume or resume_folder(folder)
    task = Task(some, some[:16], PREPROCESSING, settings(**changes), runtime, "torch")
    return finetune(network(), task, resume, watching)
