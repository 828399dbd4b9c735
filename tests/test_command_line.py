"""The command line: help that reads well, errors in one message, and imports that nobody waits for in vain."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.clones import ROOT, clone, run, set_params

STAGES = ("download", "preprocess", "train-frozen-backbone", "unfreeze-finetune", "evaluate")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clone(tmp_path_factory.mktemp("clones") / "command-line")


def test_help_lists_every_stage_in_full_sentences() -> None:
    shown = run(ROOT, "python", "-m", "pipeline", "--help").stdout
    for stage in STAGES:
        line = next(line for line in shown.splitlines() if line.strip().startswith(stage))
        assert line.endswith(".")
        assert "..." not in line


def test_stale_outputs_are_not_reported(folder: Path) -> None:
    done = run(folder, "python", "-m", "pipeline", "report-result", "mine", check=False)
    assert done.returncode == 1
    assert "dvc repro" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_stage_is_told() -> None:
    done = run(ROOT, "python", "-m", "pipeline", "trian", check=False)
    assert done.returncode == 2
    assert "trian" in done.stderr


@pytest.mark.parametrize("module", ["pipeline.__main__", "pipeline.stages.download", "pipeline.stages.preprocess"])
def test_what_does_not_compute_does_not_import_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'timm' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def told(folder: Path, stage: str) -> str:
    done = run(folder, "python", "-m", "pipeline", stage, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_stage_without_its_input_says_what_to_run(folder: Path) -> None:
    assert "download" in told(folder, "preprocess")
    assert "dvc repro preprocess" in told(folder, "train-frozen-backbone")


def test_outside_the_project_the_missing_params_are_told(tmp_path: Path) -> None:
    done = run(tmp_path, "python", "-m", "pipeline", "download", check=False, PYTHONPATH=str(ROOT))
    assert done.returncode == 1
    assert "There is no params.yaml" in done.stderr


def test_an_output_folder_that_cannot_be_written_is_told(folder: Path) -> None:
    (folder / "data").rename(folder / "data.aside")
    (folder / "data").write_text("a file in the way")
    assert "data" in told(folder, "download")
    (folder / "data").unlink()
    (folder / "data.aside").rename(folder / "data")


def test_ctrl_c_ends_without_finishing_and_says_how_to_go_on(folder: Path) -> None:
    set_params(folder, {"download.drawn_photos": 1_000_000})  # hours of drawing: to wait for its end would run out of time
    command = [sys.executable, "-m", "pipeline", "download"]
    drawing = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not any((folder / "data").glob(".raw.drawing/PetImages/*/*.jpg")):
        time.sleep(0.05)
    os.killpg(drawing.pid, signal.SIGINT)
    try:
        _, errors = drawing.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(drawing.pid, signal.SIGKILL)
    assert drawing.returncode == 130
    assert "goes on from there" in errors
    assert "Traceback" not in errors
    assert not (folder / "data/raw").exists()
