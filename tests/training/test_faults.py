"""What goes wrong in training, made to go wrong for real: one message with the step and what to change, and nothing lost."""

import errno
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.data.transforms import TrainingTransform
from pipeline.errors import PipelineError
from pipeline.training import activations, faults
from pipeline.training.faults import EXPLODED, WINDOW, check_loss, explain_faults
from tests.clones import ROOT, run
from tests.training import tiny


def test_a_loss_that_is_no_number_stops_the_training(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"(nan|inf|exploded).* at step \d+ \(learning rate .*Lower.*learning_rate"):
        tiny.train(tmp_path, learning_rate=1e30, epochs=8)


def test_an_exploded_loss_stops_the_training() -> None:
    high = [EXPLODED * 0.7 * 1.01] * (WINDOW - 1)
    check_loss([0.1, *high], guessing=0.7, learning_rate=0.1)
    check_loss([*high, 1.0], guessing=0.7, learning_rate=0.1)
    check_loss([*high, high[0]], guessing=1.4, learning_rate=0.1)
    with pytest.raises(PipelineError, match=rf"exploded: 2\.83 over the last {WINDOW} steps.* at step {WINDOW} "):
        check_loss([*high, high[0]], guessing=0.7, learning_rate=0.1)


def test_photos_of_a_rare_class_that_count_much_are_no_explosion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "WINDOW", 1)
    trainer = tiny.trainer(tmp_path)
    trainer.weight = torch.tensor([0.1, 30.0]).double()
    trainer.start()
    trainer.train_epoch(tiny.resume_folder(tmp_path, 1e6))
    assert max(trainer.losses) > EXPLODED * 0.7


class Deadly(TrainingTransform):
    """Ends its process, where that is not the one that trains, at its twelfth photo: as the kernel does for want of memory."""

    parent, calls = os.getpid(), 0

    def __call__(self, image: Any, photo_id: str, epoch: int) -> Any:
        self.calls += 1
        if os.getpid() != self.parent and self.calls == 12:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(image, photo_id, epoch)


def test_a_decoding_process_that_was_killed_is_named_and_the_training_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(activations, "TrainingTransform", Deadly)
        own = tiny.network(runtime=replace(tiny.RUNTIME, workers=1))
        with pytest.raises(PipelineError, match=r"killed at step \d+ \(epoch 1\).*Lower runtime\.workers, now 1 \(0 decodes"):
            tiny.train(tmp_path, own=own)
    assert len(tiny.train(tmp_path).history) == tiny.EPOCHS + 1


RAN_OUT = "memory ran out at step 7.*batch_size, now 8"


def fails(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        (lambda: fails(torch.OutOfMemoryError("CUDA out of memory.")), PipelineError, f"The GPU's {RAN_OUT}"),
        (lambda: fails(MemoryError()), PipelineError, f"The {RAN_OUT}"),
        (lambda: fails(OSError(errno.ENOMEM, "Cannot allocate memory")), PipelineError, f"The {RAN_OUT}"),
        (lambda: torch.empty(2**60, dtype=torch.uint8), PipelineError, f"The {RAN_OUT}"),
        (lambda: torch.ones(2, 3) @ torch.ones(2, 3), RuntimeError, "mat1 and mat2"),
    ],
    ids=["GPU", "Python", "system", "torch", "a defect stays one"],
)
def test_without_memory_the_batch_size_is_named(fault: Callable[[], object], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        with explain_faults(tiny.settings(), 2, where=lambda: "step 7"):
            fault()


# Run in a process of its own, with a small file system mounted at the first argument.
FULL_DISKS = """
import sys
from pathlib import Path
from pipeline.errors import PipelineError
from tests.training import tiny

disk, folder = map(Path, sys.argv[1:])
(folder / "one").mkdir(), (folder / "two").mkdir()
(folder / "one/tracking").symlink_to(disk)
print("tracked", len(tiny.train(folder / "one", ["tensorboard"]).history))
for full in ({"resume": tiny.resume_folder(disk)}, {"own": tiny.network(cache=tiny.cache(disk))}):
    try:
        tiny.train(folder / "two", **full)
    except PipelineError as error:
        print("disk", error)
print("left", sorted(path.name for path in disk.rglob("*.new")))
"""


def test_a_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = 'disk="$1"; shift; mount -t tmpfs -o size=256k none "$disk" && exec "$@"'
    mounted = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh", str(disk)]
    if shutil.which("unshare") is None or subprocess.run([*mounted, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    lines = run(ROOT, *mounted, "python", "-c", FULL_DISKS, str(disk), str(tmp_path)).stdout.splitlines()
    assert f"tracked {tiny.EPOCHS + 1}" in lines
    assert sum("tensorboard failed and is left out from here on" in line for line in lines) == 1
    of_steps, of_cache = [line for line in lines if line.startswith("disk ")]
    assert "At step" in of_steps
    assert "At the activations of the photos" in of_cache
    assert f"the disk mounted at {disk} is full" in of_steps
    assert "left []" in lines
