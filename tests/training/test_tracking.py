"""Trackers tell the truth, once, also after a kill; they change no bit of a training, and break none."""

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline.errors import PipelineError
from pipeline.models.freezing import set_trainable
from pipeline.params import load_params
from pipeline.training.finetune import Finetuned
from pipeline.training.resume import ResumeFolder
from tests.clones import ROOT
from tests.training import tiny
from tests.training.offline_runs import records

BOTH = ("tensorboard", "wandb")
STEPS, EPOCHS = list(range(1, tiny.STEPS + 1)), list(range(tiny.EPOCHS + 1))


@pytest.fixture(scope="module", autouse=True)
def offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Weights & Biases without a network; one home for what it keeps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
            patch.setenv(name, str(tmp_path_factory.mktemp(name.lower())))
        yield


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finetuned]:
    """A whole run with all trackers, and a folder in the place of its checkpoint."""
    folder = tmp_path_factory.mktemp("watched")
    return folder, finished(folder)


def finished(folder: Path) -> Finetuned:
    watching = tiny.trackers(folder, BOTH, tiny.photos(folder / "photos"))
    result = tiny.train(folder, watching=watching)
    (folder / "finetuned").mkdir()
    (folder / "finetuned/model.safetensors").write_bytes(b"weights")
    watching.finish({"val_accuracy": 0.75}, folder / "finetuned")
    return result


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


def curves_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in (folder / "plots").rglob("*") if path.is_file()}


def events(folder: Path, axis: str) -> EventAccumulator:
    everything = {"images": 0, "histograms": 0}
    return EventAccumulator(str(folder / "tracking/tensorboard/tiny" / axis), size_guidance=everything).Reload()


def steps(accumulator: EventAccumulator, tag: str) -> list[int]:
    return [event.step for event in accumulator.Scalars(tag)]


def test_dvc_has_curves_by_step_and_by_epoch(watched: tuple[Path, Finetuned]) -> None:
    folder, result = watched
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


def test_trackers_change_no_bit(watched: tuple[Path, Finetuned], tmp_path: Path) -> None:
    alone = tiny.train(tmp_path)
    assert alone.history == watched[1].history
    for name, tensor in watched[1].training_state["model_state_dict"].items():
        assert torch.equal(tensor, alone.training_state["model_state_dict"][name]), name
    assert curves_of(tmp_path).keys() == curves_of(watched[0]).keys()


