"""What a training step costs, from the plain tutorial loop to this project's, on random images in memory.

    uv run python benchmarks/training_step.py
    uv run python benchmarks/training_step.py --backbone resnet18 --repeats 5

Each line adds one thing to the line above it. All variants take turns, so that a machine that slows down slows all of them;
the ratio of a line is the median over the turns of its rate against the first line's of the same turn.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pipeline.models.folding import fold_batch_norm
from pipeline.models.freezing import set_trainable
from pipeline.params import Runtime
from pipeline.runtime import resolve_runtime

Step = Callable[[], float]
WARM_UPS = 2


def training_step(
    backbone: str, images: Tensor, *, channels_last: bool, bfloat16: bool, held: bool, folded: bool, unfrozen: int | None = None
) -> Step:
    """A function that makes one update of a network of two classes and returns the seconds it took."""
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(backbone, num_classes=2).train()
    if held:
        set_trainable(model, unfrozen or "all")
    if channels_last:
        model, images = model.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
    if folded:
        fold_batch_norm(model, images[:2])
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True)
    labels = torch.arange(len(images)) % 2

    def step() -> float:
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            logits = model(images)
        loss = cross_entropy(logits.float(), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return time.perf_counter() - started

    return step


def main() -> None:
    """Print rates and ratios."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--backbone", default="mobilenetv2_100")
    arguments.add_argument("--size", type=int, default=224)
    arguments.add_argument("--batch-size", type=int, default=32)
    arguments.add_argument("--repeats", type=int, default=7)
    given = arguments.parse_args()
    runtime = resolve_runtime(Runtime(device="cpu", processes=1, workers=0, threads="auto", seconds_between_saves=30.0))
    images = torch.randn(given.batch_size, 3, given.size, given.size)
    plain = {"channels_last": False, "bfloat16": False, "held": False, "folded": False}
    last, fast = plain | {"channels_last": True}, {"channels_last": True, "bfloat16": runtime.bfloat16, "held": True}
    steps = {
        "plain: float32, contiguous": training_step(given.backbone, images, **plain),
        "channels_last": training_step(given.backbone, images, **last),
        "bfloat16, where the processor has it": training_step(given.backbone, images, **last | {"bfloat16": runtime.bfloat16}),
        "BatchNorm in eval": training_step(given.backbone, images, **fast, folded=False),
        "BatchNorm folded": training_step(given.backbone, images, **fast, folded=True),
        "only the last two blocks unfrozen": training_step(given.backbone, images, **fast, folded=True, unfrozen=2),
    }
    turns = [{name: step() for name, step in steps.items()} for _ in range(WARM_UPS + given.repeats)][WARM_UPS:]
    print(f"{given.backbone}, {given.size} px, batch {given.batch_size}, {runtime.threads} threads, {given.repeats} turns")
    print("| training step | images/s | ratio |\n| --- | --- | --- |")
    first = next(iter(steps))
    for name in steps:
        rate = given.batch_size / statistics.median(seconds[name] for seconds in turns)
        ratio = statistics.median(seconds[first] / seconds[name] for seconds in turns)
        print(f"| {name} | {rate:.1f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
