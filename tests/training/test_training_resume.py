"""State to go on from is taken only by the run that it belongs to, and a broken one is said to be so."""

from pathlib import Path

import pytest
import torch

from pipeline.training.resume import ResumeFolder, fingerprint_of


def test_what_was_written_is_read_until_it_is_removed(tmp_path: Path) -> None:
    resume = ResumeFolder(tmp_path / "stage", "one")
    assert resume.read() is None
    resume.write({"epoch": 1, "weight": torch.ones(2)})
    resume.write({"epoch": 2, "weight": torch.zeros(2)})
    state = resume.read()
    assert state is not None
    assert state["epoch"] == 2
    assert torch.equal(state["weight"], torch.zeros(2))
    resume.remove()
    assert resume.read() is None


def test_the_state_of_another_run_is_not_taken_and_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ResumeFolder(tmp_path / "stage", "one").write({"epoch": 1})
    other = ResumeFolder(tmp_path / "stage", "two")
    assert other.read() is None
    assert "other data, parameters or code" in capsys.readouterr().out
    other.write({"epoch": 1})
    assert [path.name for path in (tmp_path / "stage").iterdir()] == ["two"]


@pytest.mark.parametrize("content", [b"", b"torn", b"PK\x03\x04"])
def test_a_torn_state_is_told_and_not_taken(tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    resume = ResumeFolder(tmp_path / "stage", "one")
    resume.write({"epoch": 1})
    (tmp_path / "stage/one/state.pt").write_bytes(content)
    assert resume.read() is None
    assert "starting afresh" in capsys.readouterr().out


def test_every_part_decides_the_fingerprint() -> None:
    one = fingerprint_of(settings={"epochs": 1}, data="a")
    assert one == fingerprint_of(settings={"epochs": 1}, data="a")
    assert one != fingerprint_of(settings={"epochs": 2}, data="a")
    assert one != fingerprint_of(settings={"epochs": 1}, data="b")
