"""The audit: one row a file whatever the file is, and the same rows whoever decodes them."""

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.errors import PipelineError
from pipeline.preprocess.audit import find_tasks
from pipeline.preprocess.photo import pixel_hash
from tests.preprocess.audits import contents, run


def test_every_file_has_a_row_and_every_photo_is_stored(raw: Path, tmp_path: Path) -> None:
    manifest = run(raw, tmp_path / "store")
    files = [path.relative_to(raw).as_posix() for path in raw.rglob("*") if path.is_file()]
    assert manifest["path"].tolist() == sorted(files)
    rows = manifest.set_index("path")
    refused = rows.loc[rows["status"] == "refused", "reason"].str.split(":").str[0].to_dict()
    assert refused == {
        "PetImages/Cat/666.jpg": "empty file",
        "PetImages/Dog/Thumbs.db": "not a photo in a known format",
        "PetImages/Dog/cut.jpg": "truncated",
    }
    assert rows.loc["PetImages/Dog/ink.jpg", ["status", "reason", "mode"]].tolist() == ["repaired", "CMYK converted", "CMYK"]
    usable = manifest[manifest["status"] != "refused"]
    expected = {f"{label}/{photo}.jpg" for label, photo in zip(usable["class"], usable["id"], strict=True)}
    assert set(contents(tmp_path / "store")) == expected


def test_a_row_describes_its_file(raw: Path, tmp_path: Path) -> None:
    row = run(raw, tmp_path / "store").set_index("id").loc["dog.5"]
    with Image.open(raw / "PetImages" / "Dog" / "5.jpg") as image:
        assert row["pixel_hash"] == pixel_hash(np.asarray(image))
    with Image.open(tmp_path / "store" / "dog" / "dog.5.jpg") as stored:
        assert (row["stored_width"], row["stored_height"]) == stored.size == (48, round(69 * 48 / 60))
    described = row[["class", "status", "reason", "format", "mode", "width", "height", "orientation"]].tolist()
    assert described == ["dog", "kept", "", "JPEG", "RGB", 60, 69, 1]
    assert row["bytes"] == (raw / "PetImages" / "Dog" / "5.jpg").stat().st_size


def test_workers_and_the_order_of_files_change_nothing(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = run(raw, tmp_path / "one", workers=1)
    ordered = os.walk
    monkeypatch.setattr(os, "walk", lambda top: ((parent, dirs, names[::-1]) for parent, dirs, names in ordered(top)))
    two = run(raw, tmp_path / "two", workers=2)
    pd.testing.assert_frame_equal(one, two)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "There is no folder"),
        (["PetImages/Cat/0.jpg"], "two or more classes"),
        (["PetImages/Cat/0.jpg", "PetImages/Dog/0.jpg", "PetImages/Hamster/"], "no file in the folder of hamster"),
    ],
)
def test_a_folder_without_photos_is_an_error(tmp_path: Path, files: list[str], message: str) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).mkdir() if file.endswith("/") else (tmp_path / file).touch()
    with pytest.raises(PipelineError, match=message):
        run(tmp_path, tmp_path / "store")


def test_a_disk_that_is_too_small_is_found_before_anything_is_decoded(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10_000))
    with pytest.raises(PipelineError, match="There is no room to store the photos of"):
        run(raw, tmp_path / "store")
    assert contents(tmp_path / "store") == {}


def test_ids_are_plain_unique_and_safe(tmp_path: Path) -> None:
    top = tmp_path / "PetImages"
    names = ["0.jpg", "1.png", "1.jpg", "a.jpg", "A.jpg", "more/2.jpg", "../Dog/0.jpg", "so ../%.jpg", "two\nlines.jpg"]
    for name in [*names, "x" * 240 + ".jpg"]:
        (top / "Cat" / name).parent.mkdir(parents=True, exist_ok=True)
        (top / "Cat" / name).touch()
    os.rename(top / "Cat" / "0.jpg", os.fsencode(top) + b"/Cat/\xff.jpg")  # a name that is no UTF-8
    tasks = find_tasks(tmp_path, tmp_path / "store", 48)
    by_path = {task.path: task.id for task in tasks}
    assert by_path["PetImages/Dog/0.jpg"] == "dog.0"
    assert by_path["PetImages/Cat/more/2.jpg"] == "cat.more_2"
    assert by_path["PetImages/Cat/two\\x0alines.jpg"] == "cat.two_lines"
    assert by_path["PetImages/Cat/\\xff.jpg"] == "cat._"
    for twin in ("1.png", "1.jpg", "a.jpg", "A.jpg"):
        assert by_path[f"PetImages/Cat/{twin}"].startswith(f"cat.{twin[0]}-")
    ids = [task.id.lower() for task in tasks]
    assert len(set(ids)) == len(ids) == len(names) + 1
    assert all(Path(task.stored).name == f"{task.id}.jpg" and len(task.id) < 130 for task in tasks)
