"""Temporary clones of the project, in which the real `dvc repro` runs."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.params import PARAMS_FILE, change_params

ROOT = Path(__file__).resolve().parents[1]

# A run of seconds: few photos, two epochs. What it shows is that the parts fit, not what they are worth.
SMALL = {
    "download.drawn_photos": 160,
    "unfreeze_finetune.epochs": 2,
    "backbone.name": "test_resnet",
    "backbone.weights": "none",
}

LONGEST = 240  # seconds a command may take; below what pytest allows a test


def clone(folder: Path) -> Path:
    """Copy every file that Git tracks or would track, and commit them: a fresh clone of the tree as it is now."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "clone"]):
        identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=folder, check=True)
    return folder


def set_params(folder: Path, changes: dict[str, Any]) -> None:
    """Change settings in the clone's params.yaml; keys are written section.key."""
    change_params(folder / PARAMS_FILE, changes)


def run(
    folder: Path, *command: str, check: bool = True, longest: int = LONGEST, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command of the environment that runs the tests (python, dvc) in the clone.

    One that hangs is aborted, with all that it started, and each Python process then tells where each of its threads was.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # Compiled files may be kept: the tests start Python a hundred times, and compiling torch and timm takes seconds.
    settings = {**os.environ, "PATH": path, "PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": "", "PYTHONFAULTHANDLER": "1"}
    settings |= environment
    piped: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    process = subprocess.Popen(command, cwd=folder, env=settings, **piped)
    try:
        stdout, stderr = process.communicate(timeout=longest)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGABRT)
        stdout, stderr = process.communicate()
        raise AssertionError(f"{' '.join(command)} was not done in {longest} s:\n{stdout}\n{stderr}") from None
    except BaseException:  # a Ctrl-C, or the end of the test's own time: what was started goes with it
        os.killpg(process.pid, signal.SIGKILL)
        raise
    if check and process.returncode:
        raise AssertionError(f"{' '.join(command)} ended with {process.returncode}:\n{stdout}\n{stderr}")
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def ran(output: str) -> list[str]:
    """The stages whose commands DVC ran, from what `dvc repro` printed; that of inputs, which runs every time, is left out."""
    stages = [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]
    return [stage for stage in stages if stage != "inputs"]


def wait_for(happened: Callable[[], object], longest: float = 60) -> None:
    """Return once it has; fail where that takes too many seconds."""
    deadline = time.monotonic() + longest
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)
