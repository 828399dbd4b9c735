"""Which labels to look at again: confident learning on out-of-fold probabilities.

candidates = label_issues(labels, probabilities)       # indices, the most suspicious first
found = hold_against(doubts, candidates)               # how much of what was known it found
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Found:
    """What confident learning found, against a ledger of known doubts.

    Attributes:
        examined: photos looked at.
        candidates: how many of them are suspected.
        doubted: how many of them the ledger names.
        found: how many are both.
        by_kind: kind of doubt -> (found, named).
    """

    examined: int
    candidates: int
    doubted: int
    found: int
    by_kind: dict[str, tuple[int, int]]

    @property
    def recall(self) -> float | None:
        """The share of known doubts that is suspected, in [0, 1]; None where none is known."""
        return self.found / self.doubted if self.doubted else None


def label_issues(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """The photos that are confidently of another class than their label says (Northcutt et al., Confident learning, JAIR 2021).

    A class's threshold is the mean probability of that class among the photos labelled so. A photo is a candidate where, of the
    classes whose thresholds it reaches, the most probable is not its label: it lies off the diagonal of the confident joint.
    Thresholds from the data make up for a model that is surer of one class than of another.

    Args:
        labels: (n,) indices of classes, every class present.
        probabilities: (n, classes) by a model that did not see the photo's label, rows sum to 1.

    Returns:
        (candidates,) indices into the photos, the least probable label first.
    """
    classes = probabilities.shape[1]
    thresholds = np.array([probabilities[labels == index, index].mean() for index in range(classes)])
    reached = np.where(probabilities >= thresholds, probabilities, -1.0)
    candidates = np.flatnonzero((reached.max(1) > 0) & (reached.argmax(1) != labels))
    of_label = probabilities[candidates, labels[candidates]]
    return candidates[np.argsort(of_label, kind="stable")]


def hold_against(doubts: np.ndarray, candidates: np.ndarray) -> Found:
    """Count what was found.

    Args:
        doubts: (n,) the kind of doubt that the ledger has about each photo, "" where it has none.
        candidates: indices of suspected photos.
    """
    suspected = np.zeros(len(doubts), dtype=bool)
    suspected[candidates] = True
    kinds = {
        str(kind): (int((suspected & (doubts == kind)).sum()), int((doubts == kind).sum()))
        for kind in np.unique(doubts[doubts != ""])
    }
    doubted = doubts != ""
    return Found(len(doubts), len(candidates), int(doubted.sum()), int((suspected & doubted).sum()), kinds)
