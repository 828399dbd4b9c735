"""Everything that is computed of the predictions of several checkpoints on the same test photos, before any of it is shown.

assessment = assess(photos, probabilities, temperatures, confidence_level=0.95)
assessment.scores["finetuned"].accuracy, assessment.comparison.p_value
assessment.metrics()                    # for metrics.json
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipeline.evaluation.calibration import calibration_error, temper
from pipeline.evaluation.comparison import Comparison, compare
from pipeline.evaluation.metrics import Scores, log_losses, score, wilson
from pipeline.evaluation.slices import Slice, slice_scores, slices_of


@dataclass(frozen=True)
class Undoubted:
    """What a checkpoint is worth on the photos whose labels nobody doubts."""

    accuracy: float
    accuracy_low: float
    accuracy_high: float
    log_loss: float


@dataclass(frozen=True)
class Calibrated:
    """What dividing the logits by a temperature that was fitted on validation does; accuracy stays as it is."""

    temperature: float
    log_loss: float
    calibration_error: float


@dataclass(frozen=True)
class Assessment:
    """Two checkpoints, "frozen" and "finetuned", side by side; the dicts have an entry for each.

    Attributes:
        labels: (n,) indices of classes.
        probabilities: checkpoint -> (n, classes).
        scores: on all test photos.
        undoubted: on those without a doubtful label.
        calibrated: after temperature scaling.
        comparison: of the fine-tuned checkpoint with the frozen one.
        slices: of the test photos, by what kind of photo they are.
        num_doubtful: test photos with a doubtful label.
        confidence_level: level of all intervals.
    """

    labels: np.ndarray
    probabilities: dict[str, np.ndarray]
    scores: dict[str, Scores]
    undoubted: dict[str, Undoubted]
    calibrated: dict[str, Calibrated]
    comparison: Comparison
    slices: list[Slice]
    num_doubtful: int
    confidence_level: float

    def predicted(self, checkpoint: str) -> np.ndarray:
        """(n,) indices of the classes that a checkpoint chose."""
        return self.probabilities[checkpoint].argmax(1)

    def confidence(self, checkpoint: str) -> np.ndarray:
        """(n,) probabilities of the classes that a checkpoint chose."""
        return self.probabilities[checkpoint].max(1)

    def wrong(self, checkpoint: str) -> np.ndarray:
        """Indices of the photos that a checkpoint gets wrong, those that it is surest of first."""
        mistakes = np.flatnonzero(self.predicted(checkpoint) != self.labels)
        return mistakes[np.argsort(-self.confidence(checkpoint)[mistakes], kind="stable")]

    def metrics(self) -> dict[str, Any]:
        """Names and numbers for metrics.json."""
        of_each = {
            name: asdict(self.scores[name])
            | {f"calibrated_{key}" if key != "temperature" else key: value for key, value in asdict(calibrated).items()}
            | {f"undoubted_{key}": value for key, value in asdict(self.undoubted[name]).items()}
            for name, calibrated in self.calibrated.items()
        }
        gains = {
            f"{name}_gain{bound}": getattr(getattr(self.comparison, name), attribute)
            for name in ("accuracy", "log_loss")
            for bound, attribute in (("", "mean"), ("_low", "low"), ("_high", "high"))
        }
        unfreezing = gains | {"p_value": self.comparison.p_value}
        return {"num_test": len(self.labels), "num_doubtful": self.num_doubtful, **of_each, "unfreezing": unfreezing}


def assess(
    photos: pd.DataFrame,
    labels: np.ndarray,
    probabilities: Mapping[str, np.ndarray],
    temperatures: Mapping[str, float],
    *,
    confidence_level: float,
) -> Assessment:
    """Score the checkpoints "frozen" and "finetuned".

    Args:
        photos: a row a photo, with the manifest's columns and the measured ones that `slices_of` wants.
        labels: (n,) indices of classes.
        probabilities: checkpoint -> (n, classes).
        temperatures: checkpoint -> fitted on validation.
        confidence_level: level of all intervals.

    Raises:
        PipelineError: as `score` does.
    """
    undoubted = (photos["doubt"] == "").to_numpy()
    return Assessment(
        labels=labels,
        probabilities=dict(probabilities),
        scores={name: score(labels, values, confidence_level=confidence_level) for name, values in probabilities.items()},
        undoubted={
            name: _undoubted(labels[undoubted], values[undoubted], confidence_level) for name, values in probabilities.items()
        },
        calibrated={name: _calibrated(labels, values, temperatures[name]) for name, values in probabilities.items()},
        comparison=compare(labels, probabilities["frozen"], probabilities["finetuned"], confidence_level=confidence_level),
        slices=slice_scores(
            slices_of(photos),
            {name: values.argmax(1) == labels for name, values in probabilities.items()},
            confidence_level=confidence_level,
        ),
        num_doubtful=int((~undoubted).sum()),
        confidence_level=confidence_level,
    )


def _undoubted(labels: np.ndarray, values: np.ndarray, confidence_level: float) -> Undoubted:
    right = values.argmax(1) == labels
    interval = wilson(int(right.sum()), len(right), confidence_level)
    return Undoubted(float(right.mean()), *interval, float(log_losses(labels, values).mean()))


def _calibrated(labels: np.ndarray, values: np.ndarray, temperature: float) -> Calibrated:
    tempered = temper(values, temperature)
    return Calibrated(temperature, float(log_losses(labels, tempered).mean()), calibration_error(labels, tempered))
