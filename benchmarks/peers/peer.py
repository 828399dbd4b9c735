"""What the peers share, so that they differ in their training alone. Needs torch and timm, nothing of this project.

    main(__doc__, prepare, rates={"frozen": (1e-3, 1e-2), "finetuned": (1e-4, 1e-3)}, settings={"optimizer": "AdamW"})

`prepare(model, stage, rate, given)` returns a function that trains `model` and returns the network to score, and only that
function is timed. Each stage tries its learning rates from the same start, and up to three further ones, by steps of three, as
long as the best is the highest or the lowest of all. The one with the lowest validation log-loss stays, its seconds alone
count, and the next stage starts from its network. A rate that is given is taken without trying others.
"""

import argparse
import copy
import importlib.metadata
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from timm.data import create_transform, resolve_data_config
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

LIBRARIES = ("torch", "timm", "torchvision", "fastai", "transformers", "accelerate", "scikit-learn")
DATA_KEYS = ("input_size", "mean", "std", "interpolation", "crop_pct", "num_classes")
BATCH_SIZE = 32
FURTHER_RATES = 3  # where a stage gains nothing, ever lower rates would be ever so little better
Prepare = Callable[[Any, str, Any, argparse.Namespace], Callable[[], nn.Module]]


def main(
    description: str,
    prepare: Prepare,
    *,
    rates: Mapping[str, Sequence[float | None]],
    settings: dict[str, str],
    build: Callable[[argparse.Namespace], Any] | None = None,  # `pretrained`
) -> None:
    """Train and score both stages, and write one JSON about them.

    `description` is the script's docstring. `rates` are those to try by stage, None where it has no such choice; `settings` say
    how the peer is set up, for people, and `prepare` may add to them; `build` makes the first stage's network.
    """
    given = arguments(description)
    model, val, test = (build or pretrained)(given), evaluation_batches(given, "val"), evaluation_batches(given, "test")
    stages = {}
    for stage, listed in rates.items():
        chosen = given.rates.get(stage)
        waiting: list[float | None] = [chosen] if chosen else list(listed)
        tried: list[dict[str, Any]] = []
        while waiting:
            tried.append(_try(prepare, model, stage, waiting.pop(0), given, val))
            best = min(tried, key=lambda one: one["val_log_loss"])
            if not waiting and not chosen and len(tried) < len(listed) + FURTHER_RATES:
                waiting += next_rates(best["rate"], [one["rate"] for one in tried])
        model = best.pop("network")
        stages[stage] = (
            best | score(model, test) | {"tried": {one["rate"]: one["val_log_loss"] for one in tried if one["rate"]}}
        )
        print(stage, stages[stage], flush=True)
    installed = {name for name in LIBRARIES if any(importlib.metadata.distributions(name=name))}
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES if name in installed}
    content = {"settings": settings, "versions": versions, "stages": stages}
    given.output.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def next_rates(best: float | None, tried: Sequence[float | None]) -> list[float]:
    """The rate beyond the end of those `tried` at which the best lies; none where it lies between others."""
    known = [rate for rate in tried if rate]
    if not best or len(known) < 2 or min(known) < best < max(known):
        return []
    return [best * 3 if best == max(known) else best / 3]


def _try(prepare: Prepare, model: Any, stage: str, rate: float | None, given: argparse.Namespace, val: Any) -> dict[str, Any]:
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(given.seed)
    candidate = copy.deepcopy(model)
    train = prepare(candidate, stage, rate, given)
    started = time.perf_counter()
    network = train()
    seconds = time.perf_counter() - started
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in candidate.parameters()]
    counted = {"learnt": sum(size for size, learns in sizes if learns), "parameters": sum(size for size, _ in sizes)}
    val_log_loss = score(network, val)["log_loss"]
    print(f"{stage}, rate {rate}: {seconds:.1f} s, validation log-loss {val_log_loss:.4f}", flush=True)
    return {"network": network, "rate": rate, "seconds": seconds, "val_log_loss": val_log_loss} | counted


