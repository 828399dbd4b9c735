# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = ["torch>=2.10,<3", "torchvision>=0.25,<1", "timm>=1.0.24,<1.1", "fastai>=2.8,<2.9"]
# [tool.uv]
# exclude-newer = "2026-11-15T00:00:00Z"
# ///
"""fastai's vision_learner on a timm backbone, trained as its fine_tune does.

https://docs.fast.ai/callback.schedule.html#learner.fine_tune: one cycle over the head at 2e-3, then one cycle over everything,
at 1e-3 in the head down to 1e-5 in the lowest layers; photos resized in the workers and augmented in batches
(aug_transforms), channels_last by fastai's own callback. Its mixed precision is for GPUs.

    uv run --script benchmarks/peers/fastai_peer.py --help
"""

import argparse
from typing import Any

from fastai.callback.channelslast import ChannelsLast
from fastai.vision.all import ImageDataLoaders, Resize, accuracy, aug_transforms, vision_learner
from peer import BATCH_SIZE, Run, arguments, data_config, model_kwargs, pretrained, weights_overlay

BASE_LR, LR_MULT = 2e-3, 100  # fine_tune's defaults, and so are the percentages and divisors below
SETTINGS = {
    "optimiser": "Adam, one cycle; 2e-3 frozen, then 1e-5 to 1e-3",
    "augmentation": "aug_transforms",
    "precision": "float32, channels_last",
    "kept": "the last epoch",
}


def learner(given: argparse.Namespace, num_classes: int) -> Any:
    """fastai's learner with its own head on the timm body, which starts frozen."""
    size = data_config(pretrained(given, num_classes))["input_size"][-1]
    data = ImageDataLoaders.from_folder(
        given.images,
        train="train",
        valid="val",
        item_tfms=Resize(size),
        batch_tfms=aug_transforms(),
        bs=BATCH_SIZE,
        num_workers=given.threads,
        seed=given.seed,
    )
    return vision_learner(
        data,
        given.backbone,
        metrics=accuracy,
        cbs=ChannelsLast(),
        pretrained_cfg_overlay=weights_overlay(given.weights),
        **model_kwargs(given.weights),
    )


def score(run: Run, stage: str, learn: Any, given: argparse.Namespace) -> None:
    """On the test photos, in fastai's transforms for validation."""
    files = sorted((given.images / "test").glob("*/*"))
    probabilities, labels = learn.get_preds(dl=learn.dls.test_dl(files, with_labels=True))
    run.score(stage, probabilities.argmax(1), labels)


def main() -> None:
    """Both stages, timed and scored."""
    given = arguments(__doc__)
    run = Run(given)
    learn = learner(given, run.num_classes)
    with learn.no_bar():
        learn.freeze()
        with run.stage("frozen"):
            learn.fit_one_cycle(given.epochs_frozen, slice(BASE_LR), pct_start=0.99)
        score(run, "frozen", learn, given)
        learn.unfreeze()
        with run.stage("finetuned"):
            learn.fit_one_cycle(given.epochs_unfrozen, slice(BASE_LR / 2 / LR_MULT, BASE_LR / 2), pct_start=0.3, div=5.0)
        score(run, "finetuned", learn, given)
    run.write(SETTINGS)


if __name__ == "__main__":
    main()
