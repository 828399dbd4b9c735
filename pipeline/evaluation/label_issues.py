"""Label issues: photos whose label deserves a second look, by confident learning on out-of-fold probabilities.

issues = label_issues(photos, scores)       # a row each, the least probable label first
"""

import numpy as np
import pandas as pd

from pipeline.evaluation.metrics import Scores


def label_issues(photos: pd.DataFrame, scores: Scores) -> pd.DataFrame:
    """The candidates among photos, the least probable label first (Northcutt et al., Confident learning, JAIR 2021).

    A class's threshold is the mean probability of that class among the photos labelled so. A photo is a candidate where, of the
    classes whose thresholds it reaches, the most probable is not its label: it lies off the diagonal of the confident joint.
    Thresholds from the data make up for a model that is more confident of one class than of another.

    The scores are of models that were not fitted on the photo. Returned are the candidates' rows of `photos`, with the columns
    `likely` (that other class) and `probability` (of it).
    """
    labels, probabilities = scores.labels, scores.probabilities
    thresholds = np.array([probabilities[labels == index, index].mean() for index in range(len(scores.classes))])
    reached = np.where(probabilities >= thresholds, probabilities, -1.0)
    candidates = np.flatnonzero((reached.max(1) > 0) & (reached.argmax(1) != labels))
    candidates = candidates[np.argsort(probabilities[candidates, labels[candidates]], kind="stable")]
    likely = reached[candidates].argmax(1)
    names = np.array(scores.classes)[likely]
    return photos.iloc[candidates].assign(likely=names, probability=probabilities[candidates, likely])
