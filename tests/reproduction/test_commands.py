"""What the commands on reported results say and do in a folder."""

from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.reproduction.commands import list_reported, report_result, reproduce_reported
from pipeline.reproduction.reported import BEGIN, END, FILE, write_rows
from tests.reproduction.test_reported import announced, row


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder, with two rows reported."""
    (tmp_path / FILE).parent.mkdir(parents=True)
    write_rows(tmp_path / FILE, [row("one"), announced("later")])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_an_unknown_name_is_told_with_the_known_ones() -> None:
    with pytest.raises(PipelineError, match=r"no row named nothing\. Known: one, later"):
        reproduce_reported("nothing", every=False, archives=[], weights=[])
    for name, every in ((None, False), ("one", True)):
        with pytest.raises(PipelineError, match="--all"):
            reproduce_reported(name, every=every, archives=[], weights=[])


@pytest.mark.usefixtures("folder")
def test_a_list_shows_every_row(capsys: pytest.CaptureFixture[str]) -> None:
    list_reported()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["name", "one", "later"]
    assert "98.00%" in lines[1]
    assert "not yet measured" in lines[2]


def test_a_measured_row_is_not_replaced_by_mistake(folder: Path) -> None:
    before = (folder / FILE).read_bytes()
    with pytest.raises(PipelineError, match="has a row named one"):
        report_result("one", replace=False)
    assert (folder / FILE).read_bytes() == before


def test_without_a_name_the_table_alone_is_made_anew(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "README.md").write_text("nothing here\n")
    report_result(None, replace=False)
    assert BEGIN in capsys.readouterr().out
    (folder / "README.md").write_text(f"{BEGIN}\n{END}\n")
    report_result(None, replace=False)
    assert "98.00%" in (folder / "README.md").read_text()
