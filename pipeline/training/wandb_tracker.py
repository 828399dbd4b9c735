"""Weights & Biases: curves, settings, and the checkpoint as an artifact.

    uv sync --extra wandb
    WANDB_MODE=offline uv run dvc repro          # kept in outputs/tracking/wandb, sent later by `wandb sync`

Without an API key the run is kept offline too: a training never waits for someone to type one in.
"""

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import wandb
from torch import nn
from wandb.sdk.lib.wbauth import read_netrc_auth

from pipeline.progress import say
from pipeline.training.features import Outputs
from pipeline.training.tracked import Reached, Run

PROJECT = "cats-and-dogs"


class WandbTracker:
    """A run that goes on after a kill keeps its id, and leaves out the points that were told before the kill.

    Those points are made again with the same values, and Weights & Biases has no way to take a point back, so what was told
    last is noted beside the run.
    """

    def __init__(self, folder: Path, run: Run, reached: Reached) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._note = folder / f"{run.name}.json"
        told = json.loads(self._note.read_text(encoding="utf-8")) if reached.epochs and self._note.is_file() else {}
        self._told: dict[str, Any] = {"id": secrets.token_hex(4), "step": 0, "epoch": -1} | told
        # The artifact waits here, not in the person's home, until it is sent.
        os.environ.setdefault("WANDB_DATA_DIR", str(folder.resolve()))
        self._run = wandb.init(
            project=PROJECT,
            id=str(self._told["id"]),
            resume="allow",
            reinit="create_new",
            dir=folder,
            config=dict(run.settings) | {"classes": list(run.classes)},
            mode=_mode(folder),
            settings=wandb.Settings(console="off", silent=True),
        )
        for prefix, axis in (("train", "step"), ("epoch", "epoch")):
            self._run.define_metric(axis, hidden=True)
            self._run.define_metric(f"{prefix}/*", step_metric=axis)

    def step(self, step: int, *, loss: float, learning_rate: float) -> None:
        """Two points."""
        self._tell("step", step, {"train/loss": loss, "train/learning_rate": learning_rate})

    def epoch(self, epoch: int, scalars: Mapping[str, float], model: nn.Module, outputs: Outputs) -> None:
        """The epoch's numbers."""
        self._tell("epoch", epoch, {f"epoch/{name}": value for name, value in scalars.items()})

    def finish(self, metrics: Mapping[str, float], checkpoint: Path) -> None:
        """What was kept, and the checkpoint."""
        self._run.summary.update({f"kept/{name}": value for name, value in metrics.items()})
        artifact = wandb.Artifact(f"{checkpoint.name}-{self._run.id}", type="model", metadata=dict(metrics))
        artifact.add_dir(str(checkpoint), skip_cache=True)
        self._run.log_artifact(artifact)
        self._run.finish()
        self._note.unlink(missing_ok=True)

    def _tell(self, axis: str, position: int, values: Mapping[str, float]) -> None:
        if position <= self._told[axis]:
            return
        self._run.log({**values, axis: position})
        self._told[axis] = position
        fresh = self._note.with_suffix(".new")
        fresh.write_text(json.dumps(self._told), encoding="utf-8")
        fresh.replace(self._note)


def _mode(folder: Path) -> Literal["offline"] | None:
    """Offline where nobody can be told apart from a stranger; None leaves it to WANDB_MODE, or else to online."""
    key = os.environ.get("WANDB_API_KEY") or read_netrc_auth(host=wandb.Settings().base_url)
    if os.environ.get("WANDB_MODE") or key:
        return None
    say(f"no API key of Weights & Biases here: the run is kept in {folder}; `wandb login` and `wandb sync` send it")
    return "offline"
