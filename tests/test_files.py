"""Files that DVC's cache links to keep what the cache holds; and which files a module is made of."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.data.contact_sheet import contact_sheet
from pipeline.files import sources_of, write_csv, write_json


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


def test_the_sources_of_a_module_are_those_of_its_whole_package(tmp_path: Path) -> None:
    names = ["alone.py", "top/__init__.py", "top/net.py", "top/sub/__init__.py", "top/sub/layers.py", "top/weights.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert sources_of(tmp_path / "alone.py") == [tmp_path / "alone.py"]
    assert sources_of(tmp_path / "top/sub/layers.py") == [tmp_path / name for name in names[1:5]]
