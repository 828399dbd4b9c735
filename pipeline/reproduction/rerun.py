"""A reported result, got again from the raw archive in a clean copy of the project, and held against what was reported.

outcome = reproduce(row, Path("."), archives=[Path("../photos.zip")], weights=[])
print(told(outcome)); outcome.verdict          # "PASS", "FAIL", "NOT AT HAND" or "NOT MEASURED"

The copy is a clone of the commit that is checked out, with DVC's cache empty, so everything is computed anew. Archives and
weights are looked for among the paths that are given (files or folders), the settings of params.yaml, and, for weights, inside
the project; what is taken is known by its sha256.
"""

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.files import sha256_of
from pipeline.params import PARAMS_FILE, change_params, load_params
from pipeline.paths import user_path
from pipeline.progress import say
from pipeline.reproduction.record import dvc, present_row
from pipeline.reproduction.reported import Row
from pipeline.reproduction.table import aligned

EXIT_STATUS = {"PASS": 0, "NOT MEASURED": 0, "FAIL": 1, "NOT AT HAND": 3}


@dataclass(frozen=True)
class Check:
    """One thing that was compared."""

    what: str
    reported: str
    measured: str
    passed: bool


@dataclass(frozen=True)
class Outcome:
    """What became of one row."""

    name: str
    verdict: str
    checks: tuple[Check, ...] = ()
    reason: str = ""


def reproduce(row: Row, project: Path, *, archives: Sequence[Path], weights: Sequence[Path]) -> Outcome:
    """Run a row from the raw archive and compare.

    Args:
        row: what was reported.
        project: a Git clone of this project; it is only read.
        archives, weights: files, or folders of files, to look among.

    Raises:
        PipelineError: the project cannot be cloned, or lies in no Git repository.
    """
    if not row.measured:
        return Outcome(row.name, "NOT MEASURED", reason="announced, and not yet measured by anybody")
    settings = load_params(project / PARAMS_FILE)
    source, backbone_weights = row.dataset, row.weights
    if row.dataset_sha256:
        archive = _with_sha256(row.dataset_sha256, [*archives, user_path(settings.download.source)])
        if archive is None:
            return _not_at_hand(row, "archive", row.dataset, row.dataset_sha256)
        source = str(archive.resolve())
    if row.weights not in ("none", "pretrained"):
        file = _with_sha256(row.weights_sha256, [*weights, user_path(settings.backbone.weights), project / row.weights])
        if file is None:
            return _not_at_hand(row, "weights", row.weights, row.weights_sha256)
        backbone_weights = str(file.resolve())
    changes = {"download.source": source, "backbone.name": row.backbone, "backbone.weights": backbone_weights, **row.settings}
    with tempfile.TemporaryDirectory(prefix="reproduce-") as folder:
        copy = clone_project(project, Path(folder) / "project")
        change_params(copy / PARAMS_FILE, changes)
        say(f"{row.name}: running every stage in {copy}")
        done = dvc(copy, "repro", capture=False)
        if done.returncode:
            return Outcome(row.name, "FAIL", reason=f"dvc repro ended with status {done.returncode}; its message stands above")
        checks = compare(row, present_row(copy, row.name))
    return Outcome(row.name, "PASS" if all(check.passed for check in checks) else "FAIL", checks)


def compare(reported: Row, measured: Row) -> tuple[Check, ...]:
    """Hold a measured row against the reported one: the same photos, and the same bits or an accuracy within the interval.

    Bits are the same on the same processor model with as many threads and the same library versions; anywhere else sums are
    rounded in another order.
    """
    same_machine = (reported.machine, reported.versions) == (measured.machine, measured.versions)
    checks = [
        Check("test photos", f"{reported.n_test:,}", f"{measured.n_test:,}", reported.n_test == measured.n_test),
        Check(
            "their fingerprint",
            reported.test_fingerprint[:12],
            measured.test_fingerprint[:12],
            reported.test_fingerprint == measured.test_fingerprint,
        ),
    ]
    for prefix, name in (("frozen_", "accuracy, frozen"), ("", "accuracy, fine-tuned")):
        value, low, high = (getattr(reported, f"{prefix}accuracy{bound}") for bound in ("", "_low", "_high"))
        found = getattr(measured, f"{prefix}accuracy")
        checks.append(Check(name, f"{value:.2%} ({low:.2%} to {high:.2%})", f"{found:.2%}", low <= found <= high))
    if same_machine:
        bits = Check(
            "predictions, bit for bit",
            reported.predictions_sha256[:12],
            measured.predictions_sha256[:12],
            reported.predictions_sha256 == measured.predictions_sha256,
        )
        return (*checks, bits)
    return tuple(checks)


def told(outcome: Outcome) -> str:
    """A table of what was compared, with its verdict."""
    lines = [f"{outcome.name}: {outcome.verdict}{f' ({outcome.reason})' if outcome.reason else ''}"]
    if outcome.checks:
        rows = [("", "reported", "measured", "")]
        rows += [(check.what, check.reported, check.measured, "PASS" if check.passed else "FAIL") for check in outcome.checks]
        lines.append(aligned(rows, indent="  "))
        if not any(check.what.startswith("predictions") for check in outcome.checks):
            lines.append("  another machine or other versions than reported: bits are not compared")
    return "\n".join(lines)


def exit_status(outcomes: Sequence[Outcome]) -> int:
    """0 where all passed; 1 where one failed; else 3 where one could not be run. What is not measured yet does not count."""
    statuses = {EXIT_STATUS[outcome.verdict] for outcome in outcomes}
    return 1 if 1 in statuses else max(statuses, default=0)


def _not_at_hand(row: Row, what: str, name: str, sha256: str) -> Outcome:
    option = "--archive" if what == "archive" else "--weights"
    return Outcome(
        row.name, "NOT AT HAND", reason=f"needs the {what} {name} with sha256 {sha256}; say where it is with {option}"
    )


def _with_sha256(sha256: str, places: Sequence[Path]) -> Path | None:
    """The first of the files, or of the files in the folders, with this hash."""
    return next((file for place in places for file in _files(place) if _hash(file) == sha256), None)


def _files(place: Path) -> Iterator[Path]:
    if place.is_file():
        yield place
    elif place.is_dir():
        yield from sorted(file for file in place.iterdir() if file.is_file())


@cache
def _hash(file: Path) -> str:
    return sha256_of(file)


def clone_project(project: Path, copy: Path) -> Path:
    """A clone of the commit that is checked out.

    Raises:
        PipelineError: there is no git, or `project` lies in no Git repository.
    """
    try:
        done = subprocess.run(
            ["git", "clone", "--quiet", "--no-hardlinks", str(project.resolve()), str(copy)],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        raise PipelineError("git is not installed; it makes the clean copy in which a result is reproduced.") from None
    if done.returncode:
        raise PipelineError(f"A clean copy of {project.resolve()} cannot be made: {done.stderr.strip()}")
    return copy
