"""The command line: help that reads well, errors in one message, and imports that nobody waits for in vain."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import huggingface_hub
import pytest
from torch import Tensor
from typer.testing import CliRunner

from pipeline.__main__ import STAGES, _for_a_person, app
from pipeline.cores import usable_cores
from pipeline.models import backends
from pipeline.params import PARAMS_FILE, load_params
from pipeline.reproduce import REPORTED, read_rows, write_rows
from tests.clones import ROOT, clone, run, set_params, wait_for


def told(*command: str) -> str:
    """What a command that fails says, in this process."""
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)  # not the error itself, which would be shown as a traceback
    return done.stderr


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root may become a user without a name")
def test_workers_and_dvc_run_with_a_long_tmpdir_and_a_user_without_name_and_home(tmp_path: Path) -> None:
    """multiprocessing's sockets would lie in TMPDIR; DVC asks for user and home after all of fine-tuning."""
    code = """
import getpass, os, sys, tempfile
from multiprocessing.connection import Listener
from pathlib import Path
sys.path.insert(0, os.environ["PROJECT"])
from pipeline.__main__ import _suit_libraries
_suit_libraries()
Listener(family="AF_UNIX").close()
print(tempfile.gettempdir())
os.setgid(12345); os.setuid(12345)
_suit_libraries()
print(getpass.getuser(), Path.home())
"""
    long = tmp_path / ("long" * 30)
    long.mkdir()
    environment = {"PATH": os.environ["PATH"], "TMPDIR": str(long), "PROJECT": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(long), "12345", str(tmp_path / ".dvc/tmp")]


def test_presets_are_shown_with_what_was_measured_and_one_is_put_into_params(project: Path) -> None:
    drawn = next(row for row in read_rows(ROOT / REPORTED) if row.name == "drawn")
    (project / "outputs").mkdir(exist_ok=True)
    made_up = {"name": "made-up", "backbone": "tf_efficientnet_lite2"}
    made_up["params"] = "preprocess.max_train=2000; preprocess.max_val=500; unfreeze_finetune.epochs=0"
    write_rows(project / REPORTED, [drawn.model_copy(update=made_up)])
    expected = {"fast": (2000, 500, 0), "accurate": (None, None, 2), "balanced": (4000, None, 2)}
    for name, settings in expected.items():
        done = CliRunner().invoke(app, ["backbones", "--preset", name])
        assert done.exit_code == 0, done.output
        params = load_params()
        assert params.backbone.name == "tf_efficientnet_lite2"
        preprocess, finetune = params.preprocess, params.unfreeze_finetune
        assert (preprocess.max_train, preprocess.max_val, finetune.epochs) == settings
    shown = CliRunner().invoke(app, ["backbones"]).output
    assert "pretrained weights" not in shown  # to list all networks takes minutes
    lines = {line.split()[0]: line for line in shown.splitlines() if line}
    assert re.search(r"9\d\.\d\d% in \d+ s \(made-up\)", lines["fast"])
    assert "not measured yet" in lines["accurate"]
    assert "no preset 'best'; there are fast, balanced, accurate" in told("backbones", "--preset", "best")


def test_a_weights_file_is_looked_for_where_the_stages_look(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(project / "home"))
    assert f"{project}/home/mine.pth: there is no such file" in told(
        "summary", "--backbone", "test_resnet", "--weights", "~/mine.pth"
    )


def test_help_lists_every_stage_in_full_sentences() -> None:
    shown = run(ROOT, "python", "-m", "pipeline", "--help").stdout.splitlines()
    for stage in STAGES:
        line = next(line for line in shown if line.strip().startswith(stage))
        assert line.endswith(".")
        assert "..." not in line


def test_what_does_not_compute_does_not_import_torch() -> None:
    imports = "import sys, pipeline.__main__, pipeline.cores, pipeline.stages.download, pipeline.stages.preprocess"
    run(ROOT, "python", "-c", f"{imports}; sys.exit('torch' in sys.modules or 'timm' in sys.modules)")


def test_a_stage_without_its_input_says_what_to_run(project: Path) -> None:
    assert "download" in told("preprocess")
    assert "dvc repro preprocess" in told("train-frozen-backbone")
    (project / PARAMS_FILE).unlink()
    assert "There is no params.yaml" in told("download")


def test_an_impossible_setting_stops_any_stage_before_it_works(project: Path) -> None:
    set_params(project, {"unfreeze_finetune.learning_rate": 0})
    for stage in STAGES:
        assert told(stage).count("unfreeze_finetune.learning_rate = 0") == 1
    assert [path.name for path in project.iterdir()] == [PARAMS_FILE.name]


def test_an_output_folder_that_cannot_be_written_is_told(project: Path) -> None:
    (project / "data").write_text("a file in the way")
    assert "data" in told("download")


def test_memory_that_runs_out_is_no_defect_of_the_project() -> None:
    for error in (MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")):
        assert str(_for_a_person(error)).startswith("The memory ran out. ")
    assert _for_a_person(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None


def test_a_stage_that_dvc_runs_says_how_its_old_outputs_come_back(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not promise them: in a fresh clone DVC's cache is empty."""
    set_params(project, {"download.source": "none.zip"})
    assert "dvc checkout" not in told("download")
    monkeypatch.setenv("DVC_STAGE", "inputs")  # whose outputs DVC does not keep
    assert "dvc checkout" not in told("download")
    monkeypatch.setenv("DVC_STAGE", "download")
    assert "If this stage has run here before, `dvc checkout`" in told("download")


def test_stale_outputs_are_not_reported_and_ctrl_c_ends_and_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = clone(tmp_path / "command-line")
    monkeypatch.chdir(folder)
    assert "dvc repro" in told("report-result", "mine")
    set_params(folder, {"download.drawn_photos": 1_000_000})  # hours of drawing: to wait for its end would run out of time
    command = [sys.executable, "-m", "pipeline", "download"]
    drawing = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for(lambda: any((folder / "data").glob(".raw.drawing/PetImages/*/*.jpg")))
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


@pytest.mark.usefixtures("direct")
def test_doctor_fits_a_screen_and_fails_where_something_essential_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody is there, which breaks nothing
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 0, done.output
    assert len(done.stdout.splitlines()) <= 24
    assert max(map(len, done.stdout.splitlines())) <= 100
    told = " ".join(done.stdout.split())
    for found in (f"torch {version('torch')}", f"{usable_cores()} usable of", "DVC version", "127.0.0.1:9 cannot be reached"):
        assert found in told
    for name in ("openvino", "torch"):
        assert re.search(rf"^{name} +agrees with eager torch", done.stdout, re.MULTILINE)

    def full(batch: Tensor) -> Tensor:
        raise RuntimeError("out of memory\nwith much that nobody reads")

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "https://hub..example")  # mistyped
    for broken, said in (
        (lambda batch: batch.mean((2, 3)), "openvino computes something else"),
        (full, "openvino out of memory"),
    ):
        monkeypatch.setattr(backends, "_openvino", lambda *_, broken=broken, **__: broken)
        done = CliRunner().invoke(app, ["doctor"])
        assert done.exit_code == 1
        assert said in " ".join(done.stdout.split())
        assert done.stdout.splitlines()[-1] == "broken: openvino"
