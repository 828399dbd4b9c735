"""What is to be learnt from which photos, how and where: what every part of fine-tuning is given."""

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.checkpoint import Preprocessing
from pipeline.data.dataset import Photos
from pipeline.params import UnfreezeFinetune
from pipeline.runtime import ResolvedRuntime
from pipeline.training.features import Kept


def _nowhere(name: str) -> None:
    return None


@dataclass(frozen=True)
class Task:
    """A fine-tuning, apart from the network.

    `backend` is what runs a network forward, as `build_backend` takes it. `keep` says, from a name such as "view 1", where what
    the frozen blocks make of the photos outlives a kill.
    """

    train: Photos
    val: Photos
    preprocessing: Preprocessing
    settings: UnfreezeFinetune
    runtime: ResolvedRuntime
    backend: str = "auto"
    keep: Callable[[str], Kept | None] = _nowhere
