"""What trackers are told: a run, how far an earlier one came, and the interface that each tracker has."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from pipeline.checkpoint import Preprocessing
from pipeline.data.dataset import Photos
from pipeline.training.features import Outputs


@dataclass(frozen=True)
class Run:
    """A run; `name` is the same for a run that goes on after a kill, and for no other."""

    name: str
    settings: Mapping[str, Any]
    classes: tuple[str, ...]
    val: Photos
    preprocessing: Preprocessing


@dataclass(frozen=True)
class Reached:
    """How far an earlier run came, whose further points are going to be made again: steps done and epochs scored."""

    steps: int
    epochs: int


class Tracker(Protocol):
    """A step is counted from 1; an epoch from 0, which is the frozen checkpoint."""

    def step(self, step: int, *, loss: float, learning_rate: float) -> None:
        """Take up the mean training loss of the last steps."""

    def epoch(self, epoch: int, scalars: Mapping[str, float], model: nn.Module, outputs: Outputs) -> None:
        """Take up an epoch: its numbers, the network with its last gradients, its logits of the validation photos."""

    def finish(self, metrics: Mapping[str, float], checkpoint: Path) -> None:
        """Take up what came out, and close."""
