"""Reported results: outputs/reported.csv has a row a result, with all that is needed to measure it again.

A row without accuracy is announced and not yet measured. Archives and weights are known by their SHA-256, never by path.
"""

import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict
from scipy.stats import norm

from pipeline.checkpoint import SEVERAL, library_versions, read_info
from pipeline.data.manifest import read_manifest
from pipeline.data.pretrained import HUB_PREFIX, TORCHVISION_WEIGHTS
from pipeline.errors import PipelineError
from pipeline.evaluation.metrics import RESAMPLES, Scores
from pipeline.files import public_name, read_json, sha256_of, write_atomically
from pipeline.params import PARAMS_FILE, Params, change_params, load_params
from pipeline.paths import EVALUATION, FINETUNED, METRICS, PROCESSED, SECONDS, user_path
from pipeline.progress import say
from pipeline.runtime import machine_name, processor_fingerprint, resolve_runtime
from pipeline.training.selection import bootstrap_mean

REPORTED, README = Path("outputs/reported.csv"), Path("README.md")
BEGIN, END = "<!-- reported results: begin -->", "<!-- reported results: end -->"
STAGES = ("download", "preprocess", "train-frozen-backbone", "unfreeze-finetune", "evaluate")
SEEDS = ("download.seed", "preprocess.seed", "unfreeze_finetune.seed")
IN_COLUMNS = ("download.source", "download.sha256", "backbone.name", "backbone.weights")
SAME_DATA = ("dataset_sha256", "weights_sha256", "n_test", "test_fingerprint")
SAME_BITS = ("processor", "machine", "versions")
CONFIDENCE_LEVEL = 0.95
FROZEN_TOLERANCE = 0.1  # of the log-loss, for processors that compute features in bfloat16
EXIT_STATUS = {"PASS": 0, "NOT MEASURED": 0, "FAIL": 1, "NOT AT HAND": 3, "OTHER DATA": 4}


class Row(BaseModel):
    """One reported result; texts are empty and numbers None where it is not yet measured.

    `dataset`: "drawn", "microsoft", or the archive's file name or address. `photos`: of all splits. `weights`: as set, but
    of a file outside the project only its name. `params`: settings other than the schema's defaults, "section.key=value; ...".
    `log_loss_low`, `log_loss_high`: where a run on another machine should lie. `machine`: processor by name, threads, GPU.
    `processor`: `processor_fingerprint()`. `seconds` (of each stage) and `versions`: JSON.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    dataset: str
    dataset_sha256: str = ""
    photos: int | None = None
    backbone: str
    weights: str
    weights_sha256: str = ""
    params: str = ""
    seed: str = ""
    n_test: int | None = None
    test_fingerprint: str = ""
    accuracy: float | None = None
    log_loss: float | None = None
    log_loss_low: float | None = None
    log_loss_high: float | None = None
    frozen_accuracy: float | None = None
    frozen_log_loss: float | None = None
    predictions_sha256: str = ""
    seconds: str = ""
    machine: str = ""
    processor: str = ""
    versions: str = ""

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that differ from the default, by "section.key"."""
        return {key: json.loads(value) for key, _, value in (part.partition("=") for part in self.params.split("; ") if part)}

    @property
    def family(self) -> tuple[str, ...]:
        """Data, network and settings, the same for runs that differ by seed alone."""
        settings = ", ".join(f"{key}={json.dumps(value)}" for key, value in self.settings.items() if key not in SEEDS)
        return self.dataset_sha256 or self.dataset, self.backbone, self.weights_sha256 or self.weights, settings or "default"


class Outcome(NamedTuple):
    """What became of one row: a key of `EXIT_STATUS`, and lines of (what, reported, measured, PASS, FAIL, OTHER or nothing)."""

    name: str
    verdict: str
    reason: str = ""
    lines: tuple[tuple[str, str, str, str], ...] = ()

    def __str__(self) -> str:
        text = f"{self.name}: {self.verdict}{f' ({self.reason})' if self.reason else ''}"
        return "\n".join([text, aligned([("", "reported", "measured", ""), *self.lines])]) if self.lines else text


