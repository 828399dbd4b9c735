"""The real `dvc repro` in a temporary clone: what it makes, what it reruns, and that it survives kills bit for bit."""

import csv
import json
import re
import zipfile
from pathlib import Path

import pandas as pd
import pytest
import torch

from pipeline.checkpoint import read_info, read_model_state
from pipeline.data.manifest import read_manifest
from pipeline.files import sha256_of
from pipeline.inference import Classifier
from pipeline.params import load_params
from pipeline.stages import evaluate, preprocess, train_frozen_backbone, unfreeze_finetune
from pipeline.training.selection import best_clip, cross_fitted_losses
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


def rows_of(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.read_text().splitlines()))


def test_every_test_photo_is_predicted_and_the_report_tells_the_numbers(small: Path) -> None:
    evaluation = small / "outputs/evaluation"
    metrics = json.loads((evaluation / "metrics.json").read_text())
    rows = rows_of(evaluation / "predictions.csv")
    assert len(rows) == metrics["num_test"] == len(list((small / "data/processed/images/test").rglob("*.jpg")))
    page = (evaluation / "report.html").read_text(encoding="utf-8")
    told = [f"{metrics['finetuned']['accuracy']:.2%}", sha256_of(evaluation / "predictions.csv"), "in the fine-tuned network"]
    assert all(text in page for text in told)
    assert not re.search(r"https?://|<script", page)
    assert len(page.encode()) < 5_000_000
    assert not (small / "outputs/.resume/unfreeze-finetune").exists()


def test_the_probe_knows_no_photo_that_it_is_asked_of(small: Path) -> None:
    rows = rows_of(small / "outputs/probe/out_of_fold.csv")
    manifest = rows_of(small / "data/processed/manifest.csv")
    assert {row["id"] for row in rows} == {row["id"] for row in manifest if row["split"] in ("train", "val")}
    assert all(float(row["probability_Cat"]) + float(row["probability_Dog"]) == pytest.approx(1, abs=1e-4) for row in rows)


def test_dvc_shows_what_was_made(small: Path) -> None:
    shown = json.loads(run(small, "dvc", "metrics", "show", "--json").stdout)
    assert "outputs/evaluation/metrics.json" in shown[""]["data"]
    run(small, "dvc", "plots", "show", "--out", "plots")
    page = (small / "plots/index.html").read_text()
    for title in (
        "Validation log-loss of the linear probe by L2 strength",
        "Confusion after fine-tuning",
        "ROC",
        "mistakes.png",
    ):
        assert title in page


def test_the_runtime_reruns_nothing_and_an_evaluation_setting_evaluation_alone(small: Path) -> None:
    set_params(small, {"runtime.workers": 1})
    assert ran(run(small, "dvc", "repro").stdout) == []
    set_params(small, {"evaluate.confidence_level": 0.9})
    assert ran(run(small, "dvc", "repro").stdout) == ["evaluate"]


