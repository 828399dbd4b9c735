"""A training step's cost, from the plain tutorial loop to this project's, on random images in memory, on CPU or GPU.

    uv run python benchmarks/training_step.py
    uv run python benchmarks/training_step.py --backbone resnet50 --device cuda --compiled

Each line adds one thing to the line above it; all take turns. The ratio of a line is the median over the turns of its rate
over the first line's in the same turn. With --compiled, torch.compile is added last, its compilation not counted.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

from common import in_turns, median_ratio, resolved, run_or_exit, table


def training_step(
    backbone: str,
    images: Any,
    *,
    channels_last: bool = True,
    bfloat16: bool = True,
    frozen_norms: bool = True,
    folded: bool = True,
    unfrozen: Any = "all",
    compiled: bool = False,
) -> Callable[[], None]:
    """A function that makes one update of a network of two classes with random weights."""
    import timm
    import torch
    from torch.nn.functional import cross_entropy

    from pipeline.models.folding import fold_batch_norm
    from pipeline.models.freezing import set_trainable

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
    import torch

    from pipeline.runtime import machine_name

    runtime = resolved(given.device, workers=0)
    images = torch.randn(given.batch_size, 3, given.size, given.size).to(runtime.device)
    plain: dict[str, Any] = {"channels_last": False, "bfloat16": False, "frozen_norms": False, "folded": False}
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
    steps = {}
    for name, changes in added.items():
        plain |= changes
        steps[name] = training_step(given.backbone, images, **plain)
    taken, first = in_turns(steps, given.turns), next(iter(steps))
    rows = [
        (name, f"{given.batch_size / statistics.median(taken[name]):.1f}", f"{median_ratio(taken[first], taken[name]):.2f}")
        for name in steps
    ]
    machine = machine_name(runtime.device, runtime.threads)
    print(f"{given.backbone}, {given.size} px, batch {given.batch_size}, {machine}, {given.turns} turns")
    print(table(("training step", "images/s", "ratio"), rows))


def main() -> None:
    """Parse the options and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="mobilenetv2_100")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compiled", action="store_true")
    given = parser.parse_args()
    run_or_exit(lambda: measure(given))


if __name__ == "__main__":
    main()
