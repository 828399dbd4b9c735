"""Relative paths of a person lead to the same place from the project and from a copy that DVC made of it."""

from pathlib import Path

import pytest

from pipeline.paths import project_root, user_path
from tests.refusals import refused


@pytest.mark.parametrize("inside", ["", ".dvc/tmp/exps/standalone/tmpabc", ".dvc/tmp/exps/tmpabc"])
def test_a_path_outside_the_project_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: str) -> None:
    project = tmp_path / "project"
    here = project / inside
    here.mkdir(parents=True)
    (tmp_path / "photos.zip").write_bytes(b"zip")
    monkeypatch.chdir(here)
    assert project_root() == project
    assert user_path("../photos.zip").read_bytes() == b"zip"
    assert user_path(str(tmp_path / "photos.zip")) == tmp_path / "photos.zip"


def test_a_file_of_the_copy_goes_before_that_of_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / ".dvc/tmp/exps/tmpabc"
    copy.mkdir(parents=True)
    for folder in (tmp_path, copy):
        (folder / "weights").write_text(folder.name)
    monkeypatch.chdir(copy)
    assert user_path("weights").read_text() == "tmpabc"


def test_a_home_folder_that_nobody_has() -> None:
    refused("~nobody-here/photos begins with a user who has no home folder", user_path, "~nobody-here/photos")
