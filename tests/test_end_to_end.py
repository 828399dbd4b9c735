"""The real `dvc repro` in a temporary clone: what it makes, what it reruns, and that it survives a kill bit for bit."""

import csv
import json
import zipfile
from pathlib import Path

import pytest

from pipeline.checkpoint import read_info
from pipeline.files import sha256_of
from tests.clones import SMALL, clone, ran, run, set_params
from tests.kills import CHECKPOINTS, killed_again_and_again

STAGES = ["download", "preprocess", "train-frozen-backbone", "unfreeze-finetune", "evaluate"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone after its first `dvc repro` on a small drawn set; tests here run in order and build on it."""
    folder = clone(tmp_path_factory.mktemp("clones") / "small")
    set_params(folder, SMALL)
    assert ran(run(folder, "dvc", "repro").stdout) == STAGES
    return folder


def test_every_stage_gives_what_it_says(small: Path) -> None:
    for checkpoint in ("frozen", "finetuned"):
        names = {path.name for path in (small / "outputs" / checkpoint).iterdir()}
        assert names == {"model.safetensors", "checkpoint.json", "training_state.pt"}
        assert read_info(small / "outputs" / checkpoint).classes == ("cat", "dog")
    made = {path.relative_to(small / "outputs").as_posix() for path in (small / "outputs").rglob("*") if path.is_file()}
    assert {"evaluation/metrics.json", "evaluation/predictions.csv", "evaluation/mistakes.png", "plots/photos.png"} <= made
    assert not (small / "outputs" / ".resume" / "unfreeze-finetune").exists()
    metrics = json.loads((small / "outputs/evaluation/metrics.json").read_text())
    rows = list(csv.DictReader((small / "outputs/evaluation/predictions.csv").read_text().splitlines()))
    assert len(rows) == metrics["num_test"] == len(list((small / "data/processed/images/test").rglob("*.jpg")))
    for checkpoint in ("frozen", "finetuned"):
        right = sum(row["actual"] == row[checkpoint] for row in rows) / len(rows)
        assert right == pytest.approx(metrics[checkpoint]["accuracy"], abs=1e-5)
        assert metrics[checkpoint]["accuracy_low"] <= right <= metrics[checkpoint]["accuracy_high"]


def test_dvc_shows_what_was_made(small: Path) -> None:
    shown = json.loads(run(small, "dvc", "metrics", "show", "--json").stdout)
    assert "outputs/evaluation/metrics.json" in shown[""]["data"]
    experiments = run(small, "dvc", "exp", "show", "--csv").stdout
    assert "finetuned.accuracy" in experiments
    run(small, "dvc", "plots", "show", "--out", "plots")
    page = (small / "plots/index.html").read_text()
    for title in ("Validation log-loss of the probe by L2 strength", "Confusion after fine-tuning", "ROC", "mistakes.png"):
        assert title in page
    assert "evaluate" in run(small, "dvc", "dag").stdout


def test_a_second_repro_does_nothing(small: Path) -> None:
    done = run(small, "dvc", "repro")
    assert ran(done.stdout) == []
    assert "up to date" in done.stdout


def test_an_evaluation_setting_reruns_evaluation_alone(small: Path) -> None:
    set_params(small, {"evaluate.confidence": 0.9})
    assert ran(run(small, "dvc", "repro").stdout) == ["evaluate"]
    assert "confidence" in run(small, "dvc", "params", "diff").stdout


def test_the_runtime_reruns_nothing(small: Path) -> None:
    set_params(small, {"runtime.workers": 1})
    assert ran(run(small, "dvc", "repro").stdout) == []


def test_another_backbone_reruns_training_and_back_restores_without_training(small: Path) -> None:
    before = sha256_of(small / "outputs/finetuned/model.safetensors")
    own = {"backbone.name": "test_resnet", "backbone.weights": "pipeline/weights/test_resnet.drawn.safetensors"}
    set_params(small, {"backbone.name": "test_efficientnet", "backbone.weights": "none", "unfreeze_finetune.epochs": 1})
    assert ran(run(small, "dvc", "repro").stdout) == STAGES[2:]
    assert sha256_of(small / "outputs/finetuned/model.safetensors") != before
    set_params(small, {**own, "unfreeze_finetune.epochs": 2})
    assert ran(run(small, "dvc", "repro").stdout) == []
    assert sha256_of(small / "outputs/finetuned/model.safetensors") == before


@pytest.mark.parametrize(
    ("stage", "workers"), [("train_frozen_backbone", 2), ("unfreeze_finetune", 2), ("unfreeze_finetune", 0)]
)
def test_a_stage_killed_again_and_again_ends_with_the_same_bits(small: Path, stage: str, workers: int) -> None:
    set_params(small, {"runtime.workers": workers, "runtime.seconds_between_saves": 0})
    before = sha256_of(small / CHECKPOINTS[stage])
    assert killed_again_and_again(small, stage, kills=7, seed=workers) == before
    assert not (small / "outputs/.resume/unfreeze-finetune").exists()


def test_an_experiment_in_a_copy_finds_a_relative_path(small: Path) -> None:
    archive = small.parent / "photos.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in (small / "data/raw/PetImages").rglob("*"):
            if path.is_file():
                file.write(path, path.relative_to(small / "data/raw"))
    run(small, "git", "-c", "user.name=T", "-c", "user.email=t@example.org", "commit", "-qam", "small")
    settings = [f"{key}={value}" for key, value in SMALL.items()]
    changes = [part for setting in ["download.source=../photos.zip", *settings] for part in ("-S", setting)]
    done = run(small, "dvc", "exp", "run", "--temp", "--name", "in-a-copy", *changes)
    # The photos are those that were drawn, so DVC finds everything after the download in its run cache.
    assert ran(done.stdout) == ["download"]
    assert "in-a-copy" in run(small, "dvc", "exp", "list", "--name-only").stdout


def test_a_bad_source_costs_nothing(small: Path) -> None:
    before = {path: path.read_bytes() for path in (small / "data/raw").rglob("*.jpg")}
    bad = {"missing.zip": None, "empty.zip": b"", "page.zip": b"<!DOCTYPE html><html></html>"}
    for name, content in bad.items():
        if content is not None:
            (small / name).write_bytes(content)
        set_params(small, {"download.source": name})
        done = run(small, "python", "-m", "pipeline", "download", check=False)
        assert done.returncode == 1
        assert name in done.stderr
        assert "Traceback" not in done.stderr
    assert {path: path.read_bytes() for path in (small / "data/raw").rglob("*.jpg")} == before
    set_params(small, {"download.source": "missing.zip"})
    assert "dvc checkout" in run(small, "dvc", "repro", check=False).stderr
    run(small, "dvc", "checkout", "download")
    assert {path: path.read_bytes() for path in (small / "data/raw").rglob("*.jpg")} == before


def test_an_impossible_setting_stops_any_stage_before_it_works(small: Path) -> None:
    set_params(small, {"download.source": "drawn", "unfreeze_finetune.learning_rate": 0})
    for stage in STAGES:
        done = run(small, "python", "-m", "pipeline", stage, check=False)
        assert done.returncode == 1
        assert done.stderr.count("unfreeze_finetune.learning_rate = 0") == 1
        assert "Traceback" not in done.stderr
