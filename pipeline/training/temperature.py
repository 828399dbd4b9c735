"""Temperature scaling: one number, fitted on validation, that makes a network's probabilities honest.

temperature = fit_temperature(val_logits, val_labels)
probabilities = (logits / temperature).softmax(1)
"""

from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn.functional import cross_entropy

LOWEST, HIGHEST = 0.05, 20.0


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature with the least log-loss (Guo et al., On calibration of modern neural networks, ICML 2017).

    The log-loss is convex in 1 / temperature, so the minimum is the only one; it is sought between 0.05 and 20, because on
    photos that are all predicted right it would run away to zero.

    Args:
        logits: (n, classes), finite.
        labels: (n,) int64.
    """
    values = logits.double()

    def loss(inverse: float) -> float:
        return cross_entropy(values * inverse, labels).item()

    best = minimize_scalar(loss, bounds=(1 / HIGHEST, 1 / LOWEST), method="bounded", options={"xatol": 1e-6})
    return float(1 / best.x)
