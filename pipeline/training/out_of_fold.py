"""What a head that never saw a photo says of it, for every training photo: probabilities that no memory has flattered.

probabilities = out_of_fold(features, labels, groups, l2=1e-2)      # (n, classes)

A fitted head agrees with its training labels, the wrong ones included. Fitted on the other folds, it does not know the photo's
label, and a sure contradiction is worth a look.
"""

import warnings
from collections.abc import Sequence

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from pipeline.errors import PipelineError

FOLDS = 5  # fewer where a class has fewer groups
MAX_ITERATIONS = 2000
GRADIENT_TOLERANCE = 1e-4  # of a probability that is looked at, not reported: the third digit does not matter


def out_of_fold(features: Tensor, labels: Tensor, groups: Sequence[str], *, l2: float) -> np.ndarray:
    """Each photo's probabilities by a logistic regression on the folds that it is not in.

    Args:
        features: (n, width), finite.
        labels: (n,) int64.
        groups: of duplicates, one name a photo; a group is never divided between folds.
        l2: strength of the penalty, as `fit_probe` understands it.

    Returns:
        (n, classes) float64, rows sum to 1.

    Raises:
        PipelineError: all photos of a class are duplicates of each other.
    """
    values, classes, names = features.double().numpy(), labels.numpy(), np.asarray(groups)
    folds = min(FOLDS, *(len(np.unique(names[classes == index])) for index in np.unique(classes)))
    if folds < 2:
        raise PipelineError("The training split holds a class with a single photo, or duplicates of one. Add photos of it.")
    strength = 1 / (l2 * len(values) * (folds - 1) / folds)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=MAX_ITERATIONS, tol=GRADIENT_TOLERANCE))
    parts = StratifiedGroupKFold(folds, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # L-BFGS may end a line search at machine precision first
        return cross_val_predict(model, values, classes, groups=names, cv=parts, method="predict_proba")
