"""The present run of a project, as a row of reported results.

row = present_row(Path("."), "default")        # read from what the stages wrote
refuse_stale(Path("."))                        # what they wrote is what params.yaml and dvc.lock say
"""

import io
import json
import os
import subprocess
import sys
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from ruamel.yaml import YAML

from pipeline.checkpoint import read_info
from pipeline.data.manifest import fingerprint, read_manifest
from pipeline.errors import PipelineError
from pipeline.files import read_json, sha256_of
from pipeline.params import PARAMS_FILE, load_params
from pipeline.paths import EVALUATION, FINETUNED, METRICS, PROCESSED
from pipeline.reproduction.reported import SEEDS, Row

STAGES = ("download", "preprocess", "train-frozen-backbone", "unfreeze-finetune", "evaluate")
# These have columns of their own; and where and how the work runs is no part of a result.
IN_COLUMNS = ("download.source", "download.sha256", "backbone.name", "backbone.weights")
NOT_OF_THE_RESULT = ("runtime",)


def dvc(project: Path, *arguments: str, capture: bool = True) -> subprocess.CompletedProcess[str]:
    """Run DVC in a project, with the Python that runs this, so that stages run with it too."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {**os.environ, "PATH": path}
    return subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], cwd=project, env=environment, capture_output=capture, text=True, check=False
    )


def refuse_stale(project: Path) -> None:
    """Stop where a stage's outputs are not those of the present settings, code and data.

    Raises:
        PipelineError: `dvc status` is not clean, or DVC cannot tell.
    """
    done = dvc(project, "status", "--json")
    if done.returncode:
        raise PipelineError(f"dvc status failed in {project}: {done.stderr.strip()}")
    changed = json.loads(done.stdout or "{}")
    if changed:
        raise PipelineError(
            f"The outputs are not those of the present settings, code and data: dvc status names {', '.join(changed)}. "
            "Bring them up to date with: dvc repro"
        )


def present_row(project: Path, name: str) -> Row:
    """What the stages wrote in `project`, as a row.

    Raises:
        PipelineError: an output is missing, or the photos came from a folder, which has no sha256 to know it by.
    """
    params = load_params(project / PARAMS_FILE)
    info = read_info(project / FINETUNED)
    manifest = read_manifest(project / PROCESSED)
    facts = {stage: read_json(project / METRICS / f"{stage}.json") for stage in STAGES}
    metrics = read_json(project / EVALUATION / "metrics.json")
    archive_sha256 = facts["download"].get("archive_sha256") or ""
    if params.download.source != "drawn" and not archive_sha256:
        raise PipelineError(
            f"download.source = {params.download.source} is a folder, which nobody else can be shown to have. Pack it into a "
            "zip, run it again from there, and report that."
        )
    settings = _flat(params.model_dump())
    seeds = [str(settings[key]) for key in SEEDS if key != "download.seed" or params.download.source == "drawn"]
    of_each = {
        f"{prefix}{key}": metrics[checkpoint][key]
        for checkpoint, prefix in (("finetuned", ""), ("frozen", "frozen_"))
        for key in ("accuracy", "accuracy_low", "accuracy_high", "log_loss")
    }
    return Row(
        name=name,
        dataset=_dataset(params.download.source),
        dataset_sha256=archive_sha256,
        photos=int((manifest["split"] != "").sum()),
        backbone=info.backbone.name,
        weights=_weights(info.backbone.weights),
        weights_sha256=info.backbone.weights_sha256 or "",
        params="; ".join(f"{key}={json.dumps(value)}" for key, value in _differing(settings, _defaults(project)).items()),
        seed="/".join(seeds[:1] if len(set(seeds)) == 1 else seeds),
        n_test=metrics["num_test"],
        test_fingerprint=fingerprint(manifest, "test"),
        note=info.note,
        predictions_sha256=sha256_of(project / EVALUATION / "predictions.csv"),
        seconds=json.dumps({stage: round(facts[stage]["seconds"], 1) for stage in STAGES}),
        machine=facts["evaluate"]["machine"],
        versions=json.dumps(info.versions),
        **of_each,
    )


def _defaults(project: Path) -> dict[str, Any]:
    """The settings as they are committed: what a fresh clone starts from."""
    done = subprocess.run(
        ["git", "show", f"HEAD:./{PARAMS_FILE}"], cwd=project, capture_output=True, text=True, encoding="utf-8", check=False
    )
    if done.returncode:
        raise PipelineError(f"The committed {PARAMS_FILE} cannot be had from Git: {done.stderr.strip()}")
    return _flat(YAML(typ="safe", pure=True).load(io.StringIO(done.stdout)))


def _flat(sections: dict[str, Any]) -> dict[str, Any]:
    return {
        f"{section}.{key}": value
        for section, settings in sections.items()
        if section not in NOT_OF_THE_RESULT
        for key, value in settings.items()
    }


def _differing(settings: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in IN_COLUMNS and defaults.get(key) != value}


def _dataset(source: str) -> str:
    return source if source in ("drawn", "microsoft") or urlsplit(source).scheme in ("http", "https") else Path(source).name


def _weights(weights: str) -> str:
    """A path inside the project stays, because every clone has it; of any other the file's name is all that travels."""
    inside = not Path(weights).is_absolute() and ".." not in PurePosixPath(weights).parts
    return weights if weights in ("none", "pretrained") or inside else Path(weights).name