def arguments(description: str) -> argparse.Namespace:
    """What a peer is given, the same for all."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--backbone", required=True, help="timm's name")
    for name, kind, explained in (
        ("images", Path, "a folder with train, val and test, a folder a class in each"),
        ("weights", Path, "a weights file, a JSON that describes it beside it"),
        ("epochs-frozen", int, None),
        ("epochs-unfrozen", int, None),
        ("seed", int, None),
        ("threads", int, "of the computation; as many processes decode photos"),
        ("same-blocks", Path, "a JSON list of the parameters that this project fine-tunes"),
        ("output", Path, "the JSON to write"),
    ):
        parser.add_argument(f"--{name}", type=kind, required=True, help=explained)
    parser.add_argument("--rates", type=json.loads, default={}, help='such as {"finetuned": 1e-3}; others are tried')
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    return given


def epochs_of(stage: str, given: argparse.Namespace) -> int:
    """How many epochs a stage trains for."""
    return given.epochs_frozen if stage == "frozen" else given.epochs_unfrozen


def timm_arguments(given: argparse.Namespace) -> dict[str, Any]:
    """Arguments by which timm makes the network and reads its weights from the file, but for its classifier."""
    described = json.loads(given.weights.with_suffix(".json").read_text(encoding="utf-8"))
    overlay = {"file": str(given.weights)} | {key: described[key] for key in DATA_KEYS if key in described}
    return {"pretrained_cfg_overlay": overlay, **described.get("model_kwargs", {})}


def pretrained(given: argparse.Namespace) -> Any:
    """timm's network with a new classifier of zeros.

    timm starts the classifier of EfficientNet's family uniformly up to ±1/sqrt(outputs), ±0.71 for two classes, which a short
    training does not get over.
    """
    classes = len(list((given.images / "train").iterdir()))
    model: Any = timm.create_model(given.backbone, pretrained=True, num_classes=classes, **timm_arguments(given))
    for parameter in model.get_classifier().parameters():
        nn.init.zeros_(parameter)
    return model


def data_config(given: argparse.Namespace) -> dict[str, Any]:
    """Input size, mean, deviation, interpolation and crop of the weights, as timm's `create_transform` takes them."""
    return resolve_data_config({}, model=pretrained(given))


def guide_transform(given: argparse.Namespace) -> Any:
    """The training transform of PyTorch's tutorial and of the Trainer's guide: a random resized crop and a flip."""
    config = data_config(given)
    augmentation = [transforms.RandomResizedCrop(config["input_size"][-1]), transforms.RandomHorizontalFlip()]
    return transforms.Compose([*augmentation, transforms.ToTensor(), transforms.Normalize(config["mean"], config["std"])])


def freeze_backbone(model: Any) -> None:
    """Only the classifier learns from here on."""
    model.requires_grad_(False)
    model.get_classifier().requires_grad_(True)


def evaluation_batches(given: argparse.Namespace, split: str) -> DataLoader[Any]:
    """The photos of a split in timm's evaluation transform, in order."""
    photos = ImageFolder(given.images / split, create_transform(**data_config(given), is_training=False))
    return DataLoader(photos, BATCH_SIZE, num_workers=given.threads)


def training_batches(given: argparse.Namespace, transform: Callable[[Any], Any]) -> DataLoader[Any]:
    """The training photos in a new order every epoch."""
    return DataLoader(ImageFolder(given.images / "train", transform), BATCH_SIZE, shuffle=True, num_workers=given.threads)


@torch.inference_mode()
def score(model: nn.Module, batches: DataLoader[Any]) -> dict[str, float]:
    """Log-loss in nats, accuracy and the number of photos."""
    model.eval()
    logits, labels = (torch.cat(parts) for parts in zip(*((model(images), labels) for images, labels in batches), strict=True))
    right = (logits.argmax(1) == labels).double().mean().item()
    return {"log_loss": cross_entropy(logits.double(), labels).item(), "accuracy": right, "n": len(labels)}


def best_epoch(model: nn.Module, epochs: int, train_epoch: Callable[[], None], val: DataLoader[Any]) -> nn.Module:
    """Train for some epochs; the network of the one with the lowest validation log-loss."""
    best, lowest = copy.deepcopy(model.state_dict()), float("inf")
    for _ in range(epochs):
        train_epoch()
        log_loss = score(model, val)["log_loss"]
        if log_loss < lowest:
            best, lowest = copy.deepcopy(model.state_dict()), log_loss
    model.load_state_dict(best)
    return model


def has_bfloat16() -> bool:
    """Whether the processor multiplies in bfloat16; where it does not, emulating it takes many times float32's time."""
    flags = torch.cpu.get_capabilities()
    return bool(flags.get("avx512_bf16") or flags.get("amx_bf16"))
