# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = ["torch>=2.10,<3", "torchvision>=0.25,<1", "timm>=1.0.24,<1.1", "fastai>=2.8,<2.9"]
# [tool.uv]
# exclude-newer = "2026-11-15T00:00:00Z"
# ///
"""fastai's vision_learner on a timm backbone, trained as its fine_tune does.

https://docs.fast.ai/callback.schedule.html#learner.fine_tune: one cycle over its own head, then one cycle over everything, the
rate falling to a hundredth in the lowest layers; photos resized in the workers and augmented in batches (aug_transforms),
channels_last by fastai's own callback. Its mixed precision is for GPUs.

    uv run --script benchmarks/peers/fastai_peer.py --help
"""

import argparse
from typing import Any

from fastai.callback.channelslast import ChannelsLast
from fastai.vision.all import ImageDataLoaders, Resize, aug_transforms, vision_learner
from peer import BATCH_SIZE, data_config, main, timm_arguments
from torch import nn

RATES = {"frozen": (2e-3, 5e-3, 1e-2), "finetuned": (3e-4, 1e-3, 3e-3)}  # fine_tune's defaults among them: 2e-3 and 1e-3
SETTINGS = {
    "optimizer": "Adam, one cycle, a hundredth of the rate in the lowest layers; the last epoch",
    "augmentation": "aug_transforms",
    "head": "fastai's own",
    "precision": "float32, channels_last",
}


def learner(given: argparse.Namespace) -> Any:
    """fastai's learner with its own head on the timm body, which starts frozen."""
    data = ImageDataLoaders.from_folder(
        given.images,
        train="train",
        valid="val",
        item_tfms=Resize(data_config(given)["input_size"][-1]),
        batch_tfms=aug_transforms(),
        bs=BATCH_SIZE,
        num_workers=given.threads,
        seed=given.seed,
    )
    return vision_learner(data, given.backbone, cbs=ChannelsLast(), **timm_arguments(given))


def prepare(model: Any, stage: str, rate: Any, given: argparse.Namespace) -> Any:
    """fine_tune's two cycles, with its percentages and divisors."""
    learn = learner(given)
    learn.model, learn.opt = model, None  # an optimizer of this network's parameters is made by what follows
    if stage == "frozen":
        learn.freeze()
    else:
        learn.unfreeze()

    def train() -> nn.Module:
        with learn.no_bar(), learn.no_logging():
            if stage == "frozen":
                learn.fit_one_cycle(given.epochs_frozen, slice(rate), pct_start=0.99)
            else:
                learn.fit_one_cycle(given.epochs_unfrozen, slice(rate / 100, rate), pct_start=0.3, div=5.0)
        return learn.model

    return train


if __name__ == "__main__":
    main(__doc__, prepare, rates=RATES, settings=SETTINGS, build=lambda given: learner(given).model)
