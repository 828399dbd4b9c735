"""State to go on from after a kill, kept beside the stage's outputs and never part of them.

    resume = ResumeFolder(Path("outputs/.resume/unfreeze-finetune"), fingerprint)
    state = resume.read()        # None at a fresh start
    resume.write(state)          # after every epoch, atomically
    resume.remove()              # when the stage ended well

DVC removes a stage's outputs before it runs the command, so what must outlive a kill lies outside them. The folder is keyed by
a hash of everything that decides the result; a state of other data, parameters or code is never taken.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from pipeline.files import sha256_of
from pipeline.progress import say

PACKAGE = Path(__file__).resolve().parents[1]


def fingerprint_of(**parts: Any) -> str:
    """A hash of everything that decides a result: the given parts, torch's version and the source of this package."""
    code = {str(file.relative_to(PACKAGE)): sha256_of(file) for file in sorted(PACKAGE.rglob("*.py"))}
    everything = {"code": code, "torch": torch.__version__, **parts}
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:16]


class ResumeFolder:
    """One file of state under `stage_folder`/FINGERPRINT; folders of other fingerprints are stale and go at the first write."""

    def __init__(self, stage_folder: Path, fingerprint: str) -> None:
        self._stage_folder = stage_folder
        self._file = stage_folder / fingerprint / "state.pt"

    def read(self) -> dict[str, Any] | None:
        """The newest state, on the CPU, or None; a file that cannot be read counts as none, and is said to be so."""
        stale = [path for path in self._stage_folder.glob("*") if path != self._file.parent]
        if stale and not self._file.exists():
            say(f"{self._stage_folder} holds the state of a run with other data, parameters or code; it is not used.")
        try:
            return torch.load(self._file, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return None
        except Exception as error:  # a torn or foreign file raises many kinds
            reason = [*str(error).splitlines(), type(error).__name__][0]
            say(f"{self._file} cannot be read ({reason}); starting afresh.")
            return None

    def write(self, state: dict[str, Any]) -> None:
        """Replace the state atomically."""
        for stale in [path for path in self._stage_folder.glob("*") if path != self._file.parent]:
            shutil.rmtree(stale)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._file.with_suffix(".new")
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._file)

    def remove(self) -> None:
        """Forget the state."""
        shutil.rmtree(self._stage_folder, ignore_errors=True)
