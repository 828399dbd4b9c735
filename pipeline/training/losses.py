"""Training losses by name, for `unfreeze_finetune.loss`. A new one is a function and a line of `LOSSES`."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # params.yaml is checked against this table before torch is imported
    from torch import Tensor


def cross_entropy(logits: "Tensor", labels: "Tensor") -> "Tensor":
    """The mean cross-entropy of (n, classes) logits and (n,) labels."""
    from torch.nn import functional

    return functional.cross_entropy(logits, labels)


def focal(logits: "Tensor", labels: "Tensor") -> "Tensor":
    """The mean focal loss with gamma 2, which counts easy photos less (Lin et al., Focal loss, ICCV 2017)."""
    from torch.nn import functional

    losses = functional.cross_entropy(logits, labels, reduction="none")
    return ((1 - (-losses).exp()) ** 2 * losses).mean()


LOSSES: "dict[str, Callable[[Tensor, Tensor], Tensor]]" = {"cross_entropy": cross_entropy, "focal": focal}
