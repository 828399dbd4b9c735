"""Files that are worse than broken: one that kills, hangs or starves its worker costs one row, and none costs more."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.preprocess.audit import find_tasks
from pipeline.preprocess.photo import Row, Task
from pipeline.preprocess.workers import examine_all
from tests.preprocess.audits import AUDIT, picture, save
from tests.preprocess.hostile_paths import DeadlyPath, EndlessPath, FaultyPath, HungryPath

MARK = "AUDIT_TEST_MARK"


def tasks_of(raw: Path, store: Path, hostile: dict[str, type[Path]]) -> list[Task]:
    for label in ("cat", "dog"):
        (store / label).mkdir(parents=True, exist_ok=True)
    tasks = find_tasks(raw, store, 48)
    return [task._replace(source=hostile[task.id](task.source)) if task.id in hostile else task for task in tasks]


def by_id(rows: Iterator[list[Row]]) -> dict[str | int | bytes, Row]:
    return {row["id"]: row for chunk in rows for row in chunk}


def test_a_file_that_takes_its_worker_along_costs_one_row(raw: Path, tmp_path: Path) -> None:
    hostile = {"cat.17": DeadlyPath, "cat.30": HungryPath, "dog.3": EndlessPath, "dog.4": FaultyPath}
    expected = by_id(examine_all(tasks_of(raw, tmp_path / "expected", {}), 1))
    found = by_id(examine_all(tasks_of(raw, tmp_path / "store", hostile), 2, seconds=3))
    assert {photo: found[photo]["reason"] for photo in hostile} == {
        "cat.17": "crashed the decoder",
        "cat.30": "not enough memory to decode",
        "dog.3": "took longer than 3 s to decode",
        "dog.4": "crashed the decoder",
    }
    assert all(found[photo]["status"] == "refused" for photo in hostile)
    assert {photo: row for photo, row in found.items() if photo not in hostile} == {
        photo: row for photo, row in expected.items() if photo not in hostile
    }


def test_what_decoders_print_does_not_reach_the_terminal(raw: Path, tmp_path: Path) -> None:
    damaged = save(raw / "PetImages" / "Cat" / "damaged.tif", picture(60, 50, 0), "TIFF", compression="tiff_lzw")
    data = bytearray(damaged.read_bytes())
    data[40:60] = b"\xff" * 20
    damaged.write_bytes(data)
    decoding = "import sys; from pipeline.preprocess.decode import decode; decode(open(sys.argv[1], 'rb').read())"
    loud = subprocess.run([sys.executable, "-c", decoding, damaged], capture_output=True, text=True)
    assert "LZW" in loud.stderr or "code not yet in table" in loud.stderr
    quiet = subprocess.run([sys.executable, "-c", AUDIT, raw, tmp_path / "store"], capture_output=True, text=True)
    assert quiet.stderr == ""
    assert "auditing photos: 85 of 85 photos" in quiet.stdout


def test_a_store_that_cannot_be_written_is_not_the_photos_fault(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(examine_all(find_tasks(raw, tmp_path / "missing", 48), 1))


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
        (tmp_path / "raw" / "PetImages" / name).mkdir(parents=True)
        for index in range(300):
            (tmp_path / "raw" / "PetImages" / name / f"{index}.jpg").write_bytes(large)
    store, mark = tmp_path / "store", str(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", AUDIT, tmp_path / "raw", store],
        env={**os.environ, MARK: mark},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while len(list(store.rglob("*.jpg"))) < 30:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does: to all processes
    else:
        process.send_signal(number)
    stopped = time.monotonic()
    _, printed = process.communicate(timeout=60)
    assert time.monotonic() - stopped < 20
    while list(marked_processes(mark)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert len(list(store.rglob("*.jpg"))) < 600
    assert printed.count("Traceback") == (number == signal.SIGINT), printed  # the main process's own
    assert "Process" not in printed
