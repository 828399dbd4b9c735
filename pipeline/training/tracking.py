"""What watches a training: the curves that DVC draws, and TensorBoard or Weights & Biases where `runtime.trackers` names them.

    trackers = Trackers(("tensorboard",), Path("outputs/tracking"), curves, run)
    trackers.start(losses, history, total_steps=400, rate_of=rate_of)
    trackers.step(losses)                       # after each step
    trackers.epoch(history, model, outputs)     # after each validation
    trackers.finish(metrics, Path("outputs/finetuned"))

A tracker sees copies and numbers, draws from no random generator of the training, and so changes no bit of the result. One
that fails is left out from then on, with one line: nobody loses a training because a disk or a server of curves is full.
"""

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from pipeline.errors import PipelineError
from pipeline.progress import say
from pipeline.training.curves import Curves
from pipeline.training.features import Outputs
from pipeline.training.tracked import Reached, Run, Tracker

POINTS = 200  # about so many points a curve by step has, each the mean loss of the steps since the one before


class Trackers:
    """All trackers of one run as one.

    Args:
        names: of "tensorboard" and "wandb".
        folder: a folder of each tracker's name is made in it.
        curves: makes what DVC draws; as it is an output of the stage, its failure is the stage's.
        run: what is being tracked.

    Raises:
        PipelineError: the package of a tracker is not installed.
    """

    def __init__(self, names: Sequence[str], folder: Path, curves: Callable[[], Curves], run: Run) -> None:
        for name in names:
            if importlib.util.find_spec(name) is None:
                raise PipelineError(
                    f"runtime.trackers names {name}, which is not installed. Install it with: uv sync --extra {name}\n"
                    f"or take {name} out of the list."
                )
        self._names, self._folder, self._open_curves, self._run = names, folder, curves, run
        self._trackers: dict[str, Tracker] = {}

    def start(
        self,
        losses: Sequence[float],
        history: Sequence[Mapping[str, Any]],
        *,
        total_steps: int,
        rate_of: Callable[[int], float],
    ) -> None:
        """Open the trackers where an earlier run left off, or at the beginning.

        Args:
            losses: of every step so far.
            history: of every epoch so far.
            total_steps: of the whole training.
            rate_of: the learning rate of a step, counted from 0.
        """
        self._every, self._rate_of = max(total_steps // POINTS, 1), rate_of
        self._curves = self._open_curves()
        for step in range(self._every, len(losses) + 1, self._every):
            self._curves.step(step, **self._point(losses, step))
        if history:
            self._curves.epochs(history)
        reached = Reached(len(losses), len(history))
        for name in self._names:
            with self._left_out_if_it_fails(name):
                self._trackers[name] = _opened(name, self._folder / name, self._run, reached)

    def step(self, losses: Sequence[float]) -> None:
        """Tell of a step, `losses` being those of all steps so far."""
        step = len(losses)
        if step % self._every == 0:
            point = self._point(losses, step)
            self._curves.step(step, **point)
            self._each(lambda tracker: tracker.step(step, **point))

    def epoch(self, history: Sequence[Mapping[str, Any]], model: nn.Module, outputs: Outputs) -> None:
        """Tell of an epoch: the last of `history`."""
        self._curves.epochs(history)
        scalars = {name: value for name, value in history[-1].items() if isinstance(value, float)}
        self._each(lambda tracker: tracker.epoch(history[-1]["epoch"], scalars, model, outputs))

    def finish(self, metrics: Mapping[str, float], checkpoint: Path) -> None:
        """Tell of the end."""
        self._curves.finish()
        self._each(lambda tracker: tracker.finish(metrics, checkpoint))

    def _point(self, losses: Sequence[float], step: int) -> dict[str, float]:
        return {"loss": sum(losses[step - self._every : step]) / self._every, "learning_rate": self._rate_of(step - 1)}

    def _each(self, tell: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            with self._left_out_if_it_fails(name):
                tell(tracker)

    @contextmanager
    def _left_out_if_it_fails(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever it is: no training is lost for the sake of being watched
            self._trackers.pop(name, None)
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            say(f"{name} failed and is left out from here on ({reason}); the training goes on")


def _opened(name: str, folder: Path, run: Run, reached: Reached) -> Tracker:
    if name == "wandb":
        from pipeline.training.wandb_tracker import WandbTracker

        return WandbTracker(folder, run, reached)
    from pipeline.training.tensorboard_tracker import TensorBoardTracker

    return TensorBoardTracker(folder, run, reached)
