"""A call that is refused, in one line."""

from collections.abc import Callable

import pytest

from pipeline.errors import PipelineError


def refused(message: str, call: Callable[..., object], *arguments: object, **named: object) -> None:
    """The call ends with a PipelineError; `message` is a pattern, as of `pytest.raises`."""
    with pytest.raises(PipelineError, match=message):
        call(*arguments, **named)
