"""What the peers' scripts share, so that they differ in their training alone. Needs torch and timm, nothing of this project.

    given = arguments(__doc__)
    run = Run(given)
    with run.stage("frozen"): ...        # timed; nothing else is
    run.score("frozen", predicted, true)
    run.write({"optimiser": "AdamW"})

Every script takes the same arguments and writes one JSON: seconds, photos trained on and test photos got right, a stage each.
"""

import argparse
import importlib.metadata
import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from timm.data import create_transform, resolve_data_config
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

LIBRARIES = ("torch", "timm", "torchvision", "fastai", "transformers", "accelerate")
DATA_KEYS = ("input_size", "mean", "std", "interpolation", "crop_pct")
BATCH_SIZE = 32
STEPS_TRIED = 3


def arguments(description: str) -> argparse.Namespace:
    """What a peer is told to do."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument(
        "--images", type=Path, required=True, help="a folder with train, val and test, a folder a class in each"
    )
    parser.add_argument("--backbone", required=True, help="timm's name")
    parser.add_argument("--weights", type=Path, required=True, help="a weights file, a JSON that describes it beside it")
    parser.add_argument("--epochs-frozen", type=int, required=True)
    parser.add_argument("--epochs-unfrozen", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True, help="of the computation; as many processes decode photos")
    parser.add_argument("--output", type=Path, required=True, help="the JSON to write")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    random.seed(given.seed)
    np.random.seed(given.seed)
    torch.manual_seed(given.seed)
    return given


def weights_overlay(weights: Path) -> dict[str, Any]:
    """timm's `pretrained_cfg_overlay`, by which `pretrained=True` reads a local file and leaves its classifier out."""
    beside = json.loads(weights.with_suffix(".json").read_text(encoding="utf-8"))
    told = {key: beside[key] for key in (*DATA_KEYS, "num_classes") if key in beside}
    return {"file": str(weights), **told}


def model_kwargs(weights: Path) -> dict[str, Any]:
    """Arguments of the architecture that these weights need."""
    return json.loads(weights.with_suffix(".json").read_text(encoding="utf-8")).get("model_kwargs", {})


def pretrained(given: argparse.Namespace, num_classes: int) -> nn.Module:
    """The backbone with its pretrained weights and a new classifier of `num_classes`."""
    overlay = weights_overlay(given.weights)
    return timm.create_model(
        given.backbone, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=num_classes, **model_kwargs(given.weights)
    )


def data_config(model: nn.Module) -> dict[str, Any]:
    """Input size, mean, deviation, interpolation and crop of the weights, as timm's `create_transform` takes them."""
    return resolve_data_config({}, model=model)


def freeze_backbone(model: Any) -> None:
    """Only the classifier learns from here on."""
    model.requires_grad_(False)
    model.get_classifier().requires_grad_(True)


def test_batches(given: argparse.Namespace, config: dict[str, Any]) -> DataLoader[Any]:
    """The test photos in timm's evaluation transform."""
    photos = ImageFolder(given.images / "test", create_transform(**config, is_training=False))
    return DataLoader(photos, BATCH_SIZE, num_workers=given.threads)


def predictions(model: Callable[[Tensor], Tensor], batches: DataLoader[Any]) -> tuple[Tensor, Tensor]:
    """Predicted and true classes, (n,) int64 each."""
    if isinstance(model, nn.Module):
        model.eval()
    with torch.inference_mode():
        pairs = [(model(images).argmax(1), labels) for images, labels in batches]
    predicted, labels = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    return predicted, labels


def bfloat16_pays(given: argparse.Namespace, config: dict[str, Any]) -> bool:
    """Whether training steps take less time in bfloat16 here: a peer gets the precision that suits it, tried beforehand."""
    images = torch.randn(BATCH_SIZE, *config["input_size"]).to(memory_format=torch.channels_last)
    best = {}
    for bfloat16 in (False, True):
        model = pretrained(given, 2).train().to(memory_format=torch.channels_last)
        seconds = []
        for _ in range(STEPS_TRIED):
            started = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                loss = cross_entropy(model(images).float(), torch.arange(BATCH_SIZE) % 2)
            loss.backward()
            seconds.append(time.perf_counter() - started)
        best[bfloat16] = min(seconds)
    return best[True] < best[False]


class Run:
    """One run of a peer: what its stages took and what they came to."""

    def __init__(self, given: argparse.Namespace) -> None:
        self._given, self._stages = given, dict[str, dict[str, Any]]()
        self.num_classes = len(list((given.images / "train").iterdir()))
        self._photos = sum(1 for _ in (given.images / "train").glob("*/*"))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage, "frozen" or "finetuned"."""
        epochs = self._given.epochs_frozen if name == "frozen" else self._given.epochs_unfrozen
        started = time.perf_counter()
        yield
        self._stages[name] = {"seconds": time.perf_counter() - started, "photos": epochs * self._photos}
        print(f"{name}: {epochs} epochs in {self._stages[name]['seconds']:.1f} s", flush=True)

    def score(self, name: str, predicted: Tensor, labels: Tensor) -> None:
        """Remember how many test photos the network got right after a stage."""
        correct = int((predicted == labels).sum())
        self._stages[name] |= {"correct": correct, "n": len(labels)}
        print(f"{name}: {correct} of {len(labels)} test photos right", flush=True)

    def write(self, settings: dict[str, str]) -> None:
        """Write the JSON; `settings` says how the peer was set up, for people."""
        installed = {name: _version(name) for name in LIBRARIES}
        versions = {name: version for name, version in installed.items() if version}
        content = {"settings": settings, "versions": versions, "stages": self._stages}
        self._given.output.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None
