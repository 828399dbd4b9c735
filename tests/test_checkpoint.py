"""A checkpoint is whole or absent, says what it is, and refuses what is not its own."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.checkpoint import (
    BackboneInfo,
    CheckpointInfo,
    DataFingerprints,
    HeadInfo,
    Preprocessing,
    library_versions,
    read_info,
    read_model_state,
    read_training_state,
    refuse_other_data,
    save_checkpoint,
)
from pipeline.errors import PipelineError

DATA = DataFingerprints(manifest="m", train="t", val="v")
INFO = CheckpointInfo(
    stage="train-frozen-backbone",
    backbone=BackboneInfo(name="test_resnet", kwargs={}, weights="none", weights_sha256=None),
    head=HeadInfo(path="fc", num_outputs=2, initialisation="zeros"),
    classes=("cat", "dog"),
    preprocessing=Preprocessing(
        input_size=(3, 32, 32), mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic", crop_pct=0.9, crop_mode="center"
    ),
    data=DATA,
    engine="auto",
    params={"backbone": {"name": "test_resnet"}},
    epoch=3,
    metrics={"val_accuracy": 0.9},
    versions=library_versions(),
)


def save(folder: Path, value: float) -> dict[str, torch.Tensor]:
    state = {"weight": torch.full((2, 3), value), "count": torch.tensor(7)}
    save_checkpoint(folder, INFO, state, {"epoch": 3, "model_state_dict": state, "loss": value})
    return state


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    state = save(tmp_path / "model", 1.5)
    info = read_info(tmp_path / "model")
    assert info.model_copy(update={"files": {}}) == INFO
    assert set(info.files) == {"model.safetensors", "training_state.pt"}
    for name, tensor in read_model_state(tmp_path / "model").items():
        assert torch.equal(tensor, state[name])
        assert tensor.dtype == state[name].dtype
    general = read_training_state(tmp_path / "model")
    assert general["epoch"] == 3
    assert torch.equal(general["model_state_dict"]["weight"], state["weight"])
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    save(tmp_path / "one", 1.0)
    save(tmp_path / "two", 1.0)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_channels_last_and_shared_tensors_are_saved(tmp_path: Path) -> None:
    shared = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    save_checkpoint(tmp_path / "model", INFO, {"one": shared, "other": shared}, {})
    assert torch.equal(read_model_state(tmp_path / "model")["other"], shared)


@pytest.mark.parametrize("name", ["model.safetensors", "training_state.pt"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, name: str, damage: str) -> None:
    save(tmp_path / "model", 1.0)
    file = tmp_path / "model" / name
    content = bytearray(file.read_bytes())
    if damage == "remove":
        file.unlink()
    elif damage == "truncate":
        file.write_bytes(content[:-10])
    else:
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    read = read_model_state if name == "model.safetensors" else read_training_state
    with pytest.raises(PipelineError, match=name):
        read(tmp_path / "model")


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format_version": 1', '{"format_version": "one"}'])
def test_a_broken_description_is_refused(tmp_path: Path, text: str) -> None:
    save(tmp_path / "model", 1.0)
    (tmp_path / "model" / "checkpoint.json").write_text(text)
    with pytest.raises(PipelineError, match=r"checkpoint\.json is broken"):
        read_info(tmp_path / "model")


def test_no_checkpoint_is_told(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="There is no checkpoint"):
        read_info(tmp_path / "model")


def test_other_data_and_other_classes_are_refused(tmp_path: Path) -> None:
    refuse_other_data(INFO, tmp_path, ("cat", "dog"), DATA)
    with pytest.raises(PipelineError, match="cat, dog in this order"):
        refuse_other_data(INFO, tmp_path, ("dog", "cat"), DATA)
    with pytest.raises(PipelineError, match=r"differing: val"):
        refuse_other_data(INFO, tmp_path, ("cat", "dog"), DATA.model_copy(update={"val": "other"}))


def test_the_training_state_is_never_unpickled(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", INFO, {}, {"hostile": Path("code")})
    with pytest.raises(PipelineError, match=r"training_state\.pt holds more than tensors"):
        read_training_state(tmp_path / "model")


KILLED_WRITER = """
import os, signal, sys
from pathlib import Path
from tests.test_checkpoint import save
calls = 0
def count(event, arguments):
    global calls
    if event in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir"):
        calls += 1
        if calls == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
save(Path(sys.argv[1]), 2.0)
print("finished")
"""


def test_a_kill_at_any_step_of_a_save_leaves_the_old_or_the_new_checkpoint(tmp_path: Path) -> None:
    """One process forks a writer for each step, so that torch is imported once."""
    script = f"""
import os, sys
import tests.test_checkpoint
from pathlib import Path
folder = Path(sys.argv[1])
for step in range(1, 60):
    child = os.fork()
    if child == 0:
        tests.test_checkpoint.save(folder / str(step), 1.0)
        sys.argv = ["writer", str(folder / str(step)), str(step)]
        exec({KILLED_WRITER!r}, {{}})
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status == 0:
        print("steps", step - 1)
        break
"""
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=root, capture_output=True, text=True, check=True)
    steps = int(done.stdout.split("steps")[1])
    assert steps >= 10, done.stderr
    values = [read_model_state(tmp_path / str(step))["weight"][0, 0].item() for step in range(1, steps + 1)]
    assert set(values) == {1.0, 2.0}
    assert values == sorted(values), "a later kill brought back an older checkpoint"
