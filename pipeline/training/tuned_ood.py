"""What is familiar to a network that has been fine-tuned, whose features have yet to be computed.

ood = ood_detector_of(model, task, trunk)
"""

import copy
import math
from functools import partial

import torch
from torch import Tensor, nn

from pipeline.data.dataset import Photos
from pipeline.data.transforms import normalise
from pipeline.models.backends import deviation
from pipeline.models.freezing import set_trainable
from pipeline.models.ood import OodDetector
from pipeline.models.splitting import split_model
from pipeline.training.features import FeatureExtractor, backend_for, first_pixels, run_over
from pipeline.training.ood import fit_ood_detector
from pipeline.training.task import Task
from pipeline.training.trunk import Trunk, run_above

MOST_PHOTOS = 1000  # of a split: more change the covariance little
TOLERANCE = 0.15  # as `deviation` measures: a backend's rounding, bfloat16's too, stays below


def ood_detector_of(model: nn.Module, task: Task, trunk: Trunk | None) -> OodDetector:
    """What is familiar to a fine-tuned network, by its features of at most `MOST_PHOTOS` evenly chosen photos of a split.

    Args:
        model: a timm network in eval mode, on the CPU; a copy is worked on.
        task: its fine-tuning, with the photos that it learnt from, and others.
        trunk: what its frozen blocks made of those. Without one, or where the way to the features parts from the way to the
            logits below the cut, the photos go through the whole network again.
    """
    model = copy.deepcopy(model)
    set_trainable(model, task.settings.unfrozen_blocks)
    extractor = FeatureExtractor(model).eval()
    if trunk is None or not _is_cut_as(trunk, extractor, task):
        features, others = _features(extractor, task)
    else:
        features, others = _features_above(extractor, task, trunk)
    return fit_ood_detector(features, task.train.labels[_some(task.train)], others)


def _some(photos: Photos) -> slice:
    return slice(None, None, math.ceil(len(photos) / MOST_PHOTOS))


def _is_cut_as(trunk: Trunk, extractor: FeatureExtractor, task: Task) -> bool:
    """Whether what crosses the extractor's cut is what the trunk holds."""
    pixels = first_pixels(task.val, task.preprocessing)
    images, held = normalise(pixels, task.preprocessing), trunk.backend.run(pixels)
    cut = split_model(extractor, images)
    if cut is None:
        return False
    with torch.no_grad():
        crossing = cut.lower(images)
    return crossing.shape == held.shape and deviation(held, crossing) <= TOLERANCE


def _features(extractor: FeatureExtractor, task: Task) -> tuple[Tensor, Tensor]:
    """Of training and validation photos, (n, width) each."""
    run = backend_for(extractor, task.train, task.preprocessing, choice=task.backend, runtime=task.runtime).run
    over = partial(run_over, run, preprocessing=task.preprocessing, runtime=task.runtime)
    description = "features of what is familiar"
    train, val = (over(photos[_some(photos)], description=description).values for photos in (task.train, task.val))
    return train, val


def _features_above(extractor: FeatureExtractor, task: Task, trunk: Trunk) -> tuple[Tensor, Tensor]:
    """The same, from what the frozen blocks made of the photos as they are."""
    of_train, of_val = trunk.view(0)[_some(task.train)], trunk.val[_some(task.val)]
    return run_above(extractor, of_train, task), run_above(extractor, of_val, task)
