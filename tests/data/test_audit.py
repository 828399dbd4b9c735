"""The audit: one row a file whatever the file does, the same rows whoever decodes them, and nothing decoded twice."""

import io
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.data import audit as audit_module
from pipeline.data.audit import COLUMNS, audit, find_tasks
from pipeline.data.journal import NAME as JOURNAL
from pipeline.data.journal import Journal
from pipeline.data.photo import Task, examine, perceptual_hash, pixel_hash
from pipeline.data.workers import examine_all
from pipeline.errors import PipelineError
from tests.data.hostile_paths import DeadlyPath, EndlessPath, HungryPath

MARK = "AUDIT_TEST_MARK"
AUDIT = """
import sys
from pathlib import Path
from pipeline.data.audit import audit
audit(Path(sys.argv[1]), Path(sys.argv[2]), stored_size=48, workers=1)
"""


def picture(width: int, height: int, seed: int) -> Image.Image:
    patches = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize((width, height), Image.Resampling.BICUBIC)


def save(path: Path, image: Image.Image, format_name: str = "JPEG", **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, format_name, **options)
    return path


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A raw folder with 40 photos of either class, and what else lies about in such folders."""
    top = tmp_path / "raw" / "PetImages"
    for index in range(40):
        save(top / "Cat" / f"{index}.jpg", picture(64 + index, 60, index))
        save(top / "Dog" / f"{index}.jpg", picture(60, 64 + index, 100 + index))
    (top / "Cat" / "666.jpg").write_bytes(b"")
    (top / "Dog" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" + bytes(2000))
    cut = (top / "Dog" / "1.jpg").read_bytes()
    (top / "Dog" / "cut.jpg").write_bytes(cut[: len(cut) // 2])
    save(top / "Dog" / "ink.jpg", picture(70, 70, 7).convert("CMYK"))
    return tmp_path / "raw"


def run(raw: Path, store: Path, workers: int = 1, stored_size: int = 48) -> pd.DataFrame:
    return audit(raw, store, stored_size=stored_size, workers=workers)


def contents(store: Path) -> dict[str, bytes]:
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in store.rglob("*.jpg")}


def test_every_file_has_a_row_and_every_photo_is_stored(raw: Path, tmp_path: Path) -> None:
    manifest = run(raw, tmp_path / "store")
    assert tuple(manifest.columns) == COLUMNS
    files = [path.relative_to(raw).as_posix() for path in raw.rglob("*") if path.is_file()]
    assert sorted(manifest["path"]) == sorted(files)
    rows = manifest.set_index("path")
    refused = rows.loc[rows["status"] == "refused", "reason"].str.split(":").str[0].to_dict()
    assert refused == {
        "PetImages/Cat/666.jpg": "empty file",
        "PetImages/Dog/Thumbs.db": "not a photo in a known format",
        "PetImages/Dog/cut.jpg": "truncated",
    }
    assert rows.loc["PetImages/Dog/ink.jpg", ["status", "reason", "mode"]].tolist() == [
        "repaired",
        "CMYK converted",
        "CMYK",
    ]
    usable = manifest[manifest["status"] != "refused"]
    expected = {f"{label}/{photo}.jpg" for label, photo in zip(usable["class"], usable["id"], strict=True)}
    assert set(contents(tmp_path / "store")) == expected


def test_a_row_says_what_the_file_is(raw: Path, tmp_path: Path) -> None:
    manifest = run(raw, tmp_path / "store").set_index("id")
    row = manifest.loc["dog.5"]
    with Image.open(raw / "PetImages" / "Dog" / "5.jpg") as image:
        assert row["pixel_hash"] == pixel_hash(np.asarray(image))
    with Image.open(tmp_path / "store" / "dog" / "dog.5.jpg") as stored:
        assert (row["stored_width"], row["stored_height"]) == stored.size == (48, round(69 * 48 / 60))
    assert (row["class"], row["status"], row["reason"], row["format"], row["mode"]) == (
        "dog",
        "kept",
        "",
        "JPEG",
        "RGB",
    )
    assert (row["width"], row["height"], row["orientation"]) == (60, 69, 1)
    assert row["bytes"] == (raw / "PetImages" / "Dog" / "5.jpg").stat().st_size


def test_workers_and_the_order_of_files_change_nothing(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = run(raw, tmp_path / "one", workers=1)
    ordered = os.walk
    monkeypatch.setattr(os, "walk", lambda top: ((parent, dirs, names[::-1]) for parent, dirs, names in ordered(top)))
    two = run(raw, tmp_path / "two", workers=2)
    pd.testing.assert_frame_equal(one, two)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ([], "There is no folder"),
        (["PetImages/Cat"], "two or more classes"),
        (["PetImages/Cat", "PetImages/Dog"], "None of the 2 files under .* is a usable photo. empty file"),
    ],
)
def test_a_folder_without_photos_is_an_error(tmp_path: Path, folders: list[str], message: str) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "0.jpg").touch()
    with pytest.raises(PipelineError, match=message):
        run(tmp_path, tmp_path / "store")


def test_a_class_without_photos_is_an_error(raw: Path, tmp_path: Path) -> None:
    (raw / "PetImages" / "Hamster").mkdir()
    with pytest.raises(PipelineError, match="no usable photo of the class hamster"):
        run(raw, tmp_path / "store")


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
    assert all(task.stored.name == f"{task.id}.jpg" and len(task.id) < 130 for task in tasks)


# Stored photos


def stored(tmp_path: Path, source: Path, stored_size: int) -> tuple[dict, Path]:
    target = tmp_path / "stored.jpg"
    row = examine(Task(source, target, "cat.0", source.name, "cat", source.stat().st_size, 0, stored_size))
    return row, target


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("stored_size", [30, 31])
def test_a_small_jpeg_is_stored_byte_for_byte(tmp_path: Path, mode: str, stored_size: int) -> None:
    source = save(tmp_path / "0.jpg", picture(40, 30, 0).convert(mode), quality=70)
    row, target = stored(tmp_path, source, stored_size)
    assert target.read_bytes() == source.read_bytes()
    with Image.open(target) as image:
        assert pixel_hash(np.asarray(image.convert("RGB"))) == row["pixel_hash"]


def test_a_small_photo_that_is_no_plain_jpeg_is_encoded_at_its_size(tmp_path: Path) -> None:
    source = save(tmp_path / "0.png", picture(40, 30, 0), "PNG")
    _, target = stored(tmp_path, source, 64)
    with Image.open(target) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (40, 30))
        assert image.layer[0][1:3] == (1, 1)  # colour is not subsampled
        difference = np.abs(np.asarray(image).astype(int) - np.asarray(picture(40, 30, 0)).astype(int))
    assert difference.mean() < 3


@pytest.mark.parametrize(("size", "expected"), [((97, 50), (47, 24)), ((50, 97), (24, 47)), ((3000, 30), (2400, 24))])
def test_a_large_photo_is_stored_with_the_shorter_side_asked_for(
    tmp_path: Path, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    _, target = stored(tmp_path, save(tmp_path / "0.jpg", picture(*size, 0)), 24)
    with Image.open(target) as image:
        assert image.size == expected


def test_shrinking_does_not_alias(tmp_path: Path) -> None:
    stripes = Image.fromarray(np.tile(np.array([[0, 255]], dtype=np.uint8), (400, 200)))
    _, target = stored(tmp_path, save(tmp_path / "0.png", stripes, "PNG"), 150)
    with Image.open(target) as image:
        assert np.asarray(image).std() < 3


def test_a_turned_photo_is_stored_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    row, target = stored(tmp_path, save(tmp_path / "0.jpg", picture(40, 30, 0), exif=exif), 64)
    with Image.open(target) as image:
        assert image.size == (30, 40) == (row["width"], row["height"])
        assert 0x0112 not in image.getexif()


def test_a_photo_too_long_for_a_jpeg_is_refused(tmp_path: Path) -> None:
    row, target = stored(tmp_path, save(tmp_path / "0.png", Image.new("L", (70_000, 2)), "PNG"), 64)
    assert (row["status"], row["reason"]) == ("refused", "too long and thin to store")
    assert not target.exists()


def test_hashes() -> None:
    image = picture(200, 150, 0)
    buffer = io.BytesIO()
    image.resize((160, 120), Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=40)
    hashes = [int(perceptual_hash(np.asarray(each)), 16) for each in (image, Image.open(buffer).convert("RGB"), picture(200, 150, 1))]
    assert (hashes[0] ^ hashes[1]).bit_count() <= 4
    assert (hashes[0] ^ hashes[2]).bit_count() > 12
    assert pixel_hash(np.zeros((4, 6, 3), np.uint8)) != pixel_hash(np.zeros((6, 4, 3), np.uint8))


# Files that are worse than broken


def test_a_file_that_takes_its_worker_along_costs_one_row(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run(raw, tmp_path / "expected").set_index("id")
    kinds = {"cat.17": DeadlyPath, "cat.30": HungryPath, "dog.3": EndlessPath, "dog.4": DeadlyPath}

    def find_bad_tasks(raw: Path, store: Path, stored_size: int) -> list[Task]:
        tasks = find_tasks(raw, store, stored_size)
        return [task._replace(source=kinds.get(task.id, Path)(task.source)) for task in tasks]

    monkeypatch.setattr(audit_module, "find_tasks", find_bad_tasks)
    manifest = run(raw, tmp_path / "store", workers=2).set_index("id")
    bad = list(kinds)
    assert (manifest.loc[bad, "status"] == "refused").all()
    assert manifest.loc[bad, "reason"].tolist() == [
        "crashed the decoder: SIGKILL",
        "not enough memory to decode",
        "took longer than 60 s to decode",
        "crashed the decoder: SIGKILL",
    ]
    pd.testing.assert_frame_equal(manifest.drop(bad), expected.drop(bad))


def test_a_file_that_memory_does_not_hold_costs_one_row(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    tasks = find_tasks(raw, tmp_path, 48)[:5]
    tasks[2] = tasks[2]._replace(source=HungryPath(tasks[2].source))
    rows = {row["id"]: row["reason"] for rows in examine_all(tasks, 1) for row in rows}
    assert rows == {task.id: "" for task in tasks} | {tasks[2].id: "not enough memory to decode"}


def test_what_decoders_print_does_not_reach_the_terminal(raw: Path, tmp_path: Path) -> None:
    damaged = save(raw / "PetImages" / "Cat" / "damaged.tif", picture(60, 50, 0), "TIFF", compression="tiff_lzw")
    data = bytearray(damaged.read_bytes())
    data[40:60] = b"\xff" * 20
    damaged.write_bytes(data)
    decoding = "import sys; from pipeline.data.decode import decode; decode(open(sys.argv[1], 'rb').read())"
    loud = subprocess.run([sys.executable, "-c", decoding, damaged], capture_output=True, text=True)
    assert "LZW" in loud.stderr or "code not yet in table" in loud.stderr
    quiet = subprocess.run([sys.executable, "-c", AUDIT, raw, tmp_path / "store"], capture_output=True, text=True)
    assert quiet.stderr == ""
    assert "auditing photos: 85 of 85 photos" in quiet.stdout


def test_a_store_that_cannot_be_written_is_not_the_photos_fault(raw: Path, tmp_path: Path) -> None:
    tasks = find_tasks(raw, tmp_path / "missing", 48)
    with pytest.raises(FileNotFoundError):
        list(examine_all(tasks, 1))


# Going on after being killed


@pytest.fixture
def audited(raw: Path, tmp_path: Path) -> tuple[pd.DataFrame, Path, Callable[[], set[str]]]:
    """A finished audit, its store, and what tells which photos were written since."""
    store = tmp_path / "store"
    manifest = run(raw, store)
    for path in store.rglob("*.jpg"):
        os.utime(path, (1, 1))
    return manifest, store, lambda: {path.stem for path in store.rglob("*.jpg") if path.stat().st_mtime > 1}


def test_finished_rows_are_on_disk_at_once(raw: Path, audited: tuple) -> None:
    manifest, store, _ = audited
    (store / JOURNAL).unlink()
    with Journal(store, find_tasks(raw, store, 48), 48) as journal:
        journal.append(manifest.head(3).to_dict("records"))
        assert len((store / JOURNAL).read_text().splitlines()) == 1 + 3


def test_what_was_finished_is_not_decoded_again(raw: Path, audited: tuple) -> None:
    manifest, store, written = audited
    lines = (store / JOURNAL).read_text().splitlines(keepends=True)
    (store / JOURNAL).write_text("".join(lines[:50]) + lines[50][:30])
    pd.testing.assert_frame_equal(run(raw, store), manifest)
    done = {photo for photo in manifest["id"] if any(f'"{photo}"' in line for line in lines[:50])}
    usable = set(manifest["id"][manifest["status"] != "refused"])
    assert written() == usable - done
    assert len(written()) > 10
    assert len((store / JOURNAL).read_text().splitlines()) == len(lines)


def test_a_changed_file_or_a_lost_photo_is_examined_again(raw: Path, audited: tuple) -> None:
    manifest, store, written = audited
    save(raw / "PetImages" / "Cat" / "3.jpg", picture(90, 80, 999))
    (store / "dog" / "dog.4.jpg").write_bytes(b"cut off")
    os.utime(store / "dog" / "dog.4.jpg", (1, 1))
    (store / "dog" / "dog.5.jpg").unlink()
    again = run(raw, store).set_index("id")
    assert written() == {"cat.3", "dog.4", "dog.5"}
    assert again.loc["cat.3", "pixel_hash"] != manifest.set_index("id").loc["cat.3", "pixel_hash"]


def test_another_stored_size_starts_from_the_beginning(raw: Path, audited: tuple) -> None:
    _, store, written = audited
    manifest = run(raw, store, stored_size=40)
    assert written() == set(manifest["id"][manifest["status"] != "refused"])
    assert manifest.loc[manifest["status"] != "refused", ["stored_width", "stored_height"]].min(axis=1).eq(40).all()


def marked_processes(mark: str) -> Iterator[int]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                yield int(folder.name)
        except OSError:
            continue


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are looked up in /proc")
def test_a_killed_audit_leaves_no_process_behind_and_can_go_on(tmp_path: Path) -> None:
    large = save(tmp_path / "large.jpg", picture(1200, 1000, 0), quality=60).read_bytes()
    for name in ("Cat", "Dog"):
        (tmp_path / "raw" / "PetImages" / name).mkdir(parents=True)
        for index in range(64):
            (tmp_path / "raw" / "PetImages" / name / f"{index}.jpg").write_bytes(large)
    store, mark = tmp_path / "store", str(tmp_path)
    process = subprocess.Popen([sys.executable, "-c", AUDIT, str(tmp_path / "raw"), str(store)], env={**os.environ, MARK: mark})
    deadline = time.monotonic() + 60
    while not (store / JOURNAL).exists() or len((store / JOURNAL).read_text().splitlines()) < 30:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    finished = len((store / JOURNAL).read_text().splitlines()) - 1
    while list(marked_processes(mark)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert 30 <= finished < 128
    for path in store.rglob("*.jpg"):
        os.utime(path, (1, 1))
    manifest = run(tmp_path / "raw", store)
    assert (manifest["status"] == "kept").all()
    assert sum(path.stat().st_mtime > 1 for path in store.rglob("*.jpg")) == 128 - finished
