"""A fine-tuning of seconds: forty small photos of two colours, a random network, two epochs of five steps."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from pipeline.checkpoint import Preprocessing
from pipeline.data.dataset import Photos, load_batches
from pipeline.data.transforms import normalise
from pipeline.params import UnfreezeFinetune
from pipeline.runtime import ResolvedRuntime
from pipeline.training.activations import SplitNetwork
from pipeline.training.features import FeatureCache, evaluation
from pipeline.training.finetune import Finetuned, Trainer, finetune
from pipeline.training.resume import ResumeFolder
from pipeline.training.tracking import Tracking

CLASSES = ("cat", "dog")
STEPS, EPOCHS = 10, 2
PREPROCESSING = Preprocessing(
    input_size=(3, 64, 64), mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic", crop_pct=1.0, crop_mode="center"
)
RUNTIME = ResolvedRuntime(torch.device("cpu"), 0, torch.get_num_threads(), mixed_precision="no", seconds_between_saves=0)


def settings(**changes: object) -> UnfreezeFinetune:
    small = {"epochs": EPOCHS, "batch_size": 8, "learning_rate": 1e-3, "unfrozen_blocks": 2}
    return UnfreezeFinetune().model_copy(update={**small, **changes})


def photos(folder: Path, count: int = 40) -> Photos:
    """Reddish cats and bluish dogs, hard to tell apart for the noise."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        noise = rng.integers(0, 200, (72, 72, 3), dtype=np.uint8)
        noise[..., 2 * (index % 2)] += 25
        Image.fromarray(noise).save(folder / f"{index:03d}.jpg")
    paths = tuple(sorted(folder.glob("*.jpg")))
    ids = tuple(path.stem for path in paths)
    return Photos(ids, paths, torch.arange(count) % 2, ids)


def model(name: str = "test_resnet", **arguments: Any) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=2, **{"drop_path_rate": 0.2, **arguments})


class Branching(nn.Module):
    """Branches on a value, so no graph can be made of it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 4, 5, 4), nn.Conv2d(4, 8, 3)
        self.pool, self.fc = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(8, 2)

    def forward(self, images: Tensor) -> Tensor:
        images = self.stem(images)
        return self.fc(self.pool(self.body(images if images.sum() > 0 else -images).relu()))


def network(
    blocks: int | str = 2,
    *,
    own: nn.Module | None = None,
    cache: Callable[..., FeatureCache] | None = None,
    runtime: ResolvedRuntime = RUNTIME,
) -> SplitNetwork:
    split = SplitNetwork(own or model(), blocks, PREPROCESSING, choice="torch", runtime=runtime)
    split.cache = cache
    return split


def cache(folder: Path) -> Callable[..., FeatureCache]:
    return partial(FeatureCache, folder / "cache", network="tiny")


def logits_of(own: nn.Module, some: Photos) -> Tensor:
    """What a network gives for photos by the plainest way, in eager float32."""
    pixels, _ = next(load_batches(some, evaluation(PREPROCESSING), [range(len(some))], workers=0))
    with torch.no_grad():
        return own.eval()(normalise(pixels, PREPROCESSING))


def resume_folder(folder: Path, seconds_between_saves: float = 0) -> ResumeFolder:
    return ResumeFolder(folder / "resume", {"run": "tiny"}, replace(RUNTIME, seconds_between_saves=seconds_between_saves))


def tracking(folder: Path, names: Sequence[str], val: Photos) -> Tracking:
    set_to = {"unfreeze_finetune.epochs": EPOCHS, "l2_strengths": [1.0, 2.0]}
    files = folder / "tracking", folder / "plots/training", folder / "plots/epochs.csv"
    return Tracking(names, *files, "tiny", set_to, CLASSES, val, model().eval(), PREPROCESSING.input_size)


def trainer(folder: Path, own: SplitNetwork | None = None, **changes: object) -> Trainer:
    return Trainer(*_given(folder, own, changes), 1.0)


def _given(folder: Path, own: SplitNetwork | None, changes: dict[str, object]) -> tuple[SplitNetwork, Photos, Photos, Any]:
    """Network, training and validation photos, settings."""
    some, chosen = photos(folder / "photos"), settings(**changes)
    return own or network(chosen.unfrozen_blocks), some, some.at(range(16)), chosen


def train(
    folder: Path,
    names: Sequence[str] = (),
    *,
    own: SplitNetwork | None = None,
    resume: ResumeFolder | None = None,
    watching: Tracking | None = None,
    weight: Tensor | None = None,
    **changes: object,
) -> Finetuned:
    """Fine-tune in `folder`: photos, resume, plots and tracking lie in it."""
    own, some, val, chosen = _given(folder, own, changes)
    watching = watching or (tracking(folder, names, val) if names else None)
    return finetune(own, some, val, chosen, 1.0, resume or resume_folder(folder, 1e6), watching, weight)
