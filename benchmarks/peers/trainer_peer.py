# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = ["torch>=2.10,<3", "torchvision>=0.25,<1", "timm>=1.0.24,<1.1", "transformers[torch]>=5,<6"]
# [tool.uv]
# exclude-newer = "2026-11-15T00:00:00Z"
# ///
"""Hugging Face's Trainer on a timm backbone.

https://huggingface.co/docs/transformers/tasks/image_classification: AdamW, a tenth of the steps to warm up, then linear decay,
random resized crops and flips, the best epoch kept (here by validation log-loss). The guide has no frozen stage; here the head
learns alone first. bfloat16, which the Trainer documents for processors, where the processor has it.

    uv run --script benchmarks/peers/trainer_peer.py --help
"""

import argparse
import tempfile
from typing import Any

import torch
from peer import BATCH_SIZE, data_config, epochs_of, freeze_backbone, guide_transform, has_bfloat16, main
from timm.data import create_transform
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision.datasets import ImageFolder
from transformers import Trainer, TrainingArguments

RATES = {"frozen": (1e-3, 5e-3, 2e-2), "finetuned": (5e-5, 2e-4, 1e-3)}
SETTINGS = {
    "optimizer": "AdamW, 10% warm-up, linear decay; the best epoch by validation log-loss",
    "augmentation": "RandomResizedCrop, flip",
    "head": "zeros",
}


class Classifier(nn.Module):
    """A timm network that speaks as the Trainer expects: by names, with the loss beside the logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """`pixel_values` (n, 3, height, width), `labels` (n,) -> the mean loss, and logits (n, classes)."""
        logits = self.model(pixel_values.contiguous(memory_format=torch.channels_last))
        return {"loss": cross_entropy(logits.float(), labels), "logits": logits}


def collate(examples: list[tuple[Tensor, int]]) -> dict[str, Tensor]:
    """The guide's collate function."""
    images, labels = zip(*examples, strict=True)
    return {"pixel_values": torch.stack(images), "labels": torch.tensor(labels)}


def prepare(model: Any, stage: str, rate: Any, given: argparse.Namespace) -> Any:
    """The guide's settings; timm's transform for evaluation."""
    bfloat16 = has_bfloat16()
    SETTINGS["precision"] = f"{'bfloat16' if bfloat16 else 'float32'}, channels_last images"
    model.requires_grad_(True)
    if stage == "frozen":
        freeze_backbone(model)
    folder = tempfile.TemporaryDirectory()  # removed with the function that training leaves
    settings = TrainingArguments(
        output_dir=folder.name,
        num_train_epochs=epochs_of(stage, given),
        learning_rate=rate,
        warmup_steps=0.1,  # below 1: a fraction of the steps
        per_device_train_batch_size=BATCH_SIZE,
        per_device_eval_batch_size=BATCH_SIZE,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        use_cpu=True,
        bf16=bfloat16,
        dataloader_num_workers=given.threads,
        seed=given.seed,
        report_to="none",
        disable_tqdm=True,
    )
    # Its images alone are channels_last, and what follows them: the Trainer cannot save weights that are.
    trainer = Trainer(
        Classifier(model),
        settings,
        data_collator=collate,
        train_dataset=ImageFolder(given.images / "train", guide_transform(given)),
        eval_dataset=ImageFolder(given.images / "val", create_transform(**data_config(given), is_training=False)),
    )

    def run() -> nn.Module:
        with folder:
            trainer.train()
        return model

    return run


if __name__ == "__main__":
    main(__doc__, prepare, rates=RATES, settings=SETTINGS)
