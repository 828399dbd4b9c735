"""What tests of several parts start from, and how two processes share them."""

import os
import signal

import pytest
from hypothesis import settings

# Two test processes with threads of their own share the cores: one that waits for others must not spin meanwhile.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

FIRST = ("test_end_to_end.py", "inference", "test_distributed.py")  # what takes longest, so that the processes end together

# The same examples in every run: what passed here passes on the next machine. `--hypothesis-profile=default` tries others.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

# A shell's background job is started deaf to Ctrl-C, and would hand that on to the processes whose Ctrl-C is tested.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of a file run in one process, in order, and so do those of the folder `inference`, which share a small run."""

    def group(item: pytest.Item) -> str:
        return next((part for part in FIRST if part in item.path.parts), str(item.path))

    items.sort(key=lambda item: FIRST.index(group(item)) if group(item) in FIRST else len(FIRST))
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)))


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxies, whichever this machine uses."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
