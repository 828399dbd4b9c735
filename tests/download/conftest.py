"""What several tests of downloads start from."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.download.http_server import CONTENT, MisbehavingServer, serve


@pytest.fixture
def server(direct: None) -> Iterator[MisbehavingServer]:
    """A server that is reached directly."""
    with serve(CONTENT) as server:
        yield server


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    """Where a download goes; the folder is still to be made."""
    return tmp_path / "raw" / "photos.zip"
