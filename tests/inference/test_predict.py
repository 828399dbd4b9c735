"""`predict` and `embed` on real photos, broken ones among them, through the real command line."""

import csv
import io
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from pipeline.__main__ import app
from pipeline.checkpoint import read_model_state
from pipeline.download.sources import USER_AGENT
from pipeline.inference import Classifier
from pipeline.inference import classifier as classifier_module
from pipeline.inference.classifier import Refused, fetch
from pipeline.inference.predict import photos_named, predict_photos
from tests.download.http_server import Answer, serve


def call(*arguments: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)), input=stdin)


@pytest.fixture(autouse=True)
def loaded_once(classifier: Classifier, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading takes seconds, which each command would wait for."""
    load = Classifier.load

    def loaded(folder: Path, device: str) -> Classifier:
        return classifier if (folder, device) == (checkpoint, "auto") else load(folder, device=device)

    monkeypatch.setattr(Classifier, "load", loaded)


@contextmanager
def unprivileged() -> Iterator[None]:
    """Without the rights of root, who may read everything."""
    is_root = os.geteuid() == 0
    if is_root:
        os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        if is_root:
            os.setresuid(0, 0, 0)


@pytest.fixture
def folder(photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: in mine six photos, one of them without a suffix, a torn one, and two files that are none."""
    (tmp_path / "mine/deeper").mkdir(parents=True)
    for name, source in zip(("0.jpg", "1.jpg", "2.jpg", "3", "deeper/4.jpg", "deeper/5.jpg"), photos, strict=False):
        shutil.copy(source, tmp_path / "mine" / name)
    (tmp_path / "mine/torn.jpg").write_bytes(photos[0].read_bytes()[:2000])
    (tmp_path / "mine/page.png").write_text("<html>")
    (tmp_path / "mine/Notes.db").write_bytes(b"no photo")
    (tmp_path / "mine/.thumbnails").mkdir()
    shutil.copy(photos[0], tmp_path / "mine/.thumbnails/0.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_each_photo_is_a_row_each_broken_one_a_reason_and_the_rest_is_counted(
    folder: Path, checkpoint: Path, classifier: Classifier
) -> None:
    done = call("predict", "mine", "--checkpoint", checkpoint, "--format", "csv")
    assert done.exit_code == 1
    rows = {row["photo"]: row for row in csv.DictReader(io.StringIO(done.stdout))}
    assert list(rows) == ["mine/0.jpg", "mine/1.jpg", "mine/2.jpg", "mine/3", "mine/deeper/4.jpg", "mine/deeper/5.jpg"]
    skipped, torn = done.stderr.splitlines()
    assert skipped == "mine: skipped 2 of 9 files, no photos in a known format: mine/Notes.db, mine/page.png"
    assert torn.startswith("mine/torn.jpg: truncated")
    for row, one in zip(rows.values(), classifier.predict(rows), strict=True):
        assert row["label"] == one.label
        assert float(row["Dog"]) == pytest.approx(one.probabilities["Dog"], rel=1e-4)
        assert float(row["ood_score"]) == pytest.approx(one.ood_score, rel=1e-3)
        assert row["is_ood"] == str(one.is_ood).lower()


def test_a_name_that_is_no_utf8_can_be_printed(tmp_path: Path, photos: list[Path]) -> None:
    file = tmp_path / os.fsdecode(b"\xff.jpg")
    shutil.copy(photos[0], file)
    assert list(photos_named([str(tmp_path)])) == [(f"{tmp_path}/\\xff.jpg", file)]


def test_files_patterns_and_standard_input_as_json(folder: Path, checkpoint: Path, photos: list[Path]) -> None:
    content = photos[7].read_bytes()
    done = call("predict", "mine/1.jpg", "mine/**/[45].jpg", "-", "--checkpoint", checkpoint, "--format", "json", stdin=content)
    assert done.exit_code == 0, done.output
    predicted = json.loads(done.stdout)
    assert [one["photo"] for one in predicted] == ["mine/1.jpg", "mine/deeper/4.jpg", "mine/deeper/5.jpg", "standard input"]
    assert predicted[-1]["label"] in predicted[-1]["probabilities"]


def test_a_table_flags_what_is_out_of_distribution_and_grad_cam_is_drawn(folder: Path, checkpoint: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save("noise.png")
    long = f"mine/{83 * chr(0x72AC)}.jpg"  # 253 bytes
    for copied in ("mine/deeper/1.jpg", long):
        shutil.copy("mine/1.jpg", copied)
    photos = ("mine/1.jpg", "mine/deeper/1.jpg", long, "noise.png")
    done = call("predict", *photos, "--checkpoint", checkpoint, "--explain")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["label", "probability", "photo"]
    assert lines[-1].endswith("noise.png  (out of distribution)")
    drawn = sorted((folder / "outputs/explained").iterdir())
    assert len(drawn) == 4
    assert len({Image.open(file).size for file in drawn}) == 1


def test_nothing_to_predict_is_an_error(folder: Path, checkpoint: Path) -> None:
    (folder / "empty").mkdir()
    done = call("predict", "empty", "empt?", "absent.jpg", "*.gif", "--checkpoint", checkpoint)
    assert done.exit_code == 1
    no_file = [f"{name}: cannot be read: No such file or directory" for name in ("absent.jpg", "*.gif")]
    assert done.stderr.splitlines() == ["empty: holds no photos", "empty: holds no photos", *no_file]
    missing = call("predict", "mine/0.jpg", "--checkpoint", "nowhere")
    assert missing.exit_code == 1
    assert f"There is no checkpoint in {folder}/nowhere: " in missing.stderr
    assert "Run this from the project's top folder, or name the folder of a checkpoint." in missing.stderr


@pytest.mark.parametrize("argument", ["linked", "mine/deep*", "mine/deep*/**"])
def test_links_to_folders_are_followed_and_a_pattern_means_the_photos_of_a_folder_once(folder: Path, argument: str) -> None:
    (folder / "linked").mkdir()
    (folder / "linked/deeper").symlink_to(folder / "mine/deeper")
    (folder / "linked/circle").symlink_to(folder / "linked")
    top = argument.split("/")[0]
    assert [name for name, _ in photos_named([argument])] == [f"{top}/deeper/4.jpg", f"{top}/deeper/5.jpg"]


def test_what_may_not_be_read_gets_its_reason_and_the_rest_its_answers(folder: Path, checkpoint: Path) -> None:
    (folder / "secret").mkdir()
    (folder / "card/.Trashes").mkdir(parents=True)
    shutil.copy(folder / "mine/1.jpg", folder / "card/1.jpg")
    (folder / "checkpoint.json").write_text("{}")
    for unreadable in ("secret", "mine/deeper", "card/.Trashes", "checkpoint.json"):
        (folder / unreadable).chmod(0)
    folder.chmod(0o755)
    with unprivileged():
        photos = ("secret", "secret/0.jpg", "mine", "mine/1.jpg", "card")
        done = call("predict", *photos, "--checkpoint", checkpoint, "--format", "csv")
        broken = call("predict", "mine/1.jpg", "--checkpoint", ".")
    assert done.exit_code == 1
    assert [line.split(",")[0] for line in done.stdout.splitlines()] == ["photo", "mine/1.jpg", "card/1.jpg"]
    assert done.stderr.splitlines() == [
        "secret: none of it is taken, because secret cannot be read",
        "mine: none of it is taken, because mine/deeper cannot be read",
        *(f"{name}: cannot be read: Permission denied" for name in ("secret", "secret/0.jpg", "mine/deeper")),
    ]
    assert broken.stderr.startswith("\nerror: checkpoint.json cannot be read: Permission denied. Make it readable for you.")


def test_a_device_is_taken_from_the_command_line(folder: Path, project: Path) -> None:
    (folder / "outputs").symlink_to(project / "outputs")
    for command in (("predict", "mine/1.jpg"), ("embed", "mine/1.jpg"), ("page",)):
        done = call(*command, "--device", "meta")
        assert done.exit_code == 1
        assert "error: device = meta: " in done.stderr


@pytest.mark.usefixtures("direct", "folder")
def test_addresses(checkpoint: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier_module, "TIMEOUTS", (2.0, 0.3))
    with serve(photos[0].read_bytes()) as server:
        good = call("predict", server.url, "--checkpoint", checkpoint, "--format", "csv", "--explain")
        assert good.exit_code == 0, good.output
        assert len(server.requests) == 1  # there may be another photo the next time
        assert server.requests[-1][1]["User-Agent"] == USER_AGENT  # some sites refuse that of an HTTP library
        for answer, limit, reason in (
            (Answer(status=404), 2**20, "404"),
            (Answer(stall=True, after=100), 2**20, "cannot be fetched"),
            (Answer(length=False), 1000, "more than 0.0 MB"),
        ):
            server.answers = [answer]
            monkeypatch.setattr(classifier_module, "MAX_FETCHED_BYTES", limit)
            with pytest.raises(Refused, match=reason):
                fetch(server.url)
    with pytest.raises(Refused, match="cannot be fetched"):
        fetch("https://example..org/cat.jpg")


def test_a_reader_that_has_seen_enough_is_no_error(folder: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", closed)
        assert predict_photos(["mine/0.jpg"], checkpoint, "csv", explain=False) == 0


def test_kaggle_gets_a_row_for_every_photo_in_order(folder: Path, checkpoint: Path, classifier: Classifier) -> None:
    kaggle = folder / "test1"
    kaggle.mkdir()
    names = {"10.jpg": "0.jpg", "9.jpg": "1.jpg", "2.jpg": "torn.jpg", "11.jpg": "page.png", "notes.jpg": "2.jpg"}
    for name, source in names.items():
        shutil.copy(folder / "mine" / source, kaggle / name)
    done = call("predict", kaggle, "--format", "kaggle", "--checkpoint", checkpoint)
    assert done.exit_code == 1  # two cannot be read
    assert "2.jpg: truncated" in done.stderr
    clip = classifier.info.metrics["clip"]
    assert f"clipped to {clip:.3g}" in done.stderr
    nine, ten = classifier.predict([kaggle / "9.jpg", kaggle / "10.jpg"])
    clipped = [float(np.clip(one.probabilities["Dog"], clip, 1 - clip)) for one in (nine, ten)]
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert [row["id"] for row in rows] == ["2", "9", "10", "11"]
    assert [float(row["label"]) for row in rows] == pytest.approx([0.5, *clipped, 0.5], abs=1e-5)


def test_kaggle_refuses_other_classes_and_folders_and_wants_a_clip(
    folder: Path, checkpoint: Path, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(photos: str) -> str:
        done = call("predict", photos, "--format", "kaggle", "--checkpoint", checkpoint)
        assert (done.exit_code, done.stdout) == (1, "")
        return done.stderr

    (folder / "none").mkdir()
    for empty in ("none", "nowhere"):
        assert "1.jpg, 2.jpg" in told(empty)
    shutil.copy("mine/0.jpg", "mine/deeper/00.jpg")
    assert "same number" in told("mine")
    (folder / "mine/deeper/00.jpg").unlink()
    saved = classifier.info
    monkeypatch.setattr(classifier, "info", saved.model_copy(update={"metrics": {}}))
    assert "dvc repro" in told("mine")
    monkeypatch.setattr(classifier, "info", saved.model_copy(update={"classes": ("fox", "dog")}))
    assert "fox, dog" in told("mine")


def test_features_are_those_that_the_head_turns_into_logits(folder: Path, checkpoint: Path, classifier: Classifier) -> None:
    for output_format in ("parquet", "npy"):
        done = call("embed", "mine", "--checkpoint", checkpoint, "--format", output_format)
        assert done.exit_code == 1
        assert "skipped 2 of 9 files" in done.stderr
        assert "mine/torn.jpg: truncated" in done.stderr
        assert "6 photos" in done.stdout
    table = pyarrow.parquet.read_table("outputs/features.parquet")
    names, features = table["photo"].to_pylist(), np.array(table["features"].to_pylist(), np.float32)
    np.testing.assert_array_equal(np.load("outputs/features.npy"), features)
    assert Path("outputs/features.npy.txt").read_text().splitlines() == names
    state = read_model_state(checkpoint)
    weight, bias = (state[f"{classifier.info.head.path}.{part}"].numpy() for part in ("weight", "bias"))
    exponentials = np.exp(features @ weight.T + bias)
    probabilities = [list(one.probabilities.values()) for one in classifier.predict(names)]
    np.testing.assert_allclose(exponentials / exponentials.sum(1, keepdims=True), probabilities, atol=1e-5)
    nothing = call("embed", "mine/torn.jpg", "--checkpoint", checkpoint, "--output", "none.parquet")
    assert nothing.exit_code == 1
    assert "nothing was written" in nothing.stderr
    assert not Path("none.parquet").exists()
