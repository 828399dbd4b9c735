"""Trackers log the truth, once, also after a kill; they change no bit of a training, and break none."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
import wandb
from accelerate.tracking import TensorBoardTracker
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline.params import Params
from pipeline.training.finetune import Finetuned
from pipeline.training.resume import ResumeFolder
from tests.refusals import refused
from tests.training import tiny
from tests.training.offline_runs import records

BOTH = ("tensorboard", "wandb")
STEPS, EPOCHS = list(range(1, tiny.STEPS + 1)), list(range(tiny.EPOCHS + 1))
STEPS_OF_EPOCHS = [epoch * tiny.STEPS // tiny.EPOCHS for epoch in EPOCHS]


@pytest.fixture(scope="module", autouse=True)
def _offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Weights & Biases without a network, one home for what it caches; MLflow where `Tracking` puts it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
            patch.setenv(name, str(tmp_path_factory.mktemp(name.lower())))
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_ALLOW_FILE_STORE"):
            patch.setenv(name, "")  # so that what is set meanwhile does not stay
            patch.delenv(name)
        yield


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finetuned]:
    """A whole run with all trackers, and a folder in the place of its checkpoint."""
    folder = tmp_path_factory.mktemp("tracked")
    return folder, finished(folder, (*BOTH, "mlflow"))


def finished(folder: Path, names: tuple[str, ...]) -> Finetuned:
    watching = tiny.tracking(folder, names, tiny.photos(folder / "photos").at(range(16)))
    result = tiny.train(folder, watching=watching)
    (folder / "finetuned").mkdir()
    (folder / "finetuned/model.safetensors").write_bytes(b"weights")
    watching.finish({"val_accuracy": 0.75}, folder / "finetuned")
    return result


def curves_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in (folder / "plots").rglob("*") if path.is_file()}


def events(folder: Path) -> EventAccumulator:
    everything = {"images": 0, "histograms": 0}
    return EventAccumulator(str(folder / "tracking/tensorboard/tiny"), size_guidance=everything).Reload()


def steps(accumulator: EventAccumulator, tag: str) -> list[int]:
    return [event.step for event in accumulator.Scalars(tag)]


def test_dvc_has_curves_by_step_and_by_epoch(tracked: tuple[Path, Finetuned]) -> None:
    folder, result = tracked
    for name in ("loss", "learning_rate"):
        lines = (folder / f"plots/training/plots/metrics/{name}.tsv").read_text().splitlines()
        assert lines[0].split("\t") == ["step", name]
        assert [int(line.split("\t")[0]) for line in lines[1:]] == STEPS
    rows = list(csv.DictReader((folder / "plots/epochs.csv").read_text().splitlines()))
    assert [int(row["epoch"]) for row in rows] == EPOCHS
    assert {row["frozen_val_log_loss"] for row in rows} == {rows[0]["val_log_loss"]}
    assert float(rows[-1]["val_log_loss"]) == pytest.approx(result.history[-1].val_log_loss, rel=1e-5)
    made = {path.name for path in (folder / "plots").rglob("*") if path.is_file()}
    assert made == {"loss.tsv", "learning_rate.tsv", "metrics.json", "epochs.csv"}
    assert json.loads((folder / "plots/training/metrics.json").read_text())["step"] == tiny.STEPS


def test_trackers_change_no_bit(tracked: tuple[Path, Finetuned], tmp_path: Path) -> None:
    alone = tiny.train(tmp_path)
    assert alone.history == tracked[1].history
    assert all(torch.equal(tensor, alone.model_state[name]) for name, tensor in tracked[1].model_state.items())


def test_tensorboard_has_all_that_can_be_looked_at(tracked: tuple[Path, Finetuned]) -> None:
    folder, result = tracked
    found = events(folder)
    assert steps(found, "train/loss") == steps(found, "train/learning_rate") == STEPS
    assert steps(found, "epoch/val_accuracy") == STEPS_OF_EPOCHS
    losses = [event.value for event in found.Scalars("epoch/val_log_loss")]
    assert losses == pytest.approx([epoch.val_log_loss for epoch in result.history])
    network, tags = tiny.network(), found.Tags()
    of_weights = {name.partition("weights/")[2] for name in tags["histograms"] if name.startswith("weights/")}
    of_gradients = {name.partition("gradients/")[2] for name in tags["histograms"] if name.startswith("gradients/")}
    assert of_weights == {name for name, _ in network.trainable.named_parameters()}
    assert of_gradients == {name for name, parameter in network.trainable.named_parameters() if parameter.requires_grad}
    assert [event.step for event in found.Histograms(f"gradients/{min(of_gradients)}")] == STEPS_OF_EPOCHS[1:]
    photos = found.Images("validation photos")
    assert [photo.step for photo in photos] == STEPS_OF_EPOCHS
    assert photos[0].width > 900
    assert len({photo.encoded_image_string for photo in photos}) == len(EPOCHS)
    assert any("fc" in node.name for node in found.Graph().node)
    assert [event.value for event in found.Scalars("kept/val_accuracy")] == [0.75]


def test_wandb_has_curves_settings_and_the_checkpoint(tracked: tuple[Path, Finetuned]) -> None:
    folder, result = tracked
    found = records(folder / "tracking/wandb")
    assert [row["_step"] for row in found.history if "train/loss" in row] == STEPS
    losses = [row["epoch/val_log_loss"] for row in found.history if "epoch/val_log_loss" in row]
    assert losses == pytest.approx([epoch.val_log_loss for epoch in result.history])
    assert found.config["unfreeze_finetune.epochs"] == tiny.EPOCHS
    assert found.summary["kept/val_accuracy"] == 0.75
    assert found.artifacts == {("model", "finetuned-tiny"): ["model.safetensors"]}


def test_mlflow_has_curves_and_settings(tracked: tuple[Path, Finetuned]) -> None:
    folder, result = tracked
    client = mlflow.MlflowClient((folder / "tracking/mlflow").resolve().as_uri())
    [run] = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert (run.info.run_name, run.info.status) == ("tiny", "FINISHED")
    assert run.data.params["unfreeze_finetune.epochs"] == str(tiny.EPOCHS)
    assert run.data.metrics["kept/val_accuracy"] == 0.75
    assert [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")] == STEPS
    losses = [point.value for point in client.get_metric_history(run.info.run_id, "epoch/val_log_loss")]
    assert losses == pytest.approx([epoch.val_log_loss for epoch in result.history])


class Killed(ResumeFolder):
    """A run that ends after a step, or after an epoch, before it could save that it came so far."""

    after_step = after_epoch = 10**9

    def write_when_due(self, state: Any) -> None:
        self.after_step -= 1
        if self.after_step < 0:
            raise KeyboardInterrupt
        super().write_when_due(state)

    def write(self, state: dict[str, Any]) -> None:
        if state["epoch"] > self.after_epoch:
            raise KeyboardInterrupt
        super().write(state)


def test_a_run_that_resumes_logs_nothing_twice_and_leaves_nothing_out(tracked: tuple[Path, Finetuned], tmp_path: Path) -> None:
    for killed_at in ({"after_step": 2}, {"after_epoch": 0}):
        killed = Killed(tmp_path / "resume", {"run": "tiny"}, tiny.RUNTIME)
        vars(killed).update(killed_at)
        with pytest.raises(KeyboardInterrupt):
            tiny.train(tmp_path, BOTH, resume=killed)
        wandb.teardown()  # what the end of a process does
    assert curves_of(tmp_path)
    assert finished(tmp_path, BOTH).history == tracked[1].history
    assert curves_of(tmp_path) == curves_of(tracked[0])
    assert steps(events(tmp_path), "train/loss") == STEPS
    assert steps(events(tmp_path), "epoch/val_accuracy") == STEPS_OF_EPOCHS
    assert [event.step for event in events(tmp_path).Images("validation photos")] == STEPS_OF_EPOCHS
    found = records(tmp_path / "tracking/wandb")
    assert found.ids == 3 * ["tiny"]
    assert sorted({row["_step"] for row in found.history if "train/loss" in row}) == STEPS
    assert sorted({row["epoch/epoch"] for row in found.history if "epoch/epoch" in row}) == EPOCHS


def test_a_tracker_that_cannot_begin_is_left_out(
    tracked: tuple[Path, Finetuned], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tracking").mkdir()
    (tmp_path / "tracking/tensorboard").write_text("a file in the way")
    assert tiny.train(tmp_path, ("tensorboard",)).history == tracked[1].history
    messages = [line for line in capsys.readouterr().out.splitlines() if "left out" in line]
    assert len(messages) == 1
    assert messages[0].startswith("tensorboard failed and is left out from here on (")


def test_a_tracker_that_fails_later_is_left_out_from_then_on(
    tracked: tuple[Path, Finetuned], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def log(self: TensorBoardTracker, values: dict[str, float], step: int | None) -> None:
        calls.append(step)
        if step == 3:
            raise ZeroDivisionError

    monkeypatch.setattr(TensorBoardTracker, "log", log)
    assert tiny.train(tmp_path, ("tensorboard",)).history == tracked[1].history
    assert calls == [0, 1, 2, 3]
    assert capsys.readouterr().out.count("tensorboard failed and is left out from here on (ZeroDivisionError)") == 1


def test_a_tracker_that_is_not_installed_is_named_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Params().runtime.trackers == []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refused("uv sync --inexact --extra wandb", tiny.tracking, tmp_path, ("wandb",), tiny.photos(tmp_path / "photos"))
