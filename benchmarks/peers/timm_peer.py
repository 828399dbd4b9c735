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
warm-up, and ModelEmaV3, which is what is scored. bfloat16 (--amp-dtype) where the processor has it.

    uv run --script benchmarks/peers/timm_peer.py --help
"""

import argparse
from typing import Any

import torch
from peer import BATCH_SIZE, data_config, epochs_of, freeze_backbone, has_bfloat16, main
from timm.data import Mixup, create_dataset, create_loader
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch import nn

RATES = {"frozen": (1e-3, 5e-3, 2e-2), "finetuned": (1e-4, 3e-4, 1e-3)}
SETTINGS = {
    "optimizer": "AdamW, cosine, layer decay 0.75 in fine-tuning; the moving average of the weights",
    "augmentation": "RandAugment, random erasing, Mixup",
    "head": "zeros",
}


def prepare(model: Any, stage: str, rate: Any, given: argparse.Namespace) -> Any:
    """train.py's train_one_epoch over the epochs; returns the moving average of the weights."""
    config, bfloat16 = data_config(given), has_bfloat16()
    SETTINGS["precision"] = f"{'bfloat16' if bfloat16 else 'float32'}, channels_last"
    model = model.to(memory_format=torch.channels_last).requires_grad_(True)
    if stage == "frozen":
        freeze_backbone(model)
    batches = create_loader(
        create_dataset("", root=str(given.images), split="train", is_training=True),
        batch_size=BATCH_SIZE,
        **{key: config[key] for key in ("input_size", "interpolation", "mean", "std", "crop_pct")},
        num_workers=given.threads,
        device=torch.device("cpu"),
        use_prefetcher=False,
        is_training=True,
        auto_augment="rand-m9-mstd0.5-inc1",
        re_prob=0.25,
        re_mode="pixel",
    )
    mixup = Mixup(mixup_alpha=0.2, label_smoothing=0.1, num_classes=model.num_classes)
    layer_decay = 0.75 if stage == "finetuned" else None
    optimizer = create_optimizer_v2(model, opt="adamw", lr=rate, weight_decay=0.05, layer_decay=layer_decay)
    updates = len(batches) * epochs_of(stage, given)
    # Counted in updates: an epoch's worth of warm-up, as in train.py, would be all of a short training.
    warm_up: dict[str, Any] = {"warmup_epochs": updates // 8, "warmup_lr": 1e-6}
    scheduler, _ = create_scheduler_v2(optimizer, sched="cosine", num_epochs=updates, **warm_up)
    averaged = ModelEmaV3(model, decay=0.9998, use_warmup=True)
    criterion = SoftTargetCrossEntropy()

    def train() -> nn.Module:
        model.train()
        update = 0
        while update < updates:
            for images, labels in batches:
                images, targets = mixup(images.contiguous(memory_format=torch.channels_last), labels)
                with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                    logits = model(images)
                optimizer.zero_grad()
                criterion(logits.float(), targets).backward()
                optimizer.step()
                update += 1
                averaged.update(model, step=update)
                scheduler.step(update)
        return averaged.module

    return train


if __name__ == "__main__":
    main(__doc__, prepare, rates=RATES, settings=SETTINGS)
