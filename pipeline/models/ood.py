"""Out-of-distribution (OOD) detection: the Mahalanobis distance of a photo's unit-length features to the training photos'.

    detector = OodDetector.fit(train_features, train_labels, val_features)
    detector.scores(features)               # (n,): above 1 a photo is out of distribution
    detector = OodDetector(**read_ood(Path("outputs/finetuned")))
    auroc, fpr95 = score_on_held_back_classes(train_features, train_labels, val_features, val_labels)

The score is the distance to the nearest class's mean under one covariance that all classes share (Lee et al., A simple unified
framework for detecting out-of-distribution samples and adversarial attacks, NeurIPS 2018), shrunk as Ledoit and Wolf say (A
well-conditioned estimator for large-dimensional covariance matrices, 2004), because features may outnumber photos. Features are
scaled to length 1 first, since their length tells more of contrast than of content (Müller and Hein, Mahalanobis++, ICML 2025).

Fine-tuning pulls the features of a class together, and those of noise with them, so the features of a fine-tuned network are
its activations below the blocks that learnt, which are what they were.
"""

import warnings
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from pipeline.errors import PipelineError
from pipeline.models.splitting import SplitModel

IN_DISTRIBUTION = 0.99  # fraction of the validation photos that the threshold lets pass
MOST_PHOTOS = 2000  # of a split: more change the covariance little
MOST_HELD_BACK = 4  # classes, one after another


class WithPooledActivations(nn.Module):
    """A split network's outputs, and then its activations averaged over positions: (n, channels, height, width) -> (n, ...)."""

    def __init__(self, split: SplitModel) -> None:
        super().__init__()
        self.frozen, self.trainable = split
        self.pooled = Pooled()

    def forward(self, images: Tensor) -> Tensor:
        activations = self.frozen(images)
        return torch.cat([self.trainable(activations), self.pooled(activations)], 1)


class Pooled(nn.Module):
    """Activations averaged over positions, (n, channels): maps with channels first or last, tokens, or plain features."""

    def forward(self, activations: Tensor) -> Tensor:
        size = activations.shape
        if len(size) == 4 and (size[1] != size[2] or size[2] == size[3]):  # channels first: no square comes before the last
            return activations.mean((2, 3))
        return activations.flatten(1, -2).mean(1) if len(size) > 2 else activations


class OodDetector(NamedTuple):
    """The fitted detector; its fields, all float32, are what a checkpoint stores: `OodDetector(**read_ood(folder))`."""

    means: Tensor  # (classes, width): the mean unit-length feature of each class
    factor: Tensor  # (width, width): its product with its own transpose is the inverse of the shared covariance
    threshold: Tensor  # (): the Mahalanobis distance above which a photo is out of distribution

    @classmethod
    def fit(cls, train_features: Tensor, train_labels: Tensor, val_features: Tensor) -> Self:
        """Fit means and covariance on training photos, the threshold on validation photos, which the network has not learnt.

        Features are (n, width), as the classifier takes them; labels are (n,) int64, of at least one photo a class.
        """
        from sklearn.covariance import ledoit_wolf  # takes a second, which prediction need not

        features, num_classes = normalize(train_features.double()), int(train_labels.max()) + 1
        means = torch.stack([features[train_labels == label].mean(0) for label in range(num_classes)])  # of no photo it is NaN
        if not (means.isfinite().all() and val_features.isfinite().all()):
            raise PipelineError("The OOD detector cannot be fitted: a class has no training photo, or features are not finite.")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Only one sample available")
            covariance = torch.from_numpy(ledoit_wolf((features - means[train_labels]).numpy(), assume_centered=True)[0])
        cholesky, failed = torch.linalg.cholesky_ex(covariance)
        if failed:  # as of classes with a photo or two
            ridge = max(1e-6 * covariance.trace().item() / len(covariance), 1e-9)
            cholesky = torch.linalg.cholesky(covariance + ridge * torch.eye(len(covariance)))
        factor = torch.linalg.inv(cholesky).T
        unscaled = cls(means.float(), factor.float().contiguous(), torch.tensor(1.0))
        threshold = np.quantile(unscaled.scores(val_features).numpy(), IN_DISTRIBUTION)
        return cls(unscaled.means, unscaled.factor, torch.tensor(threshold, dtype=torch.float32))

    def scores(self, features: Tensor) -> Tensor:
        """OOD scores of features (n, width): Mahalanobis distances in multiples of the threshold, (n,)."""
        means, factor = self.means.double(), self.factor.double()  # in float32 the number of photos shows in the last digits
        centre = means.mean(0)
        whitened = (normalize(features.double()) - centre) @ factor
        distances = torch.cdist(whitened, (means - centre) @ factor, compute_mode="donot_use_mm_for_euclid_dist")
        return (distances.amin(1) / self.threshold).float()


def score_on_held_back_classes(
    train_features: Tensor, train_labels: Tensor, val_features: Tensor, val_labels: Tensor
) -> tuple[float, float]:
    """How well a detector that has never seen a class tells its photos from those of the others, on validation photos.

    Each of at most `MOST_HELD_BACK` classes is held back in turn. Returns the mean area under the ROC curve (1: all told apart,
    0.5: none), and the mean fraction of held-back photos that pass where 95% of the photos of the other classes do.
    """
    from sklearn.metrics import roc_auc_score

    num_classes = int(train_labels.max()) + 1
    held_back = torch.linspace(0, num_classes - 1, min(num_classes, MOST_HELD_BACK)).round().long()
    results = []
    for label in held_back.tolist():
        known = train_labels != label
        labels = train_labels[known] - (train_labels[known] > label).long()
        is_new = val_labels == label
        scores = OodDetector.fit(train_features[known], labels, val_features[~is_new]).scores(val_features)
        passing = scores[is_new] <= torch.quantile(scores[~is_new], 0.95)
        results.append([float(roc_auc_score(is_new, scores)), float(passing.double().mean())])
    auroc, passed = np.mean(results, axis=0).tolist()
    return auroc, passed


def sample_by_class(labels: Tensor, most: int = MOST_PHOTOS) -> list[int]:
    """Places of about `most` photos of (n,) labels: an equal part of each class, evenly chosen, or all that it has.

    >>> sample_by_class(torch.tensor([0, 0, 0, 0, 0, 0, 1]), most=4)
    [0, 3, 6]
    """
    chosen, classes = list[int](), labels.unique()
    for label in classes:
        places = (labels == label).nonzero().flatten()
        chosen += places[:: max(1, -(-len(places) * len(classes) // most))].tolist()
    return sorted(chosen)
