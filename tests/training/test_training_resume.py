"""State to go on from is taken only by the run that it belongs to, and a damaged one is said to be so."""

from pathlib import Path

import pytest
import torch

from pipeline.training.resume import ResumeFolder, parts_of_result

ONE, TWO = {"data": "1", "code": "1"}, {"data": "2", "code": "1"}


def states(stage_folder: Path) -> list[Path]:
    return sorted(stage_folder.glob("*/*-*"))


def test_what_was_written_is_read_until_it_is_removed(tmp_path: Path) -> None:
    resume = ResumeFolder(tmp_path / "stage", ONE)
    assert resume.read() is None
    for epoch in range(5):
        resume.write({"epoch": epoch, "weight": torch.full((2,), epoch)})
    state = resume.read()
    assert state is not None
    assert state["epoch"] == 4
    assert torch.equal(state["weight"], torch.full((2,), 4))
    assert len(states(tmp_path / "stage")) == 2
    resume.remove()
    assert resume.read() is None


def test_the_state_of_another_run_is_not_taken_and_what_differs_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ResumeFolder(tmp_path / "stage", ONE).write({"epoch": 1})
    other = ResumeFolder(tmp_path / "stage", TWO)
    assert other.read() is None
    assert "(differing: data)" in capsys.readouterr().out
    other.write({"epoch": 2})
    assert len(list((tmp_path / "stage").iterdir())) == 1
    assert ResumeFolder(tmp_path / "stage", ONE).read() is None


@pytest.mark.parametrize("damage", ["empty", "torn", "flipped"])
def test_from_a_damaged_state_it_goes_back_to_the_one_before(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    resume = ResumeFolder(tmp_path / "stage", ONE)
    resume.write({"epoch": 1})
    resume.write({"epoch": 2})

    def spoil(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes({"empty": b"", "torn": content[:50], "flipped": bytes(content)}[damage])

    spoil(states(tmp_path / "stage")[1])
    assert resume.read() == {"epoch": 1}
    spoil(states(tmp_path / "stage")[0])
    assert resume.read() is None
    assert capsys.readouterr().out.count("is damaged") == 3


def test_writing_waits_until_it_is_due(tmp_path: Path) -> None:
    rarely, always = ResumeFolder(tmp_path / "one", ONE, 1e6), ResumeFolder(tmp_path / "two", ONE, 0)
    for resume in (rarely, always):
        resume.write_when_due(lambda: {"epoch": 1})
    assert rarely.read() is None
    assert always.read() == {"epoch": 1}


def test_every_part_decides() -> None:
    one = parts_of_result(settings={"epochs": 1}, data="a")
    assert one == parts_of_result(settings={"epochs": 1}, data="a")
    assert one != parts_of_result(settings={"epochs": 2}, data="a")
    assert one["settings"] == parts_of_result(settings={"epochs": 1}, data="b")["settings"]
    assert {"code", "torch", "settings", "data"} == set(one)
