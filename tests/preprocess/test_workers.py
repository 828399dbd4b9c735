"""Files that are worse than broken: one that kills, hangs or starves its worker costs one row, and none costs more."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from pipeline.data import audit as audit_module
from pipeline.preprocess.listing import find_tasks
from pipeline.preprocess.photo import Task
from pipeline.preprocess.workers import examine_all
from tests.download.hostile_paths import DeadlyPath, EndlessPath, FaultyPath, HungryPath
from tests.preprocess.audits import AUDIT, picture, run, save


def test_a_file_that_takes_its_worker_along_costs_one_row(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run(raw, tmp_path / "expected").set_index("id")
    kinds = {"cat.17": DeadlyPath, "cat.30": HungryPath, "dog.3": EndlessPath, "dog.4": FaultyPath}

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
        "crashed the decoder: SIGSEGV",
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
    decoding = "import sys; from pipeline.preprocess.decode import decode; decode(open(sys.argv[1], 'rb').read())"
    loud = subprocess.run([sys.executable, "-c", decoding, damaged], capture_output=True, text=True)
    assert "LZW" in loud.stderr or "code not yet in table" in loud.stderr
    quiet = subprocess.run([sys.executable, "-c", AUDIT, raw, tmp_path / "store"], capture_output=True, text=True)
    assert quiet.stderr == ""
    assert "auditing photos: 85 of 85 photos" in quiet.stdout


def test_a_store_that_cannot_be_written_is_not_the_photos_fault(raw: Path, tmp_path: Path) -> None:
    tasks = find_tasks(raw, tmp_path / "missing", 48)
    with pytest.raises(FileNotFoundError):
        list(examine_all(tasks, 1))
