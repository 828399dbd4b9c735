"""Pretrain a tiny network on drawn classes other than cats and dogs, and write the weights that the project ships.

    python -m pipeline.pretrain                     # about ten minutes on two cores; writes to pipeline/weights
    python -m pipeline.pretrain --epochs 2 --output /tmp/weights

The photos are drawn first and kept in memory. On one machine the weights are a function of the options alone.
"""

import argparse
import json
import math
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import timm
import torch
from numpy.typing import NDArray
from PIL import Image as PillowImage
from safetensors.torch import save
from timm.data import create_transform, resolve_model_data_config
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn

from pipeline.download.drawn.canvas import Image
from pipeline.download.drawn.other_classes import OTHER_CLASSES
from pipeline.download.drawn.petimages import WORKERS, draw_photo
from pipeline.files import sha256_of
from pipeline.progress import progress, say

WEIGHTS_FOLDER = Path(__file__).parent / "weights"
STORED_SIDE = 144  # shorter side, in pixels, of the training photos in memory
TRAIN, TEST = 0, 1  # part of the seed of a photo, so that no test photo is a training photo
CLASSES = tuple(OTHER_CLASSES)
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Recipe:
    """Everything that the weights depend on."""

    architecture: str = "test_resnet"
    image_size: int = 128
    photos_per_class: int = 400
    test_photos_per_class: int = 50
    epochs: int = 20
    batch_size: int = 64
    optimiser: str = "AdamW"
    learning_rate: float = 4e-3
    weight_decay: float = 0.05
    warm_up_epochs: int = 3
    schedule: str = "linear warm-up, then cosine to 0"
    label_smoothing: float = 0.1
    smallest_crop: float = 0.35  # share of the photo's area
    precision: str = "bfloat16 autocast"
    seed: int = 0


def _draw(seed: int, side: int | None, task: tuple[int, int, int]) -> Image:
    """One photo, its shorter side reduced to `side` pixels where that is given."""
    label, split, index = task
    photo = draw_photo(CLASSES[label], np.random.default_rng([seed, split, label, index]))
    if side is None:
        return photo
    scale = side / min(photo.shape[:2])
    size = (round(photo.shape[1] * scale), round(photo.shape[0] * scale))
    return cv2.resize(photo, size, interpolation=cv2.INTER_AREA)


