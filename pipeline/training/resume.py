"""State to go on from after a kill, kept beside the stage's outputs and never part of them.

    resume = ResumeFolder(Path("outputs/.resume/unfreeze-finetune"), parts, runtime)
    state = resume.read()            # None at a fresh start
    resume.write_when_due(state_of)  # in every step: writes once in a while, atomically
    resume.remove()                  # when the stage ended well

DVC removes a stage's outputs before it runs the command, so what must outlive a kill lies outside them. The folder is keyed by
a hash of everything that decides the result, the number of processes included: a state of other data, parameters or code is
never taken. The two newest states are kept: where one is damaged, the one before it serves.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.checkpoint import library_versions, read_general, save_general
from pipeline.files import sha256_of, write_atomically
from pipeline.progress import say
from pipeline.runtime import ResolvedRuntime, broadcast
from pipeline.training.features import cache_key

PACKAGE = Path(__file__).resolve().parents[1]
ROOMS = ("data", "models", "training")  # whose code decides what a training stage gives
KEY_FILE = "key.json"


def hash_inputs(**parts: Any) -> dict[str, str]:
    """SHA-256 of each input that decides a result: the given parts, the libraries' versions and the code of the rooms."""
    code = {str(file.relative_to(PACKAGE)): sha256_of(file) for room in ROOMS for file in sorted((PACKAGE / room).glob("*.py"))}
    everything = {"code": code, "versions": library_versions(), **parts}
    return {name: hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest() for name, part in everything.items()}


class ResumeFolder:
    """States under `stage_folder`/FINGERPRINT; folders of other fingerprints are stale and go at the first write.

    `stage_folder` is of this stage alone: whatever else lies in it is removed. `parts` are what `hash_inputs` returned.
    `runtime` says how much work a kill may cost, and whether this is the main process, which reads and writes.
    """

    def __init__(self, stage_folder: Path, parts: dict[str, str], runtime: ResolvedRuntime) -> None:
        self._stage_folder, self._parts, self._runtime = stage_folder, parts, runtime
        self.fingerprint = cache_key(parts)
        self._folder = stage_folder / self.fingerprint
        self._last_write = time.monotonic()

    def read(self) -> dict[str, Any] | None:
        """The newest state that is whole, on the CPU, or None; says what is not used, and why."""
        return broadcast(self._runtime, self._read)

    def _read(self) -> dict[str, Any] | None:
        for stale in [] if self._folder.exists() else self._stale():
            try:
                other = json.loads((stale / KEY_FILE).read_bytes())
                differing = ", ".join(name for name, part in self._parts.items() if other.get(name) != part)
            except (OSError, ValueError):
                differing = "an unreadable key"
            say(f"{stale} holds the state of another run (differing: {differing}); it is not used.")
        for path in reversed(self._states()):
            if sha256_of(path) == path.name.rpartition("-")[2]:
                return read_general(path)
            say(f"{path} is damaged; going on from the state before it, or else starting afresh.")
        return None

    def write_when_due(self, state: Callable[[], dict[str, Any]]) -> None:
        """Write what `state` gives if the last write is long enough ago; `state` must not wait for other processes."""
        if self._runtime.is_main and time.monotonic() - self._last_write >= self._runtime.seconds_between_saves:
            self.write(state())

    def write(self, state: dict[str, Any]) -> None:
        """Add a state atomically; of the earlier ones only the last stays."""
        if not self._runtime.is_main:
            return
        for stale in self._stale():
            shutil.rmtree(stale)
        write_atomically(self._folder / KEY_FILE, json.dumps(self._parts, indent=2).encode())
        earlier = self._states()
        number = 1 + int(earlier[-1].name.split("-")[0]) if earlier else 0
        file = self._folder / f"{number:08d}"
        save_general(file, state)
        file.rename(f"{file}-{sha256_of(file)}")
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
