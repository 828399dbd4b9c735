"""What watches a training: the curves that DVC draws, and Accelerate's trackers that `runtime.trackers` names.

A tracker sees copies and numbers, draws from no random generator of the training, and so changes no bit of the result. One
that fails is left out from then on, with one line: nobody loses a training because a disk or a server of curves is full.
"""

import importlib.util
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.tracking import GeneralTracker, MLflowTracker, TensorBoardTracker, WandBTracker
from PIL import Image
from torch import Tensor, nn

from pipeline.data.dataset import Photos
from pipeline.errors import PipelineError
from pipeline.files import write_csv
from pipeline.progress import say

Row = Mapping[str, Any]  # of an epoch: its numbers by name
PROJECT = "cats-and-dogs"
POINTS = 200  # about so many points a curve by step has, each the mean loss of the steps since the one before
ROWS, COLUMNS = 4, 6  # of validation photos in TensorBoard


@dataclass(eq=False)
class Tracking:
    """DVC's curves and all trackers of one run.

    DVC removes outputs before it runs a stage, so a run that resumes writes the curves' earlier points anew from its state, and
    ends with the same files, byte for byte. A PipelineError says that the package of a tracker is not installed.
    """

    trackers: Sequence[str]  # of "tensorboard", "wandb" and "mlflow"
    folder: Path  # each tracker has its own in it
    curves: Path  # DVCLive's folder
    epochs_file: Path  # a CSV with a line an epoch
    run: str  # its name, which stays the same after a kill
    settings: Mapping[str, Any]  # "section.key" -> value
    classes: tuple[str, ...]
    val: Photos
    network: nn.Module  # on the processor, for TensorBoard's graph
    input_size: tuple[int, int, int]

    def __post_init__(self) -> None:
        for name in self.trackers:
            if importlib.util.find_spec(name) is None:
                raise PipelineError(f"runtime.trackers names {name}. Install it with: uv sync --inexact --extra {name}")
        self._running: dict[str, GeneralTracker] = {}

    def start(
        self, losses: Sequence[float], history: Sequence[Row], *, total_steps: int, rate_of: Callable[[int], float]
    ) -> None:
        """Open the trackers where an earlier run left off: with the losses of its steps and the history of its epochs.

        `rate_of` gives the learning rate of a step, counted from 0 to `total_steps`.
        """
        from dvclive import Live  # imports DVC, which takes a second

        self._every, self._rate_of = max(total_steps // POINTS, 1), rate_of
        self._live = Live(str(self.curves), save_dvc_exp=False, dvcyaml=None, report=None)
        for step in range(self._every, len(losses) + 1, self._every):
            self._draw(step, self._point(losses, step))
        if history:
            self._draw_epochs(history)
        PartialState()  # Accelerate's trackers ask it which process is the main one
        for name in self.trackers:
            with self._left_out_if_it_fails(name):
                tracker = _new_tracker(name, self.folder / name, self.run, len(losses))
                tracker.start()
                if not history:
                    plain = bool | int | float | str  # as trackers take a setting
                    tracker.store_init_configuration(
                        {key: value if isinstance(value, plain) else json.dumps(value) for key, value in self.settings.items()}
                    )
                self._running[name] = tracker

    def step(self, losses: Sequence[float]) -> None:
        """Log a step, `losses` being those of all steps so far."""
        step = len(losses)
        if step % self._every == 0:
            point = self._point(losses, step)
            self._draw(step, point)
            self._log({f"train/{name}": value for name, value in point.items()}, step)

    def epoch(self, history: Sequence[Row], step: int, model: nn.Module, logits: Tensor) -> None:
        """Log the last epoch of `history`, after so many steps; in TensorBoard weights, gradients, photos with predictions too.

        `model` is the part that learns, with its last gradients; `logits` (n, classes) are those of the validation photos.
        """
        self._draw_epochs(history)
        self._log({f"epoch/{name}": value for name, value in history[-1].items() if value is not None}, step)
        if "tensorboard" in self._running:
            with self._left_out_if_it_fails("tensorboard"):
                self._look_inside(self._running["tensorboard"].tracker, step, model, logits)

    def finish(self, metrics: Mapping[str, float], checkpoint: Path) -> None:
        """Log what is kept, in W&B with the checkpoint as an artifact, and close."""
        self._sort()
        self._live.end()
        self._log({f"kept/{name}": value for name, value in metrics.items()}, None)
        for name, tracker in list(self._running.items()):
            with self._left_out_if_it_fails(name):
                if name == "wandb":
                    import wandb

                    artifact = wandb.Artifact(f"{checkpoint.name}-{self.run}", type="model", metadata=dict(metrics))
                    artifact.add_dir(str(checkpoint), skip_cache=True)
                    tracker.tracker.log_artifact(artifact)
                tracker.finish()

    def _point(self, losses: Sequence[float], step: int) -> dict[str, float]:
        return {"loss": sum(losses[step - self._every : step]) / self._every, "learning_rate": self._rate_of(step - 1)}

    def _draw(self, step: int, point: Mapping[str, float]) -> None:
        self._live.step = step
        for name, value in point.items():
            self._live.log_metric(name, float(f"{value:.6g}"))

    def _draw_epochs(self, history: Sequence[Row]) -> None:
        """All epochs so far, the frozen checkpoint's values beside each, to be drawn over one another."""
        frozen = {f"frozen_{name}": history[0][name] for name in ("val_log_loss", "val_accuracy")}
        write_csv(self.epochs_file, [{**row, **frozen} for row in history])
        for name in ("val_log_loss", "val_accuracy"):
            self._live.log_metric(name, float(f"{history[-1][name]:.6g}"), plot=False)
        self._sort()
        self._live.sync()

    def _sort(self) -> None:
        """Last values by name: a run that resumes logs its steps before its epochs, and must write the same bytes."""
        self._live.summary = dict(sorted(self._live.summary.items()))

    def _log(self, values: Mapping[str, float], step: int | None) -> None:
        for name, tracker in list(self._running.items()):
            with self._left_out_if_it_fails(name):
                tracker.log(dict(values), step=step)

    @contextmanager
    def _left_out_if_it_fails(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever it is: no training is lost for the sake of being watched
            self._running.pop(name, None)
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            say(f"{name} failed and is left out from here on ({reason}); the training goes on")

    def _look_inside(self, writer: Any, step: int, model: nn.Module, logits: Tensor) -> None:
        """TensorBoard's histograms of weights and gradients, photos with predicted and true class, and once the graph."""
        for name, parameter in model.named_parameters():
            writer.add_histogram(f"weights/{name}", parameter.detach().float().cpu(), step)
            if parameter.grad is not None:
                writer.add_histogram(f"gradients/{name}", parameter.grad.float().cpu(), step)
        writer.add_figure("validation photos", self._photos(logits.softmax(1)), step)
        if step == 0:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the tracer, on branches that depend on sizes
                try:
                    writer.add_graph(self.network, torch.zeros(1, *self.input_size))
                except RuntimeError as error:
                    say(f"TensorBoard gets no graph: the network cannot be traced ({str(error).splitlines()[0]})")
        writer.flush()

    def _photos(self, probabilities: Tensor) -> Any:
        """Some photos, the same in every epoch, with the class that was predicted and, where it differs, the true one."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(2 * COLUMNS, 2.2 * ROWS), layout="constrained")
        labels = self.val.labels
        chosen = torch.linspace(0, len(labels) - 1, min(ROWS * COLUMNS, len(labels))).round().long().unique().tolist()
        for axes, index in zip(figure.subplots(ROWS, COLUMNS).flat, chosen, strict=False):
            confidence, place = probabilities[index].max(0)
            predicted, true = self.classes[int(place)], self.classes[int(labels[index])]
            with Image.open(self.val.paths[index]) as photo:
                axes.imshow(photo.convert("RGB"))
            truth, colour = ("", "k") if predicted == true else (f", is {true}", "firebrick")
            axes.set_title(f"{predicted} {confidence:.0%}{truth}", color=colour)
        for axes in figure.axes:
            axes.set_axis_off()
        return figure


def _new_tracker(name: str, folder: Path, run: str, steps: int) -> GeneralTracker:
    """Accelerate's tracker; of a run that resumes, TensorBoard drops the points after `steps`, which are made again."""
    folder.mkdir(parents=True, exist_ok=True)
    if name == "tensorboard":
        return TensorBoardTracker(run, folder, purge_step=steps + 1 if steps else None)
    if name == "mlflow":
        here = folder.resolve().as_uri()
        if "MLFLOW_TRACKING_URI" not in os.environ:  # in files: mlflow-skinny brings no database
            os.environ |= {"MLFLOW_TRACKING_URI": here, "MLFLOW_ALLOW_FILE_STORE": "true"}
        return MLflowTracker(PROJECT, here, run_name=run)
    # The artifact waits here, not in the person's home, until it is sent.
    os.environ.setdefault("WANDB_DATA_DIR", str(folder.resolve()))
    import wandb
    from wandb.sdk.lib.wbauth import read_netrc_auth

    has_key = os.environ.get("WANDB_API_KEY") or read_netrc_auth(host=wandb.Settings().base_url)
    mode = None if os.environ.get("WANDB_MODE") or has_key else "offline"
    if mode == "offline":
        say(f"no API key of Weights & Biases here: the run is kept in {folder}; `wandb login` and `wandb sync` send it")
    quiet = wandb.Settings(console="off", silent=True)
    return WandBTracker(PROJECT, id=run, resume="allow", dir=folder, mode=mode, settings=quiet)
