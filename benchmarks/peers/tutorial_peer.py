# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = ["torch>=2.10,<3", "torchvision>=0.25,<1", "timm>=1.0.24,<1.1"]
# [tool.uv]
# exclude-newer = "2026-11-15T00:00:00Z"
# ///
"""The plain loop of PyTorch's transfer-learning tutorial, on a timm backbone.

https://docs.pytorch.org/tutorials/beginner/transfer_learning_tutorial.html: SGD at 1e-3 with momentum 0.9, a tenth of it every
seven epochs, the best epoch by validation accuracy kept; first with the backbone frozen ("ConvNet as fixed feature
extractor"), then everything learns ("Finetuning the ConvNet"). Batches of 32 in place of its 4, which would be slower; so that
as many epochs teach as much, the learning rate is eight times the tutorial's 1e-3 (Goyal et al., Accurate, large minibatch SGD,
2017).

    uv run --script benchmarks/peers/tutorial_peer.py --help
"""

import argparse
import copy
from typing import Any

import torch
from peer import BATCH_SIZE, Run, arguments, data_config, freeze_backbone, predictions, pretrained, test_batches
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

LEARNING_RATE = 1e-3 * BATCH_SIZE / 4
SETTINGS = {
    "optimiser": "SGD, 8e-3, momentum 0.9, StepLR(7, 0.1)",
    "augmentation": "RandomResizedCrop, flip",
    "precision": "float32, contiguous",
    "kept": "the best epoch by validation accuracy",
}


def loaders(given: argparse.Namespace, config: dict[str, Any]) -> dict[str, DataLoader[Any]]:
    """Training and validation batches with the tutorial's transforms, at the backbone's size and normalisation."""
    size = config["input_size"][-1]
    last = [transforms.ToTensor(), transforms.Normalize(config["mean"], config["std"])]
    of_split = {
        "train": transforms.Compose([transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip(), *last]),
        "val": transforms.Compose([transforms.Resize(round(size * 256 / 224)), transforms.CenterCrop(size), *last]),
    }
    return {
        split: DataLoader(
            ImageFolder(given.images / split, transform), BATCH_SIZE, shuffle=split == "train", num_workers=given.threads
        )
        for split, transform in of_split.items()
    }


def train(model: nn.Module, batches: dict[str, DataLoader[Any]], epochs: int) -> None:
    """The tutorial's train_model."""
    criterion = nn.CrossEntropyLoss()
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=LEARNING_RATE, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimiser, step_size=7, gamma=0.1)
    best, best_accuracy = copy.deepcopy(model.state_dict()), 0.0
    for _ in range(epochs):
        model.train()
        for images, labels in batches["train"]:
            optimiser.zero_grad()
            criterion(model(images), labels).backward()
            optimiser.step()
        scheduler.step()
        predicted, labels = predictions(model, batches["val"])
        accuracy = (predicted == labels).double().mean().item()
        print(f"validation accuracy {accuracy:.2%}", flush=True)
        if accuracy > best_accuracy:
            best, best_accuracy = copy.deepcopy(model.state_dict()), accuracy
    model.load_state_dict(best)


def main() -> None:
    """Both stages, timed and scored."""
    given = arguments(__doc__)
    run = Run(given)
    model = pretrained(given, run.num_classes)
    config = data_config(model)
    batches, test = loaders(given, config), test_batches(given, config)
    freeze_backbone(model)
    with run.stage("frozen"):
        train(model, batches, given.epochs_frozen)
    run.score("frozen", *predictions(model, test))
    model.requires_grad_(True)
    with run.stage("finetuned"):
        train(model, batches, given.epochs_unfrozen)
    run.score("finetuned", *predictions(model, test))
    run.write(SETTINGS)


if __name__ == "__main__":
    main()
