# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = ["torch>=2.10,<3", "torchvision>=0.25,<1", "timm>=1.0.24,<1.1"]
# [tool.uv]
# exclude-newer = "2026-11-15T00:00:00Z"
# ///
"""The plain loop of PyTorch's transfer-learning tutorial, on a timm backbone.

https://docs.pytorch.org/tutorials/beginner/transfer_learning_tutorial.html: SGD with momentum 0.9, a tenth of the rate every
seven epochs; first with the backbone frozen ("ConvNet as fixed feature extractor"), then everything learns ("Finetuning the
ConvNet"). Batches of 32 in place of its 4, and so eight times its rate of 1e-3 is among those tried.

    uv run --script benchmarks/peers/tutorial_peer.py --help
"""

import argparse
from functools import partial
from typing import Any

import torch
from peer import best_epoch, epochs_of, evaluation_batches, freeze_backbone, guide_transform, main, training_batches
from torch import nn

RATES = {"frozen": (8e-3, 3e-2, 1e-1), "finetuned": (3e-4, 1e-3, 8e-3)}
SETTINGS = {
    "optimizer": "SGD, momentum 0.9, StepLR(7, 0.1); the best epoch by validation log-loss",
    "augmentation": "RandomResizedCrop, flip",
    "head": "zeros",
    "precision": "float32, contiguous",
}


def prepare(model: Any, stage: str, rate: Any, given: argparse.Namespace) -> Any:
    """The tutorial's train_model."""
    batches = training_batches(given, guide_transform(given))
    model.requires_grad_(True)
    if stage == "frozen":
        freeze_backbone(model)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=rate, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)

    def train_epoch() -> None:
        model.train()
        for images, labels in batches:
            optimizer.zero_grad()
            criterion(model(images), labels).backward()
            optimizer.step()
        scheduler.step()

    return partial(best_epoch, model, epochs_of(stage, given), train_epoch, evaluation_batches(given, "val"))


if __name__ == "__main__":
    main(__doc__, prepare, rates=RATES, settings=SETTINGS)
