"""TensorBoard: curves, the network's graph, histograms, validation photos with what was said of them, PR curves, settings.

    uv sync --extra tensorboard
    uv run tensorboard --logdir outputs/tracking/tensorboard

What is counted in steps and what is counted in epochs lie in a folder each: of the points that a killed run wrote, TensorBoard
drops those that are made again by comparing their number with one number (`purge_step`) for all curves of a folder.
"""

import copy
import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from pipeline.models.folding import unfold_batch_norm
from pipeline.progress import say
from pipeline.training.features import Outputs
from pipeline.training.tracked import Reached, Run

ROWS, COLUMNS = 4, 6  # of validation photos


class TensorBoardTracker:
    """Writes below `folder`/NAME OF THE RUN; everything is flushed at once, so that a kill loses nothing that was told."""

    def __init__(self, folder: Path, run: Run, reached: Reached) -> None:
        self._folder, self._run = folder / run.name, run
        if not reached.epochs:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._steps = SummaryWriter(str(self._folder / "steps"), purge_step=reached.steps + 1)
        self._epochs = SummaryWriter(str(self._folder / "epochs"), purge_step=reached.epochs)

    def step(self, step: int, *, loss: float, learning_rate: float) -> None:
        """Two points."""
        self._steps.add_scalar("train/loss", loss, step)
        self._steps.add_scalar("train/learning_rate", learning_rate, step)
        self._steps.flush()

    def epoch(self, epoch: int, scalars: Mapping[str, float], model: nn.Module, outputs: Outputs) -> None:
        """All that is looked at once an epoch; the graph only at the start."""
        for name, value in scalars.items():
            self._epochs.add_scalar(f"epoch/{name}", value, epoch)
        for name, parameter in model.named_parameters():
            self._epochs.add_histogram(f"weights/{name}", parameter.detach().float().cpu(), epoch)
            if parameter.grad is not None:
                self._epochs.add_histogram(f"gradients/{name}", parameter.grad.float().cpu(), epoch)
        probabilities = outputs.values.softmax(1)
        for index, name in enumerate(self._run.classes):
            self._epochs.add_pr_curve(f"precision by recall/{name}", outputs.labels == index, probabilities[:, index], epoch)
        self._epochs.add_figure("validation photos", self._photos(probabilities, outputs.labels), epoch)
        if epoch == 0:
            self._add_graph(model)
        self._epochs.flush()

    def finish(self, metrics: Mapping[str, float], checkpoint: Path) -> None:
        """Settings beside what they led to."""
        settings = {key: _plain(value) for key, value in self._run.settings.items()}
        results = {f"kept/{name}": value for name, value in metrics.items()}
        self._epochs.add_hparams(settings, results, run_name=".")
        self._steps.close()
        self._epochs.close()

    def _add_graph(self, model: nn.Module) -> None:
        """Traced from a copy, as the network is for anyone who loads it: its BatchNorm layers not folded, on the processor."""
        plain = copy.deepcopy(model).cpu().float().eval().to(memory_format=torch.contiguous_format)
        unfold_batch_norm(plain)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the tracer, on branches that depend on sizes
            try:
                self._epochs.add_graph(plain, torch.zeros(1, *self._run.preprocessing.input_size))
            except RuntimeError as error:
                say(f"TensorBoard gets no graph: {type(plain).__name__} cannot be traced ({str(error).splitlines()[0]})")

    def _photos(self, probabilities: Tensor, labels: Tensor) -> Figure:
        """Some photos, the same in every epoch, with the class that was predicted and, where it differs, the true one."""
        figure = Figure(figsize=(2 * COLUMNS, 2.2 * ROWS), layout="constrained")
        chosen = torch.linspace(0, len(labels) - 1, min(ROWS * COLUMNS, len(labels))).round().long().unique().tolist()
        for axes, index in zip(figure.subplots(ROWS, COLUMNS).flat, chosen, strict=False):
            confidence, predicted = probabilities[index].max(0)
            said, true = self._run.classes[int(predicted)], self._run.classes[int(labels[index])]
            with Image.open(self._run.val.paths[index]) as photo:
                axes.imshow(photo.convert("RGB"))
            axes.set_title(
                f"{said} {confidence:.0%}" + ("" if said == true else f", is {true}"),
                color="black" if said == true else "firebrick",
            )
        for axes in figure.axes:
            axes.set_axis_off()
        return figure


def _plain(value: object) -> bool | int | float | str:
    """As TensorBoard takes a setting."""
    return value if isinstance(value, bool | int | float | str) else json.dumps(value)
