"""The evaluate stage on a few photos and two untrained checkpoints: what it writes, repeats and refuses."""

import contextlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pipeline.checkpoint import INFO_FILE, CheckpointInfo, HeadInfo, SolvedBlock, library_versions, read_info, save_checkpoint
from pipeline.data.dataset import Photos, data_fingerprints
from pipeline.data.manifest import fingerprint, write_manifest
from pipeline.data.transforms import evaluation_transform
from pipeline.files import read_json, sha256_of, write_csv, write_json
from pipeline.models.backbone import create_backbone
from pipeline.models.head import replace_head
from pipeline.models.outputs import FeatureExtractor
from pipeline.params import Params
from pipeline.stages import evaluate
from pipeline.training.features import write_features
from tests.refusals import refused

CLASSES = ("frozen", "id")  # called as columns of the tables are
PARAMS = Params.model_validate({"runtime": {"device": "cpu", "workers": 0, "threads": 1}})


def photos_in(project: Path) -> pd.DataFrame:
    """24 photos in three splits, one class dark and one bright, with a pair of duplicates, and their manifest."""
    random, rows = np.random.default_rng(0), []
    for number in range(24):
        label, split = CLASSES[number % 2], ("train", "val", "test")[number // 8]
        path = project / f"data/processed/images/{split}/{label}/{label}.{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 128, (80, 90, 3)) + 120 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
        group = f"group-{number - number // 2 % 2 * 2 if number > 19 else number}"
        rows.append({"id": f"{label}.{number}", "path": path.name, "class": label, "split": split, "group": group})
    text = {"status": "kept", "reason": "", "format": "JPEG", "mode": "RGB", "sha256": "", "pixel_hash": "0"}
    number = {"width": 90, "height": 80, "orientation": 1, "bytes": 9, "stored_width": 90, "stored_height": 80}
    manifest = pd.DataFrame(rows).assign(**text, **number, stored_bytes=9)
    write_manifest(manifest, project / "data/processed")
    return manifest


def checkpoint(folder: Path, manifest: pd.DataFrame, metrics: dict[str, float], *, bias: float = 0.0, note: str = "") -> None:
    backbone = create_backbone("test_resnet", "none")
    path = replace_head(backbone.model, 2, initialisation="zeros")
    head = backbone.model.get_submodule(path)
    torch.nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(0))
    torch.nn.init.constant_(head.bias, bias)
    info = CheckpointInfo(
        stage=folder.name,
        backbone=backbone.info,
        head=HeadInfo(path=path, num_outputs=2, initialisation="zeros"),
        classes=CLASSES,
        solved=(SolvedBlock(width=96, l2=1.0),),
        preprocessing=backbone.preprocessing.model_copy(update={"input_size": (3, 64, 64)}),
        data=data_fingerprints(manifest),
        stored_size=80,
        params={},
        epoch=1 if metrics.get("alpha") else 0,
        metrics={"val_accuracy": 0.75, "val_log_loss": 0.5, **metrics},
        note=note,
        versions=library_versions(),
    )
    save_checkpoint(folder, info, backbone.model.state_dict(), {})


@torch.no_grad()
def features_of(photos: Photos) -> torch.Tensor:
    """Of stored photos, by the network of the checkpoints."""
    backbone = create_backbone("test_resnet", "none")
    transform = evaluation_transform(backbone.preprocessing.model_copy(update={"input_size": (3, 64, 64)}))
    return FeatureExtractor(backbone.model.eval())(torch.stack([transform(Image.open(path)) for path in photos.paths]))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = tmp_path_factory.mktemp("project")
    manifest = photos_in(project)
    checkpoint(project / "outputs/frozen", manifest, {"val_log_loss": 0.6, "ood_auroc": 0.9, "ood_fpr95": 0.2}, bias=0.5)
    checkpoint(project / "outputs/finetuned", manifest, {"alpha": 0.7}, note="Fine-tuned: better by 0.1 (lower bound 0.05).")
    seen = manifest[manifest["split"] != "test"]
    of_id = np.where(seen["class"] == "id", 0.9, 0.1)
    of_id[3] = 0.01  # a wrong label
    rows = pd.DataFrame({"id": seen["id"], "probability_frozen": 1 - of_id, "probability_id": of_id})
    write_csv(project / "outputs/probe/out_of_fold.csv", rows.to_dict("records"))
    features = features_of(Photos.of_split(manifest, project / "data/processed", "test", CLASSES))
    features[:4] = -features[:4]  # training photo i has the features of test photo i, or their opposite
    write_features(project / "outputs/probe/train_features.npy", features)
    write_csv(
        project / "outputs/plots/epochs.csv",
        [{"epoch": 0, "train_loss": None, "val_log_loss": 0.6}, {"epoch": 1, "train_loss": 0.4, "val_log_loss": 0.5}],
    )
    write_json(project / "outputs/metrics/download.json", {"files": 24})  # of a folder: without archive_sha256
    with contextlib.chdir(project):
        evaluate.run(PARAMS)
    return project


