"""State to go on from is taken only by the run that it belongs to, and a damaged one is never taken."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.training.resume import ResumeFolder, hash_inputs
from tests.training import tiny

ONE, TWO = {"data": "1", "code": "1"}, {"data": "2", "code": "1"}


def folder(path: Path, parts: dict[str, str] = ONE, seconds: float = 0) -> ResumeFolder:
    return ResumeFolder(path / "stage", parts, replace(tiny.RUNTIME, seconds_between_saves=seconds))


def test_what_was_written_is_read_until_it_is_removed(tmp_path: Path) -> None:
    resume = folder(tmp_path)
    assert resume.read() is None
    for epoch in range(5):
        resume.write({"epoch": epoch, "weight": torch.full((2,), epoch)})
    state = resume.read()
    assert state is not None
    assert state["epoch"] == 4
    assert torch.equal(state["weight"], torch.full((2,), 4))
    assert len(list(tmp_path.glob("stage/*/*-*"))) == 2
    resume.remove()
    assert resume.read() is None


def test_the_state_of_another_run_is_not_taken_and_what_differs_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder(tmp_path).write({"epoch": 1})
    other = folder(tmp_path, TWO)
    assert other.read() is None
    assert "(differing: data)" in capsys.readouterr().out
    other.write({"epoch": 2})
    assert len(list((tmp_path / "stage").iterdir())) == 1
    assert folder(tmp_path).read() is None


@pytest.mark.parametrize("damage", ["empty", "torn", "flipped"])
def test_from_a_damaged_state_it_goes_back_to_the_one_before(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    resume = folder(tmp_path)
    resume.write({"epoch": 1})
    resume.write({"epoch": 2})
    for path, expected in zip(sorted(tmp_path.glob("stage/*/*-*"), reverse=True), ({"epoch": 1}, None), strict=True):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes({"empty": b"", "torn": content[:50], "flipped": bytes(content)}[damage])
        assert resume.read() == expected
    assert capsys.readouterr().out.count("is damaged") == 3


def test_writing_waits_until_it_is_due_and_is_the_main_process_alone(tmp_path: Path) -> None:
    rarely, always = folder(tmp_path / "one", seconds=1e6), folder(tmp_path / "two")
    second = ResumeFolder(tmp_path / "three", ONE, replace(tiny.RUNTIME, seconds_between_saves=0, rank=1))
    for resume in (rarely, always, second):
        resume.write_when_due(lambda: {"epoch": 1})
    assert rarely.read() is None
    assert always.read() == {"epoch": 1}
    assert not (tmp_path / "three").exists()


def test_every_part_decides() -> None:
    one = hash_inputs(settings={"epochs": 1}, data="a")
    assert one == hash_inputs(settings={"epochs": 1}, data="a")
    assert one != hash_inputs(settings={"epochs": 2}, data="a")
    assert one["settings"] == hash_inputs(settings={"epochs": 1}, data="b")["settings"]
    assert one.keys() == {"code", "versions", "settings", "data"}
