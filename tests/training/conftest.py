"""What all tests of training start from."""

from collections.abc import Iterator

import pytest
from accelerate.state import AcceleratorState


@pytest.fixture(autouse=True)
def _forget_precision() -> Iterator[None]:
    """Accelerate remembers the precision that it was first asked for as long as the process lives."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
