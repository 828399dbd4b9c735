"""What tests of several parts start from, and how two processes share them."""

import os
import signal

import pytest
from accelerate.utils import set_seed
from hypothesis import settings

# Two test processes with threads of their own share the cores: one that waits for others must not spin meanwhile.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

FIRST = ("test_end_to_end.py", "inference", "test_distributed.py")  # what takes longest: each file runs in one process

# The same examples in every run: what passed here passes on the next machine. `--hypothesis-profile=default` tries others.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

# A shell's background job is started deaf to Ctrl-C, and would hand that on to the processes whose Ctrl-C is tested.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: next((place for place, part in enumerate(FIRST) if part in item.path.parts), len(FIRST)))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same random numbers for a test whichever ran before it, and others than a seed of the pipeline gives."""
    set_seed(2026)


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxies, whichever this machine uses."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
