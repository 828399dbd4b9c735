"""Training losses by name, for `unfreeze_finetune.loss`: the loss of each photo, (n,), of (n, classes) logits and (n,) labels.

A new one is a function and a line of `LOSSES`. Weighting classes and taking the mean is left to the training loop.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # params.yaml is checked against this table before torch is imported
    from torch import Tensor


def cross_entropy(logits: "Tensor", labels: "Tensor") -> "Tensor":
    """Cross-entropy, in nats."""
    from torch.nn import functional

    return functional.cross_entropy(logits, labels, reduction="none")


def focal(logits: "Tensor", labels: "Tensor") -> "Tensor":
    """Focal loss with gamma 2, which counts easy photos less (Lin et al., Focal loss, ICCV 2017)."""
    losses = cross_entropy(logits, labels)
    return (1 - (-losses).exp()) ** 2 * losses


LOSSES: "dict[str, Callable[[Tensor, Tensor], Tensor]]" = {"cross_entropy": cross_entropy, "focal": focal}
