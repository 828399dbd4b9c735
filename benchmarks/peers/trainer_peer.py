# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = ["torch>=2.10,<3", "torchvision>=0.25,<1", "timm>=1.0.24,<1.1", "transformers[torch]>=5,<6"]
# [tool.uv]
# exclude-newer = "2026-11-15T00:00:00Z"
# ///
"""Hugging Face's Trainer on a timm backbone.

https://huggingface.co/docs/transformers/tasks/image_classification: AdamW at 5e-5, a tenth of the steps to warm up, then linear
decay, random resized crops and flips, the best epoch by validation accuracy kept. The guide has no frozen stage; here the head
learns alone at 1e-3 first. bfloat16, which the Trainer documents for processors, where it makes steps faster on this machine.

    uv run --script benchmarks/peers/trainer_peer.py --help
"""

import argparse
import tempfile
from typing import Any

import torch
from peer import BATCH_SIZE, Run, arguments, bfloat16_pays, data_config, freeze_backbone, pretrained
from timm.data import create_transform
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision import transforms
from torchvision.datasets import ImageFolder
from transformers import Trainer, TrainingArguments

LEARNING_RATES = {"frozen": 1e-3, "finetuned": 5e-5}


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


def photos(given: argparse.Namespace, config: dict[str, Any]) -> dict[str, ImageFolder]:
    """Splits; the guide's transform for training, timm's for evaluation."""
    size = config["input_size"][-1]
    last = [transforms.ToTensor(), transforms.Normalize(config["mean"], config["std"])]
    training = transforms.Compose([transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip(), *last])
    evaluation = create_transform(**config, is_training=False)
    of_split = {"train": training, "val": evaluation, "test": evaluation}
    return {split: ImageFolder(given.images / split, transform) for split, transform in of_split.items()}


def settings_of(given: argparse.Namespace, stage: str, folder: str, bfloat16: bool) -> TrainingArguments:
    """The guide's settings."""
    return TrainingArguments(
        output_dir=f"{folder}/{stage}",
        num_train_epochs=given.epochs_frozen if stage == "frozen" else given.epochs_unfrozen,
        learning_rate=LEARNING_RATES[stage],
        warmup_steps=0.1,  # below 1: a share of the steps
        per_device_train_batch_size=BATCH_SIZE,
        per_device_eval_batch_size=BATCH_SIZE,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        use_cpu=True,
        bf16=bfloat16,
        dataloader_num_workers=given.threads,
        seed=given.seed,
        report_to="none",
        disable_tqdm=True,
    )


def accuracy(outputs: Any) -> dict[str, float]:
    """What the best epoch is chosen by."""
    return {"accuracy": float((outputs.predictions.argmax(1) == outputs.label_ids).mean())}


def main() -> None:
    """Both stages, timed and scored."""
    given = arguments(__doc__)
    run = Run(given)
    model = pretrained(given, run.num_classes)
    config = data_config(model)
    bfloat16, of_split = bfloat16_pays(given, config), photos(given, config)
    # The images alone are channels_last, and what follows them: the Trainer cannot save weights that are.
    classifier = Classifier(model)
    freeze_backbone(model)
    with tempfile.TemporaryDirectory() as folder:
        for stage in ("frozen", "finetuned"):
            trainer = Trainer(
                classifier,
                settings_of(given, stage, folder, bfloat16),
                data_collator=collate,
                train_dataset=of_split["train"],
                eval_dataset=of_split["val"],
                compute_metrics=accuracy,
            )
            with run.stage(stage):
                trainer.train()
            outputs = trainer.predict(of_split["test"])
            run.score(stage, torch.from_numpy(outputs.predictions.argmax(1)), torch.from_numpy(outputs.label_ids))
            model.requires_grad_(True)
    run.write(
        {
            "optimiser": "AdamW, 10% warm-up, linear decay; 1e-3 frozen, then 5e-5",
            "augmentation": "RandomResizedCrop, flip",
            "precision": f"{'bfloat16' if bfloat16 else 'float32'} (the faster), channels_last images",
            "kept": "the best epoch by validation accuracy",
        }
    )


if __name__ == "__main__":
    main()