def test_tensorboard_has_all_that_can_be_looked_at(watched: tuple[Path, Finetuned]) -> None:
    folder, result = watched
    by_step, by_epoch = events(folder, "steps"), events(folder, "epochs")
    assert steps(by_step, "train/loss") == steps(by_step, "train/learning_rate") == STEPS
    assert steps(by_epoch, "epoch/val_accuracy") == EPOCHS
    assert [event.value for event in by_epoch.Scalars("epoch/val_log_loss")] == pytest.approx(
        [epoch.val_log_loss for epoch in result.history]
    )
    tags = by_epoch.Tags()
    network = tiny.network()
    set_trainable(network, tiny.settings().unfrozen_blocks)
    learning = {f"gradients/{name}" for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert set(tags["histograms"]) == learning | {f"weights/{name}" for name, _ in network.named_parameters()}
    assert [event.step for event in by_epoch.Histograms("gradients/fc.weight")] == EPOCHS[1:]
    photos = by_epoch.Images("validation photos")
    assert [photo.step for photo in photos] == EPOCHS
    assert photos[0].width > 900
    assert len({photo.encoded_image_string for photo in photos}) == len(EPOCHS)
    assert {"precision by recall/cat", "precision by recall/dog"} <= set(tags["tensors"])
    assert any("fc" in node.name for node in by_epoch.Graph().node)
    assert by_epoch.summary_metadata["_hparams_/session_start_info"].plugin_data.plugin_name == "hparams"
    assert [event.value for event in by_epoch.Scalars("kept/val_accuracy")] == [0.75]


def test_wandb_has_curves_settings_and_the_checkpoint(watched: tuple[Path, Finetuned]) -> None:
    folder, result = watched
    told = records(folder / "tracking/wandb")
    assert [row["step"] for row in told.history if "train/loss" in row] == STEPS
    losses = [row["epoch/val_log_loss"] for row in told.history if "epoch/val_log_loss" in row]
    assert losses == pytest.approx([epoch.val_log_loss for epoch in result.history])
    assert told.config["unfreeze_finetune.epochs"] == tiny.EPOCHS
    assert told.summary["kept/val_accuracy"] == 0.75
    assert told.artifacts == {("model", f"finetuned-{told.ids[0]}"): ["model.safetensors"]}
    assert not list((folder / "tracking/wandb").glob("*.json"))


@pytest.mark.parametrize("killed_at", [{"after_step": 2}, {"after_epoch": 0}])
def test_a_run_that_goes_on_tells_nothing_twice_and_leaves_nothing_out(
    watched: tuple[Path, Finetuned], tmp_path: Path, killed_at: dict[str, int]
) -> None:
    killed = Killed(tmp_path / "resume", {"run": "tiny"}, 0.0)
    vars(killed).update(killed_at)
    with pytest.raises(KeyboardInterrupt):
        tiny.train(tmp_path, BOTH, resume=killed)
    wandb.teardown()  # what the end of a process does
    assert curves_of(tmp_path)
    result = finished(tmp_path)
    assert result.history == watched[1].history
    assert curves_of(tmp_path) == curves_of(watched[0])
    assert steps(events(tmp_path, "steps"), "train/loss") == STEPS
    assert steps(events(tmp_path, "epochs"), "epoch/val_accuracy") == EPOCHS
    assert [event.step for event in events(tmp_path, "epochs").Images("validation photos")] == EPOCHS
    told = records(tmp_path / "tracking/wandb")
    assert len(told.ids) == 2
    assert len(set(told.ids)) == 1
    assert [row["step"] for row in told.history if "train/loss" in row] == STEPS
    assert [row["epoch"] for row in told.history if "epoch/val_accuracy" in row] == EPOCHS


def test_a_tracker_that_cannot_begin_is_left_out(
    watched: tuple[Path, Finetuned], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tracking").mkdir()
    (tmp_path / "tracking/tensorboard").write_text("a file in the way")
    assert tiny.train(tmp_path, ("tensorboard",)).history == watched[1].history
    told = [line for line in capsys.readouterr().out.splitlines() if "left out" in line]
    assert len(told) == 1
    assert told[0].startswith("tensorboard failed and is left out from here on (")


def test_a_tracker_that_fails_later_is_left_out_from_then_on(
    watched: tuple[Path, Finetuned], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Failing:
        told = 0

        def step(self, step: int, **_: float) -> None:
            self.told += 1
            if step == 3:
                raise ZeroDivisionError

        def epoch(self, *_: Any) -> None: ...

    failing, watching = Failing(), tiny.trackers(tmp_path, (), tiny.photos(tmp_path / "photos"))
    watching._trackers["failing"] = failing  # type: ignore[assignment]
    assert tiny.train(tmp_path, watching=watching).history == watched[1].history
    assert failing.told == 3
    assert capsys.readouterr().out.count("failing failed and is left out from here on (ZeroDivisionError)") == 1


def test_a_tracker_that_is_not_installed_is_told_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(PipelineError, match="uv sync --extra wandb"):
        tiny.trackers(tmp_path, ("wandb",), tiny.photos(tmp_path / "photos"))


def test_by_default_nothing_but_dvc_watches() -> None:
    assert load_params(ROOT / "params.yaml").runtime.trackers == []
    assert "WANDB_API_KEY" not in os.environ or os.environ["WANDB_MODE"] == "offline"
