"""What several tests of preprocessing start from."""

from pathlib import Path

import pytest

from tests.preprocess.audits import make_raw


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A raw folder with 40 photos of either class, and what else lies about in such folders."""
    return make_raw(tmp_path)
