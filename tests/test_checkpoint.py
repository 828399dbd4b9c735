"""A checkpoint is whole or absent, says what it is, and refuses what is not its own."""

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from pipeline import checkpoint
from pipeline.checkpoint import read_general, read_info, read_model_state, read_ood, refuse_other_data, save_general
from tests.refusals import refused

ROOT = Path(__file__).resolve().parents[1]
DATA = checkpoint.DataFingerprints(manifest="m", train="t", val="v")
INFO = checkpoint.CheckpointInfo(
    stage="train-frozen-backbone",
    backbone=checkpoint.BackboneInfo(name="test_resnet", kwargs={}, weights="none", weights_sha256=None),
    head=checkpoint.HeadInfo(path="fc", num_outputs=2, initialisation="zeros"),
    classes=("cat", "dog"),
    preprocessing=checkpoint.Preprocessing(
        input_size=(3, 32, 32), mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic", crop_pct=0.9, crop_mode="center"
    ),
    data=DATA,
    stored_size=256,
    params={"backbone": {"name": "test_resnet"}},
    epoch=3,
    metrics={"val_accuracy": 0.9},
    versions=checkpoint.library_versions(),
)


def save(folder: Path, value: float) -> dict[str, torch.Tensor]:
    state = {"weight": torch.full((2, 3), value), "count": torch.tensor(7)}
    checkpoint.save_checkpoint(folder, INFO, state, {"means": torch.full((2, 4), value)})
    return state


@pytest.mark.parametrize("device", ["cpu", "meta", *(["cuda"] if torch.cuda.is_available() else [])])
def test_what_was_saved_comes_back_on_the_device_that_is_asked_for(tmp_path: Path, device: str) -> None:
    state = save(tmp_path / "model", 1.5)
    info = read_info(tmp_path / "model")
    assert info.model_copy(update={"files": {}}) == INFO
    assert set(info.files) == {"model.safetensors", "ood.safetensors"}
    assert torch.equal(read_ood(tmp_path / "model")["means"], torch.full((2, 4), 1.5))
    read = read_model_state(tmp_path / "model", device)
    for name, tensor in state.items():
        assert (read[name].shape, read[name].dtype, read[name].device.type) == (tensor.shape, tensor.dtype, device)
        assert device == "meta" or torch.equal(read[name].cpu(), tensor)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    save_general(tmp_path / "one.pt", {"model_state_dict": state})
    assert read_general(tmp_path / "one.pt", device)["model_state_dict"]["weight"].device.type == device


def test_the_same_content_gives_the_same_bytes_also_of_channels_last_and_shared_tensors(tmp_path: Path) -> None:
    shared = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    for name in ("one", "two"):
        checkpoint.save_checkpoint(tmp_path / name, INFO, {"one": shared, "other": shared}, {})
    assert torch.equal(read_model_state(tmp_path / "one")["other"], shared)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


@pytest.mark.parametrize(("name", "read"), [("model.safetensors", read_model_state), ("ood.safetensors", read_ood)])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, name: str, read: Callable[[Path], object]) -> None:
    save(tmp_path / "model", 1.0)
    file = tmp_path / "model" / name
    content = file.read_bytes()
    for damaged in (content[:-10], content[:-1] + bytes([content[-1] ^ 1])):
        file.write_bytes(damaged)
        refused(rf"{name} is not what was saved", read, tmp_path / "model")
    file.unlink()
    refused(rf"{name} is missing", read, tmp_path / "model")


@pytest.mark.parametrize("read", [read_model_state, read_ood])
def test_files_of_two_saves_are_never_read_as_one(tmp_path: Path, read: Callable[..., object]) -> None:
    save(tmp_path / "model", 1.0)
    info = read_info(tmp_path / "model")
    read(tmp_path / "model", info=info)
    save(tmp_path / "model", 2.0)
    refused("is not what was saved", read, tmp_path / "model", info=info)


