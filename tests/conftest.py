"""What tests of several parts start from, and how two processes share them."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from hypothesis import settings

from pipeline.params import PARAMS_FILE
from tests.clones import ROOT
from tests.download.http_server import CONTENT, MisbehavingServer, serve

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
def seeded() -> Iterator[None]:
    """The same random numbers for a test whichever ran before it, and others than a seed of the pipeline gives.

    Nor does it matter which precision Accelerate was asked for, which it remembers as long as the process lives.
    """
    set_seed(2026)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxies, whichever this machine uses."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def project(tmp_path: Path, direct: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder, with params.yaml alone; in the folder above it a test may put what else it needs."""
    folder = tmp_path / "project"
    folder.mkdir()
    shutil.copy(ROOT / PARAMS_FILE, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def server(direct: None) -> Iterator[MisbehavingServer]:
    """A server that is reached directly."""
    with serve(CONTENT) as server:
        yield server


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    """Where a download goes; the folder is still to be made."""
    return tmp_path / "raw" / "photos.zip"
