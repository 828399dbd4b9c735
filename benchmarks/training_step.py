"""A training step's cost, from the plain tutorial loop to this project's, on random images in memory, on CPU or GPU.

    uv run python benchmarks/training_step.py
    uv run python benchmarks/training_step.py --backbone resnet50 --device cuda --compiled

Each line adds one thing to the line above it; all take turns. The ratio of a line is the median over the turns of its rate
over the first line's in the same turn. With --compiled, torch.compile is added last, its compilation not counted.
"""

import argparse
from collections.abc import Callable
from typing import Any

import timm
import torch
from common import in_turns, rates_table, resolved, run_command
from torch import Tensor
from torch.nn.functional import cross_entropy

from pipeline.models.folding import fold_batch_norm
from pipeline.models.freezing import set_trainable
from pipeline.runtime import machine_name


def training_step(
    backbone: str,
    images: Tensor,
    *,
    channels_last: bool = False,
    bfloat16: bool = False,
    frozen_norms: bool = False,
    folded: bool = False,
    unfrozen: Any = "all",
    compiled: bool = False,
) -> Callable[[], None]:
    """A function that makes one update of a network of two classes with random weights."""
    torch.manual_seed(0)
    model: Any = timm.create_model(backbone, num_classes=2).to(images.device).train()
    if frozen_norms:
        set_trainable(model, unfrozen)
    if channels_last:
        model, images = model.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
    if folded:
        fold_batch_norm(model, images[:2])
    if compiled:
        model.compile()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True)
    labels = torch.arange(len(images), device=images.device) % 2

    def step() -> None:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bfloat16):
            logits = model(images)
        loss = cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def measure(given: argparse.Namespace) -> None:
    """Print rates and ratios."""
    runtime = resolved(given.device, workers=0)
    images = torch.randn(given.batch_size, 3, given.size, given.size).to(runtime.device)
    added: dict[str, dict[str, Any]] = {
        "plain: float32, contiguous": {},
        "channels_last": {"channels_last": True},
        "bfloat16, where the hardware has it": {"bfloat16": runtime.mixed_precision == "bf16"},
        "BatchNorm in eval": {"frozen_norms": True},
        "BatchNorm folded": {"folded": True},
        "only the last two blocks unfrozen": {"unfrozen": 2},
    }
    if given.compiled:
        added["compiled"] = {"compiled": True}
    steps, settings = {}, dict[str, Any]()
    for name, changes in added.items():
        settings |= changes
        steps[name] = training_step(given.backbone, images, **settings)
    machine = machine_name(runtime.device, runtime.threads)
    print(f"{given.backbone}, {given.size} px, batch {given.batch_size}, {machine}, {given.turns} turns")
    print(rates_table(("training step", "images/s", "ratio"), given.batch_size, in_turns(steps, given.turns)))


if __name__ == "__main__":
    run_command(
        __doc__,
        measure,
        backbone={"default": "mobilenetv2_100"},
        size={"type": int, "default": 224},
        batch_size={"type": int, "default": 32},
        turns={"type": int, "default": 7},
        device={"default": "cpu"},
        compiled={"action": "store_true"},
    )
