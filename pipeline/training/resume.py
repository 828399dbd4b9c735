"""State to go on from after a kill, kept beside the stage's outputs and never part of them.

    resume = ResumeFolder(Path("outputs/.resume/unfreeze-finetune"), parts)
    state = resume.read()            # None at a fresh start
    resume.write_when_due(state_of)  # in every step: writes once in a while, atomically
    resume.remove()                  # when the stage ended well

Where several processes train together, each has a SharedResumeFolder. Their number is a part of the key: it decides in which
order sums are rounded, so a state of another number of processes is one of another run.

DVC removes a stage's outputs before it runs the command, so what must outlive a kill lies outside them. The folder is keyed by
a hash of everything that decides the result; a state of other data, parameters or code is never taken. The two newest states
are kept: where one is damaged, the one before it serves.
"""

import hashlib
import io
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pipeline.files import naming, read_hashed, sha256_of, write_hashed
from pipeline.progress import say
from pipeline.runtime import ResolvedRuntime
from pipeline.training.distributed import broadcast

PACKAGE = Path(__file__).resolve().parents[1]
KEY_FILE = "key.json"


def parts_of_result(**parts: Any) -> dict[str, str]:
    """Everything that decides a result, a hash a part: the given parts, torch's version and the source of this package."""
    code = {str(file.relative_to(PACKAGE)): sha256_of(file) for file in sorted(PACKAGE.rglob("*.py"))}
    everything = {"code": code, "torch": torch.__version__, **parts}
    return {name: hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest() for name, part in everything.items()}


class ResumeFolder:
    """States under `stage_folder`/FINGERPRINT; folders of other fingerprints are stale and go at the first write.

    Args:
        stage_folder: of this stage alone.
        parts: what `parts_of_result` gave.
        seconds_between_writes: how much work a kill may cost; what is written, and when, changes no result.
    """

    def __init__(self, stage_folder: Path, parts: dict[str, str], seconds_between_writes: float = 30.0) -> None:
        self._stage_folder, self._parts = stage_folder, parts
        self.fingerprint = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
        self._folder = stage_folder / self.fingerprint
        self._seconds = seconds_between_writes
        self._last_write = time.monotonic()

    def read(self) -> dict[str, Any] | None:
        """The newest state that is whole, on the CPU, or None; what is not used is said, with the reason."""
        if not self._folder.exists():
            for stale in self._stale():
                differing = ", ".join(self._differing(stale)) or "an unreadable key"
                say(f"{stale} holds the state of another run (differing: {differing}); it is not used.")
            return None
        for path in reversed(self._states()):
            content = read_hashed(path)
            if content is not None:
                return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            say(f"{path} is damaged; going on from the state before it, or else starting afresh.")
        return None

    def write_when_due(self, state: Callable[[], dict[str, Any]]) -> None:
        """Write what `state` gives if the last write is long enough ago."""
        if time.monotonic() - self._last_write >= self._seconds:
            self.write(state())

    def write(self, state: dict[str, Any]) -> None:
        """Add a state atomically; of the earlier ones only the last stays."""
        for stale in self._stale():
            shutil.rmtree(stale)
        self._folder.mkdir(parents=True, exist_ok=True)
        key = self._folder / KEY_FILE
        with naming(key):
            key.write_text(json.dumps(self._parts, indent=2), encoding="utf-8")
        earlier = self._states()
        number = 1 + int(earlier[-1].name.split("-")[0]) if earlier else 0
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_hashed(self._folder, f"{number:08d}", buffer.getvalue())
        for old in earlier[:-1]:
            old.unlink()
        self._last_write = time.monotonic()

    def remove(self) -> None:
        """Forget the state."""
        shutil.rmtree(self._stage_folder, ignore_errors=True)

    def _states(self) -> list[Path]:
        return sorted(self._folder.glob("*-*"))

    def _stale(self) -> list[Path]:
        return [path for path in self._stage_folder.glob("*") if path != self._folder]

    def _differing(self, stale: Path) -> list[str]:
        try:
            other = json.loads((stale / KEY_FILE).read_bytes())
        except (OSError, ValueError):
            return []
        return [name for name, part in self._parts.items() if other.get(name) != part]


class SharedResumeFolder(ResumeFolder):
    """The ResumeFolder of processes that train together: the main one reads and writes, and what it read all have."""

    def __init__(self, runtime: ResolvedRuntime, stage_folder: Path, parts: dict[str, str]) -> None:
        super().__init__(stage_folder, parts, runtime.seconds_between_saves)
        self._runtime = runtime

    def read(self) -> dict[str, Any] | None:
        """As the main process found it."""
        return broadcast(self._runtime, super().read)

    def write_when_due(self, state: Callable[[], dict[str, Any]]) -> None:
        """In the main process alone, by its clock; `state` must not wait for other processes."""
        if self._runtime.is_main:
            super().write_when_due(state)

    def write(self, state: dict[str, Any]) -> None:
        """In the main process alone."""
        if self._runtime.is_main:
            super().write(state)
