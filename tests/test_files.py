"""Files that DVC's cache links to keep what the cache holds."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.data.contact_sheet import contact_sheet
from pipeline.files import write_csv, write_json


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_json(path, {"a": 1}),
        lambda path: write_csv(path, [{"a": 1}]),
        lambda path: contact_sheet([], path, title="none"),
    ],
)
@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_what_is_written_does_not_go_through_a_link(
    tmp_path: Path, write: Callable[[Path], None], link: Callable[[Path, Path], None]
) -> None:
    cached, out = tmp_path / "cached", tmp_path / "out"
    cached.write_text("old")
    link(cached, out)
    write(out)
    assert cached.read_text() == "old"
    assert out.stat().st_size > 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cached", "out"]
