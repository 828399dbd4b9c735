"""The audit: one row a file whatever the file is, also where it kills, hangs or starves its worker."""

import ctypes
import hashlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.errors import PipelineError
from pipeline.preprocess.audit import audit, find_tasks
from pipeline.preprocess.photo import examine_all
from tests.clones import wait_for
from tests.preprocess.audits import encoded, picture, save

# Run with `python -c`: the arguments are the raw folder and the store.
AUDIT = """
import sys
from pathlib import Path
from pipeline.preprocess.audit import audit
audit(Path(sys.argv[1]), Path(sys.argv[2]), stored_size=48, workers=2)
"""
MARK = "AUDIT_TEST_MARK"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A raw folder with 20 photos of either class, and what else lies about in such folders."""
    top = tmp_path / "raw/PetImages"
    for index in range(20):
        save(top / f"Cat/{index}.jpg", picture(64 + index, 60, index))
        save(top / f"Dog/{index}.jpg", picture(60, 64 + index, 100 + index))
    (top / "Cat/666.jpg").write_bytes(b"")
    (top / "Dog/Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" + bytes(2000))
    (top / "Dog/cut.jpg").write_bytes((top / "Dog/1.jpg").read_bytes()[:500])
    save(top / "Dog/ink.jpg", picture(70, 70, 7).convert("CMYK"))
    return tmp_path / "raw"


def contents(store: Path) -> dict[str, bytes]:
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in store.rglob("*.jpg")}


def test_every_file_has_a_row_and_every_photo_is_stored_whatever_the_number_of_workers(raw: Path, tmp_path: Path) -> None:
    manifest = audit(raw, tmp_path / "one", stored_size=48, workers=1)
    pd.testing.assert_frame_equal(audit(raw, tmp_path / "two", stored_size=48, workers=2), manifest)
    stored = contents(tmp_path / "one")
    assert stored == contents(tmp_path / "two")
    assert manifest["path"].tolist() == sorted(file.relative_to(raw).as_posix() for file in raw.glob("*/*/*"))
    rows = manifest.set_index("id")
    usable = rows[rows["status"] != "refused"]
    assert set(stored) == set(usable["class"] + "/" + usable.index + ".jpg")
    assert rows.loc[rows["status"] == "refused", "reason"].str.split(":").str[0].to_dict() == {
        "cat.666": "empty file",
        "dog.Thumbs": "not a photo in a known format",
        "dog.cut": "truncated",
    }
    assert rows.loc["dog.ink", ["status", "reason", "mode"]].tolist() == ["repaired", "CMYK converted", "CMYK"]
    described = ["class", "status", "reason", "format", "mode", "width", "height", "orientation", "bytes", "sha256"]
    data = (raw / "PetImages/Dog/5.jpg").read_bytes()
    values = ["Dog", "kept", "", "JPEG", "RGB", 60, 69, 1, len(data), hashlib.sha256(data).hexdigest()]
    assert rows.loc["dog.5", described].tolist() == values
    with Image.open(tmp_path / "one/Dog/dog.5.jpg") as image:
        assert image.size == tuple(rows.loc["dog.5", ["stored_width", "stored_height"]]) == (48, round(69 * 48 / 60))


def test_photos_whose_replacement_was_killed_are_there_again(raw: Path, tmp_path: Path) -> None:
    raw.rename(tmp_path / ".raw.old")
    assert len(audit(raw, tmp_path / "store", stored_size=48, workers=2)) == 44


def test_two_classes_are_needed(tmp_path: Path) -> None:
    save(tmp_path / "PetImages/Cat/0.jpg", picture())
    with pytest.raises(PipelineError, match="holds files of 1 classes, and two or more are needed"):
        audit(tmp_path, tmp_path / "store", stored_size=48, workers=1)


def test_a_disk_that_is_too_small_is_found_first(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10_000))
    with pytest.raises(PipelineError, match="There is no room to store the photos of"):
        audit(raw, tmp_path / "store", stored_size=48, workers=1)
    assert contents(tmp_path / "store") == {}


def test_ids_are_plain_unique_and_safe(tmp_path: Path) -> None:
    names = [b"1.png", b"1.jpg", b"a.jpg", b"A.jpg", b"so ..%.jpg", b"two\nlines.jpg", b"\xff.jpg", b"x" * 240 + b".jpg"]
    for name in names:
        save(tmp_path / "PetImages/Cat" / os.fsdecode(name), picture())
    save(tmp_path / "PetImages/Dog/0.jpg", picture())
    tasks = find_tasks(tmp_path, tmp_path / "store", 48)
    by_path = {task.path: task.id for task in tasks}
    assert by_path["PetImages/Dog/0.jpg"] == "dog.0"
    assert by_path["PetImages/Cat/two\\x0alines.jpg"] == "cat.two_lines"
    assert by_path["PetImages/Cat/\\xff.jpg"] == "cat._"
    for twin in ("1.png", "1.jpg", "a.jpg", "A.jpg"):
        assert by_path[f"PetImages/Cat/{twin}"].startswith(f"cat.{twin[0]}-")
    assert len({task.id.lower() for task in tasks}) == len(names) + 1
    assert all(Path(task.stored).name == f"{task.id}.jpg" and len(task.id) < 130 for task in tasks)


LETTERS = [("का", "कि", "Dog"), ("😀", "🐶"), ("American Shorthair", "Cafe\u0301"), ("猫" * 80, "犬" * 80)]


@pytest.mark.parametrize("names", [("age <5", "age >5"), ("C#", "C+"), *LETTERS])
def test_a_class_is_named_as_its_folder(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name, stem in itertools.product(names, "01"):
        save(tmp_path / "PetImages" / name / f"{stem}.jpg", picture())
    tasks = find_tasks(tmp_path, tmp_path / "store", 48)
    assert {task.label for task in tasks} == {unicodedata.normalize("NFC", name) for name in names}
    assert len({task.id.casefold() for task in tasks}) == len(tasks) == 2 * len(names)
    assert all(f"{task.id}.jpg" == Path(task.stored).name and len(task.id.encode()) < 250 for task in tasks)


def test_a_class_whose_name_is_no_utf8_can_be_written(tmp_path: Path) -> None:
    for name in (b"caf\xe9", b"Dog"):
        save(tmp_path / "PetImages" / os.fsdecode(name) / "0.jpg", picture())
    tasks = find_tasks(tmp_path, tmp_path / "store", 48)
    assert [(task.label, task.id) for task in tasks] == [("Dog", "dog.0"), ("caf\\xe9", "caf_xe9.0")]


# Photos damaged at random

SAMPLES = [
    encoded(picture()),
    encoded(picture(), progressive=True),
    encoded(picture().convert("CMYK")),
    encoded(picture(), "PNG"),
    encoded(picture().convert("P"), "PNG", transparency=3),
    encoded(picture(), "GIF", save_all=True, append_images=[picture(seed=1)]),
    encoded(picture(), "WEBP"),
    encoded(picture(), "BMP"),
    encoded(picture(), "TIFF", compression="tiff_lzw"),
    encoded(picture(), "MPO", save_all=True, append_images=[picture(seed=1)]),
    encoded(picture(), "HEIF"),
    encoded(picture(), "AVIF"),
]


def mutation(number: int) -> bytes:
    """A photo with bytes changed, put in, taken out or repeated, or with its end cut off."""
    rng = np.random.default_rng([1, number])
    data = bytearray(SAMPLES[number % len(SAMPLES)])
    for _ in range(rng.integers(1, 6)):
        place, length = int(rng.integers(0, len(data) + 1)), int(rng.integers(1, 13))
        put, removed = [(rng.bytes(1), 1), (rng.bytes(length), 0), (b"", length), (bytes(data[place : place + 8 * length]), 0)][
            rng.integers(4)
        ]
        data[place : place + removed] = put
        if rng.random() < 0.15:
            del data[place:]
    return bytes(data)


def test_2_000_mutated_photos_cost_a_row_each(tmp_path: Path) -> None:
    for number in range(2000):
        path = tmp_path / "raw/PetImages" / ("Cat", "Dog")[number // len(SAMPLES) % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(mutation(number))
    manifest = audit(tmp_path / "raw", tmp_path / "store", stored_size=20, workers=2)  # below the samples' size
    assert len(manifest) == 2000
    assert manifest["reason"].str.fullmatch(r"[ -~]*").all()
    refused = manifest[manifest["status"] == "refused"]
    assert refused["reason"].str.len().min() > 4
    assert refused["reason"].str.split(":").str[0].nunique() >= 4
    usable = manifest[manifest["status"] != "refused"]
    assert len(usable) > 200
    assert set(contents(tmp_path / "store")) == set(usable["class"] + "/" + usable["id"] + ".jpg")
    for row in usable.itertuples():
        with Image.open(tmp_path / "store" / row[3] / f"{row.id}.jpg") as image:
            image.load()
            assert image.size == (row.stored_width, row.stored_height)


# Worse than broken


@dataclass
class HostilePath:
    """A path that does something bad to the process that opens it."""

    deed: Callable[[], object]

    def __fspath__(self) -> str:
        return str(self.deed())


def test_a_file_that_takes_its_worker_along_costs_one_row(raw: Path, tmp_path: Path) -> None:
    hostile = {
        "cat.17": (partial(os._exit, 1), "crashed the decoder"),
        "cat.13": (partial(bytearray, 2**62), "not enough memory to decode"),
        "dog.3": (partial(time.sleep, 300), "took longer than 3 s to decode"),
        "dog.4": (partial(ctypes.string_at, 0), "crashed the decoder"),  # reads where it has no memory
    }
    expected = audit(raw, tmp_path / "store", stored_size=48, workers=1)
    tasks = find_tasks(raw, tmp_path / "store", 48)
    tasks = [task._replace(source=HostilePath(hostile[task.id][0])) if task.id in hostile else task for task in tasks]
    found = pd.DataFrame(examine_all(tasks, 2, seconds=3)).sort_values("path", ignore_index=True)
    is_hostile = found["id"].isin(hostile)
    assert found[is_hostile].set_index("id")["reason"].to_dict() == {photo: reason for photo, (_, reason) in hostile.items()}
    assert (found["status"][is_hostile] == "refused").all()
    pd.testing.assert_frame_equal(found[~is_hostile], expected[~is_hostile])


def test_a_store_that_cannot_be_written_is_not_the_photos_fault(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(examine_all(find_tasks(raw, tmp_path / "missing", 48), 1))


def test_what_decoders_print_does_not_reach_the_terminal(raw: Path, tmp_path: Path) -> None:
    damaged = save(raw / "PetImages/Cat/damaged.tif", picture(60, 50, 0), "TIFF", compression="tiff_lzw")
    data = bytearray(damaged.read_bytes())
    data[40:60] = b"\xff" * 20
    damaged.write_bytes(data)
    decoding = "import sys; from pipeline.preprocess.decode import decode; decode(open(sys.argv[1], 'rb').read())"
    loud = subprocess.run([sys.executable, "-c", decoding, damaged], capture_output=True, text=True)
    assert re.search("LZW|code not yet in table", loud.stderr)
    quiet = subprocess.run([sys.executable, "-c", AUDIT, raw, tmp_path / "store"], capture_output=True, text=True)
    assert quiet.stderr == ""
    assert "auditing photos: 45 of 45 photos" in quiet.stdout


def marked_processes(mark: str) -> Iterator[int]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                yield int(folder.name)
        except OSError:
            continue


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are looked up in /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_the_main_process_and_say_nothing(tmp_path: Path, number: signal.Signals) -> None:
    large = save(tmp_path / "large.jpg", picture(1200, 1000, 0), quality=60).read_bytes()
    for name in ("Cat", "Dog"):
        (tmp_path / "raw/PetImages" / name).mkdir(parents=True)
        for index in range(300):
            (tmp_path / "raw/PetImages" / name / f"{index}.jpg").write_bytes(large)
    store, mark = tmp_path / "store", str(tmp_path)
    command, environment = [sys.executable, "-c", AUDIT, tmp_path / "raw", store], {**os.environ, MARK: mark}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for(lambda: len(list(store.rglob("*.jpg"))) >= 30 or process.poll() is not None)
    assert process.poll() is None
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does: to all processes
    else:
        process.send_signal(number)
    stopped = time.monotonic()
    _, printed = process.communicate(timeout=60)
    assert time.monotonic() - stopped < 20
    wait_for(lambda: not list(marked_processes(mark)))
    assert len(list(store.rglob("*.jpg"))) < 600
    assert printed.count("Traceback") == (number == signal.SIGINT), printed  # the main process's own
    assert "Process" not in printed