def report_result(name: str | None, *, replace: bool) -> None:
    """Add the present outputs to the reported results, unless stale or already there, and make the README's table anew."""
    rows = {row.name: row for row in read_rows(REPORTED)}
    if name is not None:
        if name in rows and rows[name].accuracy is not None and not replace:
            raise PipelineError(f"{REPORTED} has a row named {name}. Choose another name, or replace it with --replace.")
        done = dvc(Path(), "status", "--json")
        if done.returncode:
            raise PipelineError(f"dvc status failed: {done.stderr.strip()}")
        # The stage of inputs runs at every `dvc repro`.
        if changed := [stage for stage in json.loads(done.stdout or "{}") if stage != "inputs"]:
            stale = f"The outputs are stale: dvc status names {', '.join(changed)}"
            raise PipelineError(f"{stale}. Bring them up to date with: dvc repro")
        measured = row_of_outputs(Path(), name)
        if name in rows and not replace and (differing := _not_as_announced(rows[name], measured)):
            another = f"{REPORTED} announces {name}, and the present outputs have another {', '.join(differing)}"
            raise PipelineError(f"{another}. Run what is announced, choose another name, or replace the row with --replace.")
        rows[name] = measured
        write_rows(REPORTED, list(rows.values()))
        say(f"{name}: accuracy {rows[name].accuracy:.2%} on {rows[name].n_test:,} test photos, now in {REPORTED}")
    update_readme(README, list(rows.values()))


def _not_as_announced(announced: Row, measured: Row) -> list[str]:
    """What differs between a run and an announced row, of what that says: without a SHA-256, any photos will do."""
    wanted = [*(["dataset_sha256"] if announced.dataset_sha256 else []), "backbone", "weights"]
    differing = [name for name in wanted if getattr(announced, name) != getattr(measured, name)]
    old, new = (_flat(Params()) | row.settings for row in (announced, measured))
    return differing + [key for key in old | new if old.get(key) != new.get(key)]


def list_reported() -> None:
    """Print every reported result in a line."""
    lines = [("name", "photos", "backbone", "seed", "fine-tuned", "test photos")]
    for row in read_rows(REPORTED):
        accuracy, n_test = (f"{row.accuracy:.2%}", f"{row.n_test:,}") if row.accuracy is not None else ("not yet measured", "")
        lines.append((row.name, row.dataset, row.backbone, row.seed, accuracy, n_test))
    say(aligned(lines))


def reproduce_reported(name: str | None, *, every: bool, archives: Sequence[Path], weights: Sequence[Path]) -> int:
    """Measure one row, or all of them, again; returns 1 where one failed, else the highest `EXIT_STATUS` of the rows."""
    rows = {row.name: row for row in read_rows(REPORTED)}
    if not rows:
        raise PipelineError(f"{REPORTED} has no rows to reproduce. Add one with: python -m pipeline report-result NAME")
    if every == (name is not None):
        raise PipelineError("Say which result to reproduce: a NAME, or --all; --list shows them.")
    if name is not None and name not in rows:
        raise PipelineError(f"{REPORTED} has no row named {name}. Known: {', '.join(rows)}.")
    verdicts = []
    for row in rows.values() if name is None else [rows[name]]:
        outcome = reproduce(row, Path(), archives=archives, weights=weights)
        say(str(outcome))
        verdicts.append(outcome.verdict)
    say(", ".join(f"{count} {verdict}" for verdict, count in Counter(verdicts).items()))
    return 1 if "FAIL" in verdicts else max(EXIT_STATUS[verdict] for verdict in verdicts)


