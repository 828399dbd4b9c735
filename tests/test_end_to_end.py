"""The real `dvc repro` in a temporary clone: what it makes, what it reruns, and that it survives a kill bit for bit."""

import csv
import json
import math
import re
import statistics
import zipfile
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from pipeline.checkpoint import read_info
from pipeline.data.dataset import data_fingerprints
from pipeline.data.manifest import read_manifest, write_manifest
from pipeline.errors import PipelineError
from pipeline.files import sha256_of
from pipeline.params import load_params
from pipeline.stages import evaluate
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
        assert names == {"model.safetensors", "checkpoint.json", "ood.safetensors"}
        assert read_info(small / "outputs" / checkpoint).classes == ("cat", "dog")
    made = {path.relative_to(small / "outputs").as_posix() for path in (small / "outputs").rglob("*") if path.is_file()}
    assert {"evaluation/metrics.json", "evaluation/predictions.csv", "evaluation/mistakes.png", "plots/photos.png"} <= made
    assert {"evaluation/report.html", "evaluation/label_issues.csv", "out_of_fold.csv"} <= made
    assert not (small / "outputs" / ".resume" / "unfreeze-finetune").exists()
    metrics = json.loads((small / "outputs/evaluation/metrics.json").read_text())
    rows = list(csv.DictReader((small / "outputs/evaluation/predictions.csv").read_text().splitlines()))
    assert len(rows) == metrics["num_test"] == len(list((small / "data/processed/images/test").rglob("*.jpg")))
    for checkpoint in ("frozen", "finetuned"):
        right = sum(row["actual"] == row[checkpoint] for row in rows) / len(rows)
        assert right == pytest.approx(metrics[checkpoint]["accuracy"], abs=1e-5)
        assert metrics[checkpoint]["accuracy_low"] <= right <= metrics[checkpoint]["accuracy_high"]
        losses = [-math.log(float(row[f"{checkpoint}_{row['actual']}"])) for row in rows]
        assert statistics.mean(losses) == pytest.approx(metrics[checkpoint]["log_loss"], rel=1e-5)


def test_the_report_is_one_file_of_modest_size_that_tells_the_numbers(small: Path) -> None:
    page = (small / "outputs/evaluation/report.html").read_text(encoding="utf-8")
    metrics = json.loads((small / "outputs/evaluation/metrics.json").read_text())
    assert f"{metrics['finetuned']['accuracy']:.2%}" in page
    assert f"{metrics['finetuned']['ece']:.4f}" in page
    assert sha256_of(small / "outputs/evaluation/predictions.csv") in page
    assert "in the fine-tuned network" in page  # Grad-CAM
    assert not re.search(r"https?://|<script", page)
    assert len(page.encode()) < 5_000_000


def test_the_probe_knows_no_photo_that_it_is_asked_of(small: Path) -> None:
    rows = list(csv.DictReader((small / "outputs/out_of_fold.csv").read_text().splitlines()))
    manifest = csv.DictReader((small / "data/processed/manifest.csv").read_text().splitlines())
    assert {row["id"] for row in rows} == {row["id"] for row in manifest if row["split"] in ("train", "val")}
    assert all(float(row["cat"]) + float(row["dog"]) == pytest.approx(1, abs=1e-4) for row in rows)


def evaluation_refuses(small: Path, monkeypatch: pytest.MonkeyPatch, message: str) -> None:
    """Evaluation stops with a message and leaves the report that was there untouched."""
    before = {path.name: path.read_bytes() for path in (small / "outputs/evaluation").iterdir()}
    with monkeypatch.context() as patch:
        patch.chdir(small)
        params = load_params()
        runtime = params.runtime.model_copy(update={"device": "cpu", "workers": 0})
        with pytest.raises(PipelineError, match=message):
            evaluate.run(params.model_copy(update={"runtime": runtime}))
    assert {path.name: path.read_bytes() for path in (small / "outputs/evaluation").iterdir()} == before
    assert not (small / "outputs/.evaluation.new").exists()


