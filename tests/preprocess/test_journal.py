"""Going on after being killed: what was finished is not decoded again, and what has changed is."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from pipeline.preprocess.journal import NAME as JOURNAL
from pipeline.preprocess.journal import Journal
from pipeline.preprocess.listing import find_tasks
from tests.preprocess.audits import AUDIT, picture, run, save

MARK = "AUDIT_TEST_MARK"


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