def reproduce(row: Row, project: Path, *, archives: Sequence[Path], weights: Sequence[Path]) -> Outcome:
    """Run every stage for a row in a fresh clone of `project`, a Git repository that is only read, and compare.

    Archives and weights are looked for in the files and folders given, where params.yaml has its own, and in the project.
    """
    if row.accuracy is None:
        return Outcome(row.name, "NOT MEASURED", "announced, and not yet measured by anybody")
    present = load_params(project / PARAMS_FILE)
    changes = _flat(Params()) | row.settings | {"download.source": row.dataset, "download.sha256": None}
    for key, value in (("backbone.name", row.backbone), ("backbone.weights", row.weights)):
        changes[key] = value.split(SEVERAL) if SEVERAL in value else value
    try:
        if row.dataset_sha256:
            places = [*archives, user_path(present.download.source)]
            changes["download.source"] = _find(row.dataset, row.dataset_sha256, "archive", places)
        names, hashes = row.weights.split(SEVERAL), row.weights_sha256.split(SEVERAL)
        if any(map(is_file_name, names)):
            names *= len(hashes) // len(names)  # one may be the weights of all
            places = [*weights, *(user_path(part.weights) for part in present.backbone.parts)]
            found = [
                _find(name, sha256, "weights", [*places, project / name]) if is_file_name(name) else name
                for name, sha256 in zip(names, hashes, strict=True)
            ]
            changes["backbone.weights"] = found if len(found) > 1 else found[0]
    except FileNotFoundError as error:
        return Outcome(row.name, "NOT AT HAND", str(error))
    with tempfile.TemporaryDirectory(prefix="reproduce-") as folder:
        clone = clone_project(project, Path(folder) / "project")
        change_params(clone / PARAMS_FILE, changes)
        say(f"{row.name}: running every stage in {clone}")
        done = dvc(clone, "repro", "--force", capture=False)  # else a shared cache gives outputs that nobody computed
        if done.returncode:
            return Outcome(row.name, "FAIL", f"dvc repro ended with status {done.returncode}; its message is above")
        return compare(row, row_of_outputs(clone, row.name))


def _find(name: str, sha256: str, option: str, places: Sequence[Path]) -> str:
    """The path of the file with a SHA-256, among files and in folders; a FileNotFoundError says how to name it."""
    for place in places:
        for file in [place] if place.is_file() else sorted(place.glob("*")):
            if file.is_file() and sha256_of(file) == sha256:
                return str(file.resolve())
    raise FileNotFoundError(f"needs {name} with sha256 {sha256}; say where it is with --{option}")


def compare(reported: Row, measured: Row) -> Outcome:
    """Compare a run with the measured row that it repeats.

    Other photos or weights are OTHER DATA: both numbers are shown, and neither passes nor fails. Predictions must be equal bit
    for bit on an equal processor, with as many threads and the same libraries; elsewhere sums are rounded in another order.
    Accuracies may differ by `accuracy_tolerance`; the log-loss must lie in the row's interval, and the frozen checkpoint's, in
    which nothing is random, within `FROZEN_TOLERANCE` of the row's, where it has one.
    """
    old, new = reported.model_dump(), measured.model_dump()
    differing = [name for name in SAME_DATA if old[name] != new[name]]
    others = [name for name in SAME_BITS if old[name] != new[name]]
    checks = [("test photos", "n_test", ",", "", True), ("their fingerprint", "test_fingerprint", ".12", "", True)]
    for what, name in (("accuracy, frozen", "frozen_accuracy"), ("accuracy, fine-tuned", "accuracy")):
        tolerance = accuracy_tolerance(old[name], old["n_test"])
        checks.append((what, name, ".2%", f" ± {tolerance:.2%}", abs(new[name] - old[name]) <= tolerance))
    if old["frozen_log_loss"] is not None:
        allowed = FROZEN_TOLERANCE * old["frozen_log_loss"]
        passed = abs(new["frozen_log_loss"] - old["frozen_log_loss"]) <= allowed
        checks.append(("log-loss, frozen", "frozen_log_loss", ".4f", f" ± {allowed:.4f}", passed))
    low, high = old["log_loss_low"], old["log_loss_high"]
    checks.append(("log-loss, fine-tuned", "log_loss", ".4f", f" ({low:.4f} to {high:.4f})", low <= new["log_loss"] <= high))
    if not others:
        name = "predictions_sha256"
        checks.append(("predictions", name, ".12", ", bit for bit", old[name] == new[name]))
    lines = []
    for what, name, form, allowed, passed in checks:
        word = ("OTHER" if name in differing else "") if differing else "PASS" if passed else "FAIL"
        lines.append((what, f"{old[name]:{form}}{allowed}", f"{new[name]:{form}}", word))
    if differing:
        return Outcome(reported.name, "OTHER DATA", f"not as reported: {', '.join(differing)}", tuple(lines))
    reason = f"bits are not compared: another {', '.join(others)}" if others else ""
    return Outcome(reported.name, "FAIL" if any(line[3] == "FAIL" for line in lines) else "PASS", reason, tuple(lines))


