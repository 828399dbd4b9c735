# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = ["torch>=2.10,<3", "torchvision>=0.25,<1", "timm>=1.0.24,<1.1", "scikit-learn>=1.7,<2"]
# [tool.uv]
# exclude-newer = "2026-11-15T00:00:00Z"
# ///
"""The 30 lines that a good engineer writes: timm's features, scikit-learn's LogisticRegression, and fine-tuning from it.

Features come from the network in eval mode, once; C is chosen on validation, inside the time. The solution becomes the
classifier, and the blocks that this project fine-tunes learn from there, as the rest stays in eval mode: AdamW, cosine, random
crops and flips, and the best epoch by validation log-loss.

    uv run --script benchmarks/peers/thirty_lines_peer.py --help
"""

import argparse
import json
from functools import partial
from typing import Any

import torch
from peer import best_epoch, data_config, evaluation_batches, freeze_backbone, has_bfloat16, main, training_batches
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from timm.data import create_transform
from torch.nn.functional import cross_entropy

PENALTIES = (0.001, 0.01, 0.1, 1.0, 10.0)
RATES = {"frozen": (None,), "finetuned": (3e-5, 1e-4, 3e-4, 1e-3)}
SETTINGS = {
    "optimizer": "LogisticRegression, C on validation; then AdamW on the blocks that this project fine-tunes, cosine",
    "augmentation": "random crops (0.5 to 1 of the area), flip",
    "head": "the logistic regression's",
}


@torch.inference_mode()
def solve_head(model: Any, given: argparse.Namespace) -> Any:
    """Set the classifier to the logistic regression on the network's features that is best on validation."""
    features = {}
    for split in ("train", "val"):
        batches = evaluation_batches(given, split)
        pairs = [(model.forward_head(model.forward_features(images), pre_logits=True), labels) for images, labels in batches]
        features[split] = [torch.cat(parts).numpy() for parts in zip(*pairs, strict=True)]
    solved = [LogisticRegression(C=penalty, max_iter=2000).fit(*features["train"]) for penalty in PENALTIES]
    (val, labels) = features["val"]
    best = min(solved, key=lambda one: log_loss(labels, one.predict_proba(val)))
    SETTINGS["head"] = f"the logistic regression's, C = {best.C}"
    weight, bias = torch.from_numpy(best.coef_).float(), torch.from_numpy(best.intercept_).float()
    head = model.get_classifier()  # of two classes scikit-learn has the second's row alone: half of it each way is the same
    head.weight.copy_(torch.cat([-weight / 2, weight / 2]) if len(weight) == 1 else weight)
    head.bias.copy_(torch.cat([-bias / 2, bias / 2]) if len(bias) == 1 else bias)
    return model


def prepare(model: Any, stage: str, rate: Any, given: argparse.Namespace) -> Any:
    """See above."""
    model.eval()
    if stage == "frozen":
        freeze_backbone(model)
        return partial(solve_head, model, given)
    learning = set(json.loads(given.same_blocks.read_text(encoding="utf-8")))
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name in learning
    model = model.to(memory_format=torch.channels_last)
    batches = training_batches(
        given, create_transform(**data_config(given), is_training=True, scale=(0.5, 1), color_jitter=0.0)
    )
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, given.epochs_unfrozen * len(batches))
    bfloat16 = has_bfloat16()
    SETTINGS["precision"] = f"{'bfloat16' if bfloat16 else 'float32'}, channels_last"

    def train_epoch() -> None:
        model.eval()
        for images, labels in batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                logits = model(images.contiguous(memory_format=torch.channels_last))
            optimizer.zero_grad()
            cross_entropy(logits.float(), labels).backward()
            optimizer.step()
            schedule.step()

    return partial(best_epoch, model, given.epochs_unfrozen, train_epoch, evaluation_batches(given, "val"))


if __name__ == "__main__":
    main(__doc__, prepare, rates=RATES, settings=SETTINGS)