def test_a_classifier_is_of_one_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training run saves right after the description was read."""
    from pipeline.inference import classifier  # here, because the processes of the tests below import this file

    def read_then_save(folder: Path) -> checkpoint.CheckpointInfo:
        info = read_info(folder)
        save(folder, 2.0)
        return info

    save(tmp_path / "model", 1.0)
    monkeypatch.setattr(classifier, "read_info", read_then_save)
    refused("is not what was saved", classifier.Classifier.load, tmp_path / "model")


def test_a_missing_description_a_broken_one_and_one_of_another_version_are_refused(tmp_path: Path) -> None:
    refused(r"There is no checkpoint in .*dvc repro", read_info, tmp_path / "model")
    save(tmp_path / "model", 1.0)
    description = tmp_path / "model" / "checkpoint.json"
    older = description.read_text().replace('"format_version": 3', '"format_version": 1, "backend": "torch"')
    for text, match in (("", "EOF"), ("[1]", "object"), (older, "another version: format_version: Input should be 3")):
        description.write_text(text)
        refused(match, read_info, tmp_path / "model")


@pytest.mark.parametrize(("number", "refused"), [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True)])
def test_a_share_that_knows_no_fsync_of_folders_takes_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, refused: bool
) -> None:
    of_files = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, "of a folder")
        of_files(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="of a folder") if refused else nullcontext():
        save(tmp_path / "model", 3.0)
        assert value_of(tmp_path / "model") == 3.0


def test_other_data_and_other_classes_are_refused(tmp_path: Path) -> None:
    refuse_other_data(INFO, tmp_path, ("cat", "dog"), DATA)
    refused("cat, dog in this order", refuse_other_data, INFO, tmp_path, ("dog", "cat"), DATA)
    refused(r"differing: val", refuse_other_data, INFO, tmp_path, ("cat", "dog"), DATA.model_copy(update={"val": "other"}))


def save_one_file(file: Path, value: float) -> None:
    save_general(file, {"teacher": {"weight": torch.full((2, 3), value)}, "student": {"weight": torch.zeros(1)}, "epoch": 1})


def value_of(folder: Path) -> float:
    """The value of a checkpoint that must be whole: both files, against their hashes."""
    value = read_model_state(folder)["weight"][0, 0].item()
    assert read_ood(folder)["means"][0, 0].item() == value
    return value


def value_of_one_file(file: Path) -> float:
    return read_general(file)["teacher"]["weight"][0, 0].item()


KINDS = ((save, value_of, "model"), (save_one_file, value_of_one_file, "model.pt"))

AT_EACH_SYSTEM_CALL = """
import shutil, sys
from pathlib import Path
from tests.ptrace import restore, states_at_each_system_call
from tests.test_checkpoint import KINDS

root, after = Path(sys.argv[1], "writing"), Path(sys.argv[1], "after the kill")
for write, read, name in KINDS:
    root.mkdir()
    write(root / name, 1.0)
    try:
        calls, states = states_at_each_system_call(lambda: write(root / name, 2.0), root)
    except PermissionError:
        sys.exit(77)
    values = []
    for state in states:
        after.mkdir()
        restore(state, after)
        values.append(read(after / name))
        write(after / name, 3.0)  # and the next save works over whatever the kill has left
        assert read(after / name) == 3.0
        assert [path.name for path in after.iterdir()] == [name]
        shutil.rmtree(after)
    assert values == sorted(values), "a later kill brought back an older checkpoint"
    shutil.rmtree(root)
    print(calls, len(states), *sorted(set(values)))
"""

FULL_DISK = """
import resource, sys
from pathlib import Path
from tests.test_checkpoint import KINDS

root = Path(sys.argv[1])
for write, _, name in KINDS:
    write(root / name, 1.0)
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
whole = max(file.stat().st_size for file in (root / "model").iterdir())
for size in range(0, 2 * whole, 503):
    for write, read, name in KINDS:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            write(root / name, 2.0)
            stopped = False
        except OSError:
            stopped = True
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        assert read(root / name) == (1.0 if stopped else 2.0), size
        write(root / name, 1.0)
        assert sorted(path.name for path in root.iterdir()) == ["model", "model.pt"], size
        print("stopped" if stopped else "finished")
"""


def run_apart(code: str, folder: Path) -> str:
    """What a process of its own prints, which has one thread, so that it may fork."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code, folder], cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip("this machine does not let a process trace its child")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="tracing system calls is Linux's ptrace")
def test_a_kill_at_any_system_call_of_a_save_leaves_the_old_or_the_new_checkpoint(tmp_path: Path) -> None:
    for line, least in zip(run_apart(AT_EACH_SYSTEM_CALL, tmp_path).splitlines(), (12, 4), strict=True):
        calls, states, *values = line.split()
        assert int(calls) > int(states) >= least
        assert values == ["1.0", "2.0"]


@pytest.mark.skipif(sys.platform == "win32", reason="a limit of the size of files is POSIX's")
def test_a_disk_that_is_full_at_any_byte_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    outcomes = run_apart(FULL_DISK, tmp_path).split()
    assert outcomes.count("stopped") >= 6
    assert "finished" in outcomes


def test_a_broken_general_checkpoint_is_refused_in_one_sentence_and_a_hostile_one_does_not_run(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple:
            return Path.mkdir, (tmp_path / "mark",)

    torch.save({"epoch": 1, "surprise": Hostile()}, tmp_path / "hostile.pt")
    for number, content in enumerate((b"", b"not a checkpoint", b"PK\x03\x04 torn")):
        (tmp_path / f"broken{number}.pt").write_bytes(content)
    for file in tmp_path.glob("*.pt"):
        refused(rf"{file.name} is no general checkpoint: .*, or .* primitives\.$", read_general, file)
    assert not (tmp_path / "mark").exists()
    refused("no such file", read_general, tmp_path / "none.pt")