def accuracy_tolerance(accuracy: float, n: int) -> float:
    """How far two accuracies on `n` photos may differ by chance at `CONFIDENCE_LEVEL`: z * sqrt(2) standard errors.

    The error is Agresti and Coull's (Approximate is better than "exact", The American Statistician 1998), not 0 at 100%.
    """
    z = norm.ppf(0.5 + CONFIDENCE_LEVEL / 2)
    fraction = (accuracy * n + z**2 / 2) / (n + z**2)
    return float(z * math.sqrt(2 * fraction * (1 - fraction) / (n + z**2)))


def log_loss_interval(predictions: pd.DataFrame) -> tuple[float, float]:
    """Where another run's test log-loss should lie: the bootstrap interval of the mean, its arms longer by sqrt(2).

    `predictions` is as predictions.csv has it: `actual`, and `finetuned_CLASS` for each class.
    """
    classes, labels = np.unique(predictions["actual"], return_inverse=True)
    scores = Scores(labels, predictions[[f"finetuned_{name}" for name in classes]].to_numpy(), tuple(classes), CONFIDENCE_LEVEL)
    mean, *bounds = bootstrap_mean(scores.log_losses, range(len(labels)), CONFIDENCE_LEVEL, resamples=RESAMPLES)
    low, high = (mean + math.sqrt(2) * (bound - mean) for bound in bounds)
    return max(0.0, low), high


def row_of_outputs(project: Path, name: str) -> Row:
    """What the stages wrote in `project`, as a row of this machine.

    A PipelineError says that an output is missing or was computed elsewhere, or the photos came from a folder.
    """
    params, info = load_params(project / PARAMS_FILE), read_info(project / FINETUNED)
    runtime = resolve_runtime(params.runtime)
    seconds = {stage: read_json(project / SECONDS / f"{stage}.json") for stage in STAGES}
    machine, processor = machine_name(runtime.device, runtime.threads), processor_fingerprint()
    evaluated = seconds["evaluate"]
    if (info.versions, evaluated["machine"], evaluated["processor"]) != (library_versions(), machine, processor):
        raise PipelineError("The outputs were computed on another machine or by other versions. Run: dvc repro --force")
    metrics = read_json(project / EVALUATION / "metrics.json")
    predictions = project / EVALUATION / "predictions.csv"
    source, archive_sha256 = params.download.source, read_json(project / METRICS / "download.json").get("archive_sha256") or ""
    if source != "drawn" and not archive_sha256:
        raise PipelineError(f"download.source = {source} is a folder, which has no SHA-256. Pack it into a zip and run that.")
    settings, defaults = _flat(params), _flat(Params())
    weights = [part.weights for part in info.backbone.parts or [info.backbone]]
    differing = {key: value for key, value in settings.items() if key not in IN_COLUMNS and value != defaults[key]}
    seeds = [str(settings[key]) for key in SEEDS if key != "download.seed" or source == "drawn"]
    low, high = log_loss_interval(pd.read_csv(predictions, dtype={"actual": str}, keep_default_na=False))
    return Row(
        name=name,
        dataset=source if source in ("drawn", "microsoft") or urlsplit(source).scheme else Path(source).name,
        dataset_sha256=archive_sha256,
        photos=int((read_manifest(project / PROCESSED)["split"] != "").sum()),
        backbone=info.backbone.name,
        weights=SEVERAL.join(map(public_name, weights if len(set(weights)) > 1 else weights[:1])),
        weights_sha256=info.backbone.weights_sha256 or "",
        params="; ".join(f"{key}={json.dumps(value)}" for key, value in differing.items()),
        seed="/".join(seeds[:1] if len(set(seeds)) == 1 else seeds),
        n_test=metrics["num_test"],
        test_fingerprint=metrics["test_fingerprint"],
        accuracy=metrics["finetuned"]["accuracy"],
        log_loss=metrics["finetuned"]["log_loss"],
        log_loss_low=round(low, 6),
        log_loss_high=round(high, 6),
        frozen_accuracy=metrics["frozen"]["accuracy"],
        frozen_log_loss=metrics["frozen"]["log_loss"],
        predictions_sha256=sha256_of(predictions),
        seconds=json.dumps({stage: round(content["seconds"], 1) for stage, content in seconds.items()}),
        machine=machine,
        processor=processor,
        versions=json.dumps(info.versions),
    )