def test_several_backbones_are_one_classifier_and_back_nothing_is_trained(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sha256_of(small / "outputs/finetuned/model.safetensors")
    set_params(small, {"backbone.name": ["test_resnet", "test_efficientnet"], "unfreeze_finetune.epochs": "auto"})
    assert {"preprocess", *STAGES[2:]} <= set(json.loads(run(small, "dvc", "status", "--json").stdout))
    monkeypatch.chdir(small)
    for stage in (preprocess, train_frozen_backbone, unfreeze_finetune, evaluate):  # here, where torch is imported already
        stage.run(load_params())
    frozen, finetuned = (read_info(small / "outputs" / name) for name in ("frozen", "finetuned"))
    assert [part.name for part in finetuned.backbone.parts] == ["test_resnet", "test_efficientnet"]
    assert frozen.heads_tried.keys() > {"test_resnet alone", "test_efficientnet alone"}
    assert (finetuned.epoch, finetuned.metrics["alpha"]) == (0, 0)
    states = [read_model_state(small / "outputs" / name) for name in ("frozen", "finetuned")]
    differing = {name for name, tensor in states[0].items() if not torch.equal(tensor, states[1][name])}
    assert differing <= {"head.weight", "head.bias"}  # solved again; random features may be worth nothing both times
    assert 0 < finetuned.metrics["out_of_fold_log_loss"] < 1
    unseen = pd.read_csv(small / "outputs/probe/out_of_fold.csv").merge(read_manifest(small / "data/processed"), on="id")
    logits = torch.tensor(unseen[["probability_Cat", "probability_Dog"]].to_numpy()).log()
    losses = cross_fitted_losses(logits, torch.tensor((unseen["class"] == "Dog").to_numpy()).long())
    assert finetuned.metrics["clip"] == pytest.approx(best_clip(losses), rel=0.05)  # not on photos that the head has seen
    row = rows_of(small / "outputs/evaluation/predictions.csv")[0]
    [prediction] = Classifier.load(small / "outputs/finetuned").predict(small / row["path"])
    for name, probability in prediction.probabilities.items():
        assert probability == pytest.approx(float(row[f"finetuned_{name}"]), abs=1e-5)
    set_params(small, {key: SMALL[key] for key in ("backbone.name", "unfreeze_finetune.epochs")})
    assert ran(run(small, "dvc", "repro").stdout) == []
    assert sha256_of(small / "outputs/finetuned/model.safetensors") == before


@pytest.mark.parametrize("stage", CHECKPOINTS)
def test_a_stage_killed_again_and_again_ends_with_the_same_bits(small: Path, stage: str) -> None:
    set_params(small, {"runtime.workers": 2, "runtime.seconds_between_saves": 0})
    before = sha256_of(small / CHECKPOINTS[stage])
    drawn = {path: path.read_bytes() for path in (small / "outputs/plots").rglob("*.?sv")}
    assert killed_again_and_again(small, stage, kills=10, seed=0) == before
    assert not (small / "outputs/.resume/unfreeze-finetune").exists()
    assert {path: path.read_bytes() for path in (small / "outputs/plots").rglob("*.?sv")} == drawn


def test_a_good_frozen_head_is_fine_tuned_in_small_steps(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(small)
    file = small / "outputs/frozen/checkpoint.json"
    info = read_info(file.parent)
    file.unlink()  # it may be a link into DVC's cache
    file.write_text(info.model_copy(update={"metrics": info.metrics | {"val_log_loss": 0.007}}).model_dump_json())
    try:
        unfreeze_finetune.run(load_params())
        assert "batches of 32, learning rate 5e-05" in capsys.readouterr().out
    finally:
        run(small, "dvc", "checkout", "--force")


def test_a_missing_source_costs_nothing(small: Path) -> None:
    before = {path: path.read_bytes() for path in (small / "data/raw").rglob("*.jpg")}
    set_params(small, {"download.source": "missing.zip"})
    told = run(small, "dvc", "repro", check=False).stderr
    assert "missing.zip" in told
    assert "dvc checkout" in told
    run(small, "dvc", "checkout", "download")
    assert {path: path.read_bytes() for path in (small / "data/raw").rglob("*.jpg")} == before
    set_params(small, {"download.source": "drawn"})


def test_an_archive_of_other_content_at_the_same_path_is_unpacked_again(tmp_path: Path) -> None:
    folder = clone(tmp_path / "replaced")
    set_params(folder, {**SMALL, "download.source": "../photos.zip"})
    for content, stages in ((b"one", ["download"]), (b"one", []), (b"two", ["download"])):
        with zipfile.ZipFile(tmp_path / "photos.zip", "w") as file:
            for name in ("Cat/0.jpg", "Dog/0.jpg"):
                file.writestr(zipfile.ZipInfo(name), content)
        assert ran(run(folder, "dvc", "repro", "download").stdout) == stages
    assert (folder / "data/raw/PetImages/Cat/0.jpg").read_bytes() == b"two"


def test_an_experiment_in_a_copy_finds_a_relative_path(small: Path) -> None:
    with zipfile.ZipFile(small.parent / "photos.zip", "w") as file:
        for path in (small / "data/raw/PetImages").rglob("*"):
            file.write(path, path.relative_to(small / "data/raw"))
    run(small, "git", "-c", "user.name=T", "-c", "user.email=t@example.org", "commit", "-qam", "small")
    changed = ["-S", "download.source=../photos.zip"]
    done = run(small, "dvc", "exp", "run", "--temp", "--name", "in-a-copy", *changed, "download")
    assert ran(done.stdout) == ["download"]
    assert "in-a-copy" in run(small, "dvc", "exp", "list", "--name-only").stdout
