"""Learn what photos are familiar to a network, so that what is unlike anything seen can be told.

    familiarity = fit_familiarity(train_features, train_labels, val_features)
    familiarity.distances(features)         # (n,): above 1 is unlike anything seen

The score is the Mahalanobis distance to the nearest class's mean under one covariance that all classes share (Lee et al., A
simple unified framework for detecting out-of-distribution samples and adversarial attacks, NeurIPS 2018), shrunk as Ledoit and
Wolf say (A well-conditioned estimator for large-dimensional covariance matrices, 2004), because features may outnumber photos.
With the default backbone, frozen, it flags 1.1% of 370 test photos and all of 60 each of noise, flat colours and drawn shapes.
Of 40 drawings each of other things it flags all frogs, butterflies, houses and flowers, 97% of cars, and 60 to 78% of cows,
horses, elephants, owls, birds and fish, but no rabbit and no bear: those are too much like a cat or a dog. Fine-tuning changes
little of it: 0.8% of 124 test photos, all noise and flat colours, and 71% of 52 drawings of other things.
"""

import copy
import math
from functools import partial

import numpy as np
import torch
from sklearn.covariance import ledoit_wolf
from torch import Tensor, nn

from pipeline.data.loader import Photos
from pipeline.models.familiarity import Familiarity
from pipeline.models.freezing import set_trainable
from pipeline.training.features import FeatureExtractor, engine_for, run_over
from pipeline.training.task import Task
from pipeline.training.trunk import Trunk, run_above

PASSING = 0.99  # share of the validation photos that count as familiar
MOST_PHOTOS = 1000  # of a split, where features have yet to be computed: more change the covariance little


def fit_familiarity(train_features: Tensor, train_labels: Tensor, val_features: Tensor) -> Familiarity:
    """Learn what is familiar: means and covariance from training photos, the threshold from validation photos.

    Args:
        train_features: (n, width), finite, as the classifier takes them.
        train_labels: (n,) int64, every class present.
        val_features: (m, width), of photos that the network did not learn from.
    """
    features = train_features.double()
    means = torch.stack([features[train_labels == label].mean(0) for label in range(int(train_labels.max()) + 1)])
    covariance, _ = ledoit_wolf((features - means[train_labels]).numpy(), assume_centered=True)
    # Of a covariance L L' the inverse is (inv L)' (inv L).
    factor = torch.linalg.inv(torch.linalg.cholesky(torch.from_numpy(covariance))).T
    unscaled = Familiarity(means.float(), factor.float().contiguous(), torch.tensor(1.0))
    threshold = np.quantile(unscaled.distances(val_features).numpy(), PASSING)
    return Familiarity(unscaled.means, unscaled.factor, torch.tensor(threshold, dtype=torch.float32))


def familiarity_of(model: nn.Module, task: Task, trunk: Trunk | None) -> Familiarity:
    """What is familiar to a fine-tuned network, by its features of at most `MOST_PHOTOS` evenly chosen photos of a split.

    Args:
        model: a timm network in eval mode, on the CPU; a copy is worked on.
        task: its fine-tuning, with the photos that it learnt from, and others.
        trunk: what its frozen blocks made of those; without one the photos go through the whole network again.
    """
    model = copy.deepcopy(model)
    set_trainable(model, task.settings.unfrozen_blocks)
    extractor = FeatureExtractor(model).eval()
    features, others = _features(extractor, task) if trunk is None else _features_above(extractor, task, trunk)
    return fit_familiarity(features, task.train.labels[_some(task.train)], others)


def _some(photos: Photos) -> slice:
    return slice(None, None, math.ceil(len(photos) / MOST_PHOTOS))


def _features(extractor: FeatureExtractor, task: Task) -> tuple[Tensor, Tensor]:
    """Of training and validation photos, (n, width) each."""
    run = engine_for(extractor, task.train, task.preprocessing, choice=task.engine, runtime=task.runtime).run
    over = partial(run_over, run, preprocessing=task.preprocessing, runtime=task.runtime)
    description = "features of what is familiar"
    train, val = (over(photos[_some(photos)], description=description).values for photos in (task.train, task.val))
    return train, val


def _features_above(extractor: FeatureExtractor, task: Task, trunk: Trunk) -> tuple[Tensor, Tensor]:
    """The same, from what the frozen blocks made of the photos as they are."""
    of_train, of_val = trunk.view(0)[_some(task.train)], trunk.val[_some(task.val)]
    return run_above(extractor, of_train, task), run_above(extractor, of_val, task)
