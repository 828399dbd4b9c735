# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = ["torch>=2.10,<3", "torchvision>=0.25,<1", "timm>=1.0.24,<1.1", "pillow<13"]
# # timm's RandAugment posterises to 0 bits now and then, which Pillow 13 refuses.
# [tool.uv]
# exclude-newer = "2026-11-15T00:00:00Z"
# ///
"""timm's own recipe, of the parts that its train.py is made of: train.py itself is not in the installed package.

https://huggingface.co/docs/timm/training_script: create_loader with RandAugment, random erasing and bicubic crops, Mixup with
smoothed labels, AdamW with layer-wise decay of the learning rate, cosine schedule stepped by update with an epoch's eighth of
warm-up, and ModelEmaV3, which is what is scored. bfloat16 (--amp-dtype) where it makes steps faster on this machine.

    uv run --script benchmarks/peers/timm_peer.py --help
"""

import argparse
from dataclasses import dataclass
from typing import Any

import torch
from peer import BATCH_SIZE, Run, arguments, bfloat16_pays, data_config, freeze_backbone, predictions, pretrained, test_batches
from timm.data import Mixup, create_dataset, create_loader
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch import nn

LEARNING_RATES = {"frozen": 1e-3, "finetuned": 3e-4}
WARM_UP_SHARE = 8  # the first eighth of the updates


@dataclass(frozen=True)
class Loaders:
    """Batches as train.py makes them; `mixup` is applied to training batches."""

    train: Any
    val: Any
    mixup: Mixup


def loaders(given: argparse.Namespace, config: dict[str, Any], num_classes: int) -> Loaders:
    """create_dataset and create_loader with train.py's usual augmentation."""
    common: dict[str, Any] = {
        "input_size": config["input_size"],
        "batch_size": BATCH_SIZE,
        "interpolation": config["interpolation"],
        "mean": config["mean"],
        "std": config["std"],
        "crop_pct": config["crop_pct"],
        "num_workers": given.threads,
        "device": torch.device("cpu"),
        "use_prefetcher": False,
    }
    train = create_dataset("", root=str(given.images), split="train", is_training=True)
    val = create_dataset("", root=str(given.images), split="val")
    augmented: dict[str, Any] = {
        "is_training": True,
        "auto_augment": "rand-m9-mstd0.5-inc1",
        "re_prob": 0.25,
        "re_mode": "pixel",
    }
    mixup = Mixup(mixup_alpha=0.2, label_smoothing=0.1, num_classes=num_classes)
    return Loaders(create_loader(train, **common, **augmented), create_loader(val, **common), mixup)


def train(model: nn.Module, batches: Loaders, stage: str, epochs: int, bfloat16: bool) -> nn.Module:
    """train.py's train_one_epoch over the epochs; returns the moving average of the weights."""
    layer_decay = 0.75 if stage == "finetuned" else None
    optimiser = create_optimizer_v2(model, opt="adamw", lr=LEARNING_RATES[stage], weight_decay=0.05, layer_decay=layer_decay)
    updates = len(batches.train) * epochs
    # Counted in updates: an epoch's worth of warm-up, as in train.py, would be all of a short training.
    scheduler, _ = create_scheduler_v2(
        optimiser,
        sched="cosine",
        num_epochs=updates,
        warmup_epochs=updates // WARM_UP_SHARE,
        warmup_lr=1e-6,
    )
    averaged = ModelEmaV3(model, decay=0.9998, use_warmup=True)
    criterion, update = SoftTargetCrossEntropy(), 0
    for _ in range(epochs):
        model.train()
        for images, labels in batches.train:
            images, targets = batches.mixup(images.contiguous(memory_format=torch.channels_last), labels)
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                logits = model(images)
            optimiser.zero_grad()
            criterion(logits.float(), targets).backward()
            optimiser.step()
            update += 1
            averaged.update(model, step=update)
            scheduler.step(update)
        predicted, labels = predictions(averaged.module, batches.val)
        print(f"validation accuracy {(predicted == labels).double().mean().item():.2%}", flush=True)
    return averaged.module


def main() -> None:
    """Both stages, timed and scored; the second goes on from the first's average."""
    given = arguments(__doc__)
    run = Run(given)
    model = pretrained(given, run.num_classes).to(memory_format=torch.channels_last)
    config = data_config(model)
    bfloat16 = bfloat16_pays(given, config)
    batches, test = loaders(given, config, run.num_classes), test_batches(given, config)
    freeze_backbone(model)
    with run.stage("frozen"):
        averaged = train(model, batches, "frozen", given.epochs_frozen, bfloat16)
    run.score("frozen", *predictions(averaged, test))
    model.load_state_dict(averaged.state_dict())
    model.requires_grad_(True)
    with run.stage("finetuned"):
        averaged = train(model, batches, "finetuned", given.epochs_unfrozen, bfloat16)
    run.score("finetuned", *predictions(averaged, test))
    run.write(
        {
            "optimiser": "AdamW, cosine, layer decay 0.75; 1e-3 frozen, then 3e-4",
            "augmentation": "RandAugment, random erasing, Mixup",
            "precision": f"{'bfloat16' if bfloat16 else 'float32'} (the faster), channels_last",
            "kept": "moving average of the weights",
        }
    )


if __name__ == "__main__":
    main()
