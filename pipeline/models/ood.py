"""Whether a photo is like those that a network was trained on, by where its feature lies among theirs.

    ood = OodDetector(**read_ood(Path("outputs/finetuned")))
    ood.scores(features)         # (n,): above 1 is unlike anything seen

`pipeline.training.ood` fits it.
"""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class OodDetector:
    """Where familiar features lie; its fields are what a checkpoint keeps.

    Attributes:
        means: (classes, width) float32: the mean feature of each class.
        factor: (width, width) float32: its product with its own transpose is the inverse of the shared covariance.
        threshold: () float32: the Mahalanobis distance from which on a photo is unlike anything seen.
    """

    means: Tensor
    factor: Tensor
    threshold: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """For `save_checkpoint`; `OodDetector(**tensors)` is the same again."""
        return asdict(self)

    def scores(self, features: Tensor) -> Tensor:
        """Mahalanobis distances of features (n, width) to the nearest class's mean, in multiples of the threshold: (n,)."""
        centre = self.means.mean(0)
        whitened, means = (features - centre) @ self.factor, (self.means - centre) @ self.factor
        # By differences: the quicker way by products depends, in its last digits, on how many photos come at once.
        return torch.cdist(whitened, means, compute_mode="donot_use_mm_for_euclid_dist").amin(1) / self.threshold