def change_info(checkpoint: Path, **changes: object) -> None:
    file = checkpoint / "checkpoint.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_checkpoint_that_does_not_belong_is_refused_before_anything_is_written(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = small / "outputs/finetuned"
    kept = {path: path.read_bytes() for path in checkpoint.iterdir()}
    info = json.loads((checkpoint / "checkpoint.json").read_text())

    change_info(checkpoint, classes=["dog", "cat"])
    evaluation_refuses(small, monkeypatch, "trained for the classes dog, cat")
    change_info(checkpoint, classes=info["classes"], data=info["data"] | {"train": "0" * 64})
    evaluation_refuses(small, monkeypatch, r"other photos or another split.*differing: train")
    change_info(checkpoint, data=info["data"], metrics={})
    evaluation_refuses(small, monkeypatch, "without val_accuracy")
    change_info(checkpoint, metrics={key: value for key, value in info["metrics"].items() if key != "alpha"})
    evaluation_refuses(small, monkeypatch, "without alpha")
    change_info(checkpoint, metrics=info["metrics"], backbone=info["backbone"] | {"name": "test_vit"})
    evaluation_refuses(small, monkeypatch, "do not fit test_vit")
    (checkpoint / "checkpoint.json").write_text("{")
    evaluation_refuses(small, monkeypatch, r"checkpoint\.json is broken")
    (checkpoint / "checkpoint.json").write_bytes(kept[checkpoint / "checkpoint.json"])
    (checkpoint / "model.safetensors").write_bytes(b"torn")
    evaluation_refuses(small, monkeypatch, "not what was saved")

    for name, value in (("fc.bias", math.nan), ("fc.weight", 1e38)):  # of the second kind the logits alone are not finite
        broken = load_file(small / "outputs/frozen/model.safetensors")
        broken[name][:] = value
        save_file(broken, checkpoint / "model.safetensors")
        sha256 = sha256_of(checkpoint / "model.safetensors")
        change_info(checkpoint, files=info["files"] | {"model.safetensors": sha256})
        evaluation_refuses(small, monkeypatch, "not (a )?finite number")
    for path, content in kept.items():
        path.write_bytes(content)


def test_a_test_split_that_cannot_be_scored_is_refused(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest_file = small / "data/processed/manifest.csv"
    kept = {path: path.read_bytes() for path in (manifest_file, *(small / "outputs").glob("*/checkpoint.json"))}
    manifest = read_manifest(small / "data/processed")
    for absent, told in ((("dog",), "none of them of dog"), (("cat", "dog"), "holds 0 photos, none of them of cat, dog")):
        poor = manifest[~((manifest["split"] == "test") & manifest["class"].isin(absent))]
        write_manifest(poor, small / "data/processed")
        for name in ("frozen", "finetuned"):
            change_info(small / "outputs" / name, data=data_fingerprints(poor).model_dump())
        evaluation_refuses(small, monkeypatch, told)
    for path, content in kept.items():
        path.write_bytes(content)
    (small / "outputs/out_of_fold.csv").rename(small / "aside.csv")
    evaluation_refuses(small, monkeypatch, "out_of_fold.csv cannot be used")
    (small / "aside.csv").rename(small / "outputs/out_of_fold.csv")
    (small / "outputs/plots/epochs.csv").rename(small / "aside.csv")
    evaluation_refuses(small, monkeypatch, "epochs.csv cannot be used")
    (small / "aside.csv").rename(small / "outputs/plots/epochs.csv")


def test_dvc_shows_what_was_made(small: Path) -> None:
    shown = json.loads(run(small, "dvc", "metrics", "show", "--json").stdout)
    assert "outputs/evaluation/metrics.json" in shown[""]["data"]
    experiments = run(small, "dvc", "exp", "show", "--csv").stdout
    assert "finetuned.accuracy" in experiments
    run(small, "dvc", "plots", "show", "--out", "plots")
    page = (small / "plots/index.html").read_text()
    for title in (
        "Validation log-loss of the linear probe by L2 strength",
        "Confusion after fine-tuning",
        "ROC",
        "Precision by recall",
        "mistakes.png",
    ):
        assert title in page
    assert "evaluate" in run(small, "dvc", "dag").stdout


def test_a_second_repro_does_nothing(small: Path) -> None:
    assert ran(run(small, "dvc", "repro").stdout) == []


def test_an_evaluation_setting_reruns_evaluation_alone(small: Path) -> None:
    set_params(small, {"evaluate.confidence_level": 0.9})
    assert ran(run(small, "dvc", "repro").stdout) == ["evaluate"]
    assert "confidence_level" in run(small, "dvc", "params", "diff").stdout


def test_the_runtime_reruns_nothing(small: Path) -> None:
    set_params(small, {"runtime.workers": 1})
    assert ran(run(small, "dvc", "repro").stdout) == []


@pytest.mark.slow
def test_another_backbone_reruns_training_and_back_restores_without_training(small: Path) -> None:
    before = sha256_of(small / "outputs/finetuned/model.safetensors")
    own = {"backbone.name": "test_resnet"}
    set_params(small, {"backbone.name": "test_efficientnet", "unfreeze_finetune.epochs": 1})
    # Its input size might ask for another stored size, so preprocess runs too.
    assert ran(run(small, "dvc", "repro").stdout) == STAGES[1:]
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
    drawn = {path: path.read_bytes() for path in (small / "outputs/plots").rglob("*.?sv")}
    assert killed_again_and_again(small, stage, kills=7, seed=workers) == before
    assert not (small / "outputs/.resume/unfreeze-finetune").exists()
    assert {path: path.read_bytes() for path in (small / "outputs/plots").rglob("*.?sv")} == drawn


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
    # The photos are those that were drawn: DVC finds all that follows in its run cache but the report, which names the archive.
    assert ran(done.stdout) == ["download", "evaluate"]
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