def test_metrics_name_the_checkpoint_and_its_validation_metrics(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    metrics = read_json(Path("outputs/evaluation/metrics.json"))
    assert metrics["num_test"] == 8
    assert metrics["test_fingerprint"] == fingerprint(evaluate.read_manifest(Path("data/processed")), "test")
    assert metrics["num_parameters"] > 10_000
    assert (metrics["frozen"]["val_log_loss"], metrics["finetuned"]["val_log_loss"]) == (0.6, 0.5)
    table = pd.read_csv("outputs/evaluation/predictions.csv")
    for name in ("frozen", "finetuned"):
        assert metrics[name]["model_sha256"] == sha256_of(Path("outputs", name, "model.safetensors"))
        assert metrics[name]["accuracy"] == (table[name] == table["actual"]).mean()
        assert metrics[name]["per_class"]["id"]["support"] == 4
        assert {"accuracy", "balanced_accuracy", "f1"} <= set(metrics[name])
        of_true = np.where(table["actual"] == "id", table[f"{name}_id"], table[f"{name}_frozen"])
        assert metrics[name]["log_loss"] == pytest.approx(-np.log(of_true).mean(), rel=1e-5)
    assert metrics["unfreezing"]["alpha"] == 0.7
    assert metrics["unfreezing"]["verdict"] in {"better", "worse", "no different"}
    assert not [key for key in metrics["finetuned"] if key.startswith(("calibrated", "undoubted", "temperature"))]
    issues = pd.read_csv("outputs/evaluation/label_issues.csv")
    assert issues.columns.tolist() == ["id", "split", "class", "likely", "probability"]
    assert issues.loc[0, ["id", "class", "likely"]].tolist() == ["id.3", "id", "frozen"]
    assert 0.5 < issues.loc[0, "probability"] < 0.99  # with the temperature of the photos that the heads had not seen
    assert metrics["num_label_issues"] == len(issues)
    crossed = metrics["cross_validated"]
    right = 15 + (table["frozen"] == table["actual"]).sum()  # of the 16 that are not for testing one is wrong
    assert (crossed["photos"], crossed["accuracy"]) == (24, pytest.approx(right / 24, abs=1e-6))
    assert crossed["accuracy_low"] < crossed["accuracy"] < crossed["accuracy_high"]
    assert pd.read_csv("outputs/evaluation/reliability_frozen.csv")["photos"].sum() == 8


def test_a_second_run_writes_the_same_bytes(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the runtime section says, and however long it took; only outputs/seconds differs."""
    monkeypatch.chdir(project)
    before = {file.name: file.read_bytes() for file in Path("outputs/evaluation").iterdir()}
    report = before["report.html"].decode()
    assert "Fine-tuned: better by 0.1 (lower bound 0.05)." in report
    assert "none: drawn, or from a folder" in report
    write_json(Path("outputs/metrics/download.json"), {"files": 24, "seconds": 77.7})
    evaluate.run(PARAMS.model_copy(update={"runtime": PARAMS.runtime.model_copy(update={"workers": 1})}))
    assert {file.name: file.read_bytes() for file in Path("outputs/evaluation").iterdir()} == before
    seconds = json.loads(Path("outputs/seconds/evaluate.json").read_text())
    assert seconds["seconds"] > 0
    assert seconds["machine"]
    assert seconds["machine"] not in report
    assert "runtime:" not in report


def test_the_nearest_training_photo_is_the_one_with_the_same_features(project: Path) -> None:
    """Both splits in the order of their ids; of the opposite features none is nearest to its own test photo."""
    manifest = evaluate.read_manifest(project / "data/processed").sort_values("id")
    train, test = (manifest.loc[manifest["split"] == split, "id"].tolist() for split in ("train", "test"))
    page = (project / "outputs/evaluation/report.html").read_text()
    for number, (photo, twin) in enumerate(zip(test, train, strict=True)):
        shown = re.search(rf"<small>{photo} · (\S+)", page.partition("Most like it in training</h2>")[2])
        assert shown
        assert (shown[1] == twin) == (number >= 4)


@pytest.fixture
def copied(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The present folder, a copy of the project that may be spoiled."""
    shutil.copytree(project, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")


def change_info(name: str, **changes: object) -> None:
    """Of a checkpoint; models of a part are changed by `update`."""
    info = read_info(Path("outputs", name))
    changes = {key: getattr(info, key).model_copy(update=to) if isinstance(to, dict) else to for key, to in changes.items()}
    Path("outputs", name, INFO_FILE).write_text(info.model_copy(update=changes).model_dump_json())


def without_test_photos_of_id() -> None:
    """And both checkpoints made for just these photos."""
    manifest = evaluate.read_manifest(Path("data/processed"))
    poor = manifest[~((manifest["split"] == "test") & (manifest["class"] == "id"))]
    write_manifest(poor, Path("data/processed"))
    for name in ("frozen", "finetuned"):
        change_info(name, data=data_fingerprints(poor))


OTHERS = "id,probability_frozen,probability_id\nid.1,0.5,0.5\n"
SPOILED: dict[str, Callable[[], object]] = {
    "trained for the classes id, frozen": lambda: change_info("finetuned", classes=("id", "frozen")),
    "outputs/finetuned was not made from outputs/frozen": lambda: change_info("finetuned", backbone={"name": "test_vit"}),
    "not made from .*: their backbones differ": lambda: change_info("frozen", preprocessing={"crop_mode": "squash"}),
    "none of them of id": without_test_photos_of_id,
    r"out_of_fold\.csv cannot be used": lambda: Path("outputs/probe/out_of_fold.csv").write_text(OTHERS),
}


@pytest.mark.parametrize("message", SPOILED)
@pytest.mark.usefixtures("copied")
def test_what_cannot_be_scored_is_refused_before_anything_is_written(message: str) -> None:
    """As after the frozen stage alone has run again, by hand."""
    SPOILED[message]()
    before = {path: path.read_bytes() for path in Path("outputs/evaluation").iterdir()}
    refused(message, evaluate.run, PARAMS)
    assert {path: path.read_bytes() for path in Path("outputs/evaluation").iterdir()} == before
    assert not Path("outputs/.evaluation.new").exists()


@pytest.mark.usefixtures("copied")
def test_of_an_mlp_the_photos_that_other_heads_were_folded_over_are_scored_alone() -> None:
    change_info("frozen", solved=())
    evaluate.run(PARAMS)
    crossed = read_json(Path("outputs/evaluation/metrics.json"))["cross_validated"]
    assert (crossed["photos"], crossed["accuracy"]) == (16, pytest.approx(15 / 16, abs=1e-6))


@pytest.mark.usefixtures("copied")
def test_folds_are_calibrated_with_the_weights_of_the_checkpoint_and_a_level_is_said_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = {("balanced", 8): torch.tensor([3.0, 1.0])}  # of 8 training photos; these are of equally frequent classes
    monkeypatch.setattr(evaluate, "class_weight", lambda setting, labels: weights[setting, len(labels)])
    files = [Path("outputs/evaluation", name) for name in ("metrics.json", "predictions.csv")]
    metrics, predictions = read_json(files[0]), files[1].read_bytes()
    changes = {"head": {"class_weight": "balanced"}, "evaluate": {"confidence_level": 0.995}}
    evaluate.run(Params.model_validate(PARAMS.model_dump() | changes))
    assert read_json(files[0])["cross_validated"]["log_loss"] != metrics["cross_validated"]["log_loss"]
    assert files[1].read_bytes() == predictions
    assert "at 99.5%)" in "".join(capsys.readouterr())