def draw_classes(per_class: int, split: int, seed: int, side: int | None) -> tuple[list[Image], Labels]:
    """Draw `per_class` photos of every class; the labels count through `CLASSES`."""
    tasks = [(label, split, index) for index in range(per_class) for label in range(len(CLASSES))]
    context = multiprocessing.get_context("spawn")
    photos = []
    with ProcessPoolExecutor(WORKERS, mp_context=context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        with progress("drawing photos", total=len(tasks)) as advance:
            for photo in pool.map(partial(_draw, seed, side), tasks, chunksize=16):
                photos.append(photo)
                advance(1)
    return photos, np.array([label for label, _, _ in tasks])


def random_crop(photo: Image, size: int, smallest: float, rng: np.random.Generator) -> Image:
    """A random part of the photo, at least the `smallest` share of its area, as a square; mirrored half of the time."""
    height, width = photo.shape[:2]
    area = rng.uniform(smallest, 1) * height * width
    ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
    crop_width = min(width, max(1, round(math.sqrt(area * ratio))))
    crop_height = min(height, max(1, round(math.sqrt(area / ratio))))
    left, top = int(rng.integers(width - crop_width + 1)), int(rng.integers(height - crop_height + 1))
    crop = cv2.resize(photo[top : top + crop_height, left : left + crop_width], (size, size))
    return crop[:, ::-1] if rng.random() < 0.5 else crop


def training_batches(
    photos: list[Image], labels: Labels, recipe: Recipe, epoch: int
) -> Iterator[tuple[NDArray[np.uint8], Labels]]:
    """Shuffled, augmented batches, (n, size, size, 3) and (n,); the next one is made while the last one is used."""
    order = np.random.default_rng([recipe.seed, epoch]).permutation(len(photos))
    parts = [order[i : i + recipe.batch_size] for i in range(0, len(order) - recipe.batch_size + 1, recipe.batch_size)]

    def make(number: int) -> NDArray[np.uint8]:
        rng = np.random.default_rng([recipe.seed, epoch, number])
        return np.stack([random_crop(photos[i], recipe.image_size, recipe.smallest_crop, rng) for i in parts[number]])

    with ThreadPoolExecutor(1) as pool:
        ahead: Future[NDArray[np.uint8]] = pool.submit(make, 0)
        for number, part in enumerate(parts):
            batch = ahead.result()
            ahead = pool.submit(make, min(number + 1, len(parts) - 1))
            yield batch, labels[part]


class Normalise:
    """Turns uint8 batches, (n, size, size, 3), into normalised float ones, (n, 3, size, size)."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.mean, self.std = (255 * torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std))

    def __call__(self, batch: NDArray[np.uint8]) -> Tensor:
        return (torch.from_numpy(batch).permute(0, 3, 1, 2).float() - self.mean) / self.std


def learning_rate_factor(step: int, warm_up: int, total: int) -> float:
    """A linear rise to 1, then a half cosine to 0."""
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, total - warm_up)))


def train(model: nn.Module, photos: list[Image], labels: Labels, recipe: Recipe) -> None:
    """Train the model in place."""
    config = resolve_model_data_config(model)
    normalise = Normalise(config["mean"], config["std"])
    groups = param_groups_weight_decay(model, recipe.weight_decay)
    optimiser = torch.optim.AdamW(groups, lr=recipe.learning_rate)
    steps = len(photos) // recipe.batch_size
    factor = partial(learning_rate_factor, warm_up=recipe.warm_up_epochs * steps, total=recipe.epochs * steps)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
    criterion = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    model.train()
    with progress("training", total=recipe.epochs * steps, unit="steps") as advance:
        for epoch in range(recipe.epochs):
            for batch, targets in training_batches(photos, labels, recipe, epoch):
                with torch.autocast("cpu", torch.bfloat16):
                    logits = model(normalise(batch))
                loss = criterion(logits.float(), torch.from_numpy(targets))
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                scheduler.step()
                advance(1, note=f"epoch {epoch + 1} of {recipe.epochs}, loss {loss.item():.3f}")


@torch.inference_mode()
def accuracy(model: nn.Module, photos: list[Image], labels: Labels, preprocessing: dict[str, Any]) -> float:
    """The share of photos classified correctly behind timm's own evaluation transform."""
    transform = create_transform(**preprocessing, is_training=False)
    model.eval()
    correct = 0
    for start in range(0, len(photos), 100):
        batch = torch.stack([transform(PillowImage.fromarray(photo)) for photo in photos[start : start + 100]])
        predictions = model(batch).argmax(dim=1).numpy()
        correct += int((predictions == labels[start : start + 100]).sum())
    return correct / len(photos)


def pretrain(recipe: Recipe, output: Path) -> None:
    """Draw, train, test, and write `output`/ARCHITECTURE.drawn.safetensors and .json."""
    started = time.monotonic()
    torch.manual_seed(recipe.seed)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)  # sums do not depend on the number of cores then; a second core prepares the batches
    photos, labels = draw_classes(recipe.photos_per_class, TRAIN, recipe.seed, STORED_SIDE)
    model = timm.create_model(recipe.architecture, num_classes=len(CLASSES)).to(memory_format=torch.channels_last)
    train(model, photos, labels, recipe)
    config = resolve_model_data_config(model)
    preprocessing = {
        "input_size": [3, recipe.image_size, recipe.image_size],
        "mean": list(config["mean"]),
        "std": list(config["std"]),
        "interpolation": "bicubic",
        "crop_pct": 1.0,
    }
    test_photos, test_labels = draw_classes(recipe.test_photos_per_class, TEST, recipe.seed, None)
    result = accuracy(model, test_photos, test_labels, preprocessing)
    say(f"accuracy on {len(test_photos):,} held-out photos of {len(CLASSES)} classes: {result:.3f}")
    seconds = round(time.monotonic() - started)
    versions = {
        "torch": torch.__version__,
        "timm": timm.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
    }
    card = {
        "architecture": recipe.architecture,
        "model_kwargs": {},
        "num_classes": len(CLASSES),
        "classes": list(CLASSES),
        **preprocessing,
        "trained_on": "photos drawn by pipeline.download.drawn; no cats, no dogs",
        "recipe": {**asdict(recipe), "seconds": seconds, "versions": versions},
        "accuracy": round(result, 4),
        "num_test": len(test_photos),
        "licence": "MIT",
    }
    output.mkdir(parents=True, exist_ok=True)
    file = output / f"{recipe.architecture}.drawn.safetensors"
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    file.write_bytes(save(weights))
    card["sha256"] = sha256_of(file)
    (output / f"{recipe.architecture}.drawn.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    say(f"wrote {output / recipe.architecture}.drawn.safetensors and .json in {seconds} s")


def main() -> None:
    """Read the options and pretrain."""
    default = Recipe()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--architecture", default=default.architecture, help="a small model of timm")
    parser.add_argument("--photos-per-class", type=int, default=default.photos_per_class)
    parser.add_argument("--epochs", type=int, default=default.epochs)
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--output", type=Path, default=WEIGHTS_FOLDER)
    options = vars(parser.parse_args())
    output = options.pop("output")
    pretrain(Recipe(**options), output)


if __name__ == "__main__":
    main()
