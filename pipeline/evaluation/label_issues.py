"""Label issues: photos whose label is probably wrong, found by confident learning on out-of-fold probabilities.

issues = label_issues(photos, probabilities, classes)       # a row each, the least probable label first
"""

import numpy as np
import pandas as pd


def label_issues(photos: pd.DataFrame, probabilities: np.ndarray, classes: tuple[str, ...]) -> pd.DataFrame:
    """The candidates among n photos, the least probable label first (Northcutt et al., Confident learning, JAIR 2021).

    A class's threshold is the mean probability of that class among the photos labelled so. A photo is a candidate where, of the
    classes whose thresholds it reaches, the most probable is not its label: it lies off the diagonal of the confident joint.
    Thresholds from the data make up for a model that is more confident of one class than of another.

    Args:
        photos: n rows with a `class` column.
        probabilities: (n, classes) by a model that was not fitted on the photo, rows sum to 1.
        classes: their names; each has at least one photo.

    Returns:
        The candidates' rows, with the columns `likely` (the most probable class) and `probability` (of it).
    """
    labels = photos["class"].map(classes.index).to_numpy()
    thresholds = np.array([probabilities[labels == index, index].mean() for index in range(len(classes))])
    reached = np.where(probabilities >= thresholds, probabilities, -1.0)
    candidates = np.flatnonzero((reached.max(1) > 0) & (reached.argmax(1) != labels))
    candidates = candidates[np.argsort(probabilities[candidates, labels[candidates]], kind="stable")]
    likely = probabilities[candidates].argmax(1)
    return photos.iloc[candidates].assign(likely=np.array(classes)[likely], probability=probabilities[candidates, likely])