def read_rows(file: Path) -> list[Row]:
    """All rows, in the order of the file; raises a PipelineError where one is broken, or two have one name."""
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
        rows = [Row.model_validate({key: cell for key, cell in line.items() if cell}) for line in table.to_dict("records")]
    except (FileNotFoundError, ValueError) as error:  # of pandas or Pydantic
        raise PipelineError(f"{file} cannot be read: {error}. Restore it with: git checkout {file}") from None
    for name, count in Counter(row.name for row in rows).items():
        if count > 1:
            raise PipelineError(f"{file} has {count} rows named {name}; a name stands for one result.")
    return rows


def write_rows(file: Path, rows: Sequence[Row]) -> None:
    """Replace the file atomically."""
    table = pd.DataFrame([row.model_dump() for row in rows], columns=list(Row.model_fields), dtype=object)
    write_atomically(file, table.to_csv(index=False, lineterminator="\n").encode())


def results_table(rows: Sequence[Row]) -> str:
    """Markdown: a line for the measured rows that differ by seed alone, in the order of the rows; of equal seeds the first."""
    families: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        if row.accuracy is not None:
            families.setdefault(row.family, {}).setdefault(row.seed, row)
    head = ["photos", "backbone and weights", "settings", "runs", "frozen", "fine-tuned", "log-loss", "test photos", "time"]
    return markdown(head, [_cells([*family.values()]) for family in families.values()])


def update_readme(readme: Path, rows: Sequence[Row]) -> None:
    """Put the table between the markers; raises a PipelineError where there are none."""
    text = readme.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise PipelineError(f"{readme} has no place for the table: put in the lines {BEGIN} and {END}, and run this again.")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    readme.write_text(f"{before}{BEGIN}\n{results_table(rows)}\n{END}{after}", encoding="utf-8")


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of equally many cells as lines for a terminal, each column as wide as its longest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for a page."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *rows])


def mean_and_deviation(values: Sequence[float], form: str) -> str:
    """Mean ± standard deviation (of n - 1); of a single value, itself."""
    deviation = f" ± {statistics.stdev(values):{form.removeprefix('+')}}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{form}}{deviation}"


def clone_project(project: Path, target: Path) -> Path:
    """Clone the commit that is checked out in `project`; raises a PipelineError where it lies in no Git repository."""
    command = ["git", "clone", "--quiet", "--no-hardlinks", str(project.resolve()), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PipelineError(f"A result is reproduced in a Git clone, but {project.resolve()} is none: {done.stderr.strip()}")
    return target


def dvc(project: Path, *arguments: str, capture: bool = True) -> subprocess.CompletedProcess[str]:
    """Run DVC in a project, with the Python that runs this, so that stages run with it too."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=project, env=environment, capture_output=capture, text=True, check=False)


def is_file_name(weights: str) -> bool:
    """Whether weights are a file, and not what a package or a hub has, such as "package", "pretrained" or "hf-hub:..."."""
    return bool(Path(weights).suffix) and not weights.startswith(HUB_PREFIX) and not TORCHVISION_WEIGHTS.fullmatch(weights)


def _flat(params: Params) -> dict[str, Any]:
    """ "section.key" -> value, but not of runtime: where and how the work runs is no part of a result."""
    sections = params.model_dump(exclude={"runtime"})
    return {f"{section}.{key}": value for section, settings in sections.items() for key, value in settings.items()}


def _cells(family: list[Row]) -> list[str]:
    first, forms = family[0], {"frozen_accuracy": ".2%", "accuracy": ".2%", "log_loss": ".4f"}
    return [
        _hashed(f"{first.photos:,} of {first.dataset}" if first.photos else first.dataset, first.dataset_sha256),
        _hashed(f"{first.backbone}, {first.weights}", first.weights_sha256),
        re.sub(r"(^|, )\w+\.", r"\1", first.family[-1]),  # without the sections' names
        f"`{first.name}`" + (f" and {len(family) - 1} more seeds" if len(family) > 1 else ""),
        *(mean_and_deviation([getattr(row, name) for row in family], form) for name, form in forms.items()),
        " or ".join(sorted({f"{row.n_test:,}" for row in family})),
        f"{statistics.mean(sum(json.loads(row.seconds).values()) for row in family):,.0f} s",
    ]


def _hashed(text: str, sha256: str) -> str:
    return f"{text} (`{sha256[:8]}…`)" if sha256 else text
