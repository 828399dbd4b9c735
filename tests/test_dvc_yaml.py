"""dvc.yaml says the truth about the stages: what code they are made of, what they read, and that DVC can show it."""

import ast
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.stages.inputs import REMOVED
from tests.clones import ROOT

STAGES = ("download", "preprocess", "train-frozen-backbone", "unfreeze-finetune", "evaluate")
DEFINITIONS: dict[str, Any] = YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text())["stages"]
# The schema of all sections: a stage is keyed by the values of the sections that it lists, not by the file that checks them.
# It looks names up in tables of the rooms, which keys nothing either.
APART = ROOT / "pipeline/params.py"
# What each imports lies in a line above its own.
LEVELS = """
errors
progress cores files paths
params launch
checkpoint runtime
data download
models preprocess
training
evaluation
inference
stages reproduce
leaderboard presets doctor
__main__
"""


def imported_files(file: Path) -> set[Path]:
    """Files of this project that importing a module may run, function-level imports included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import, which this test does not follow"
            names.update([node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)])
    paths = {ROOT.joinpath(*name.split(".")).with_suffix(".py") for name in names if name.split(".")[0] == "pipeline"}
    return {path for path in paths if path.is_file()}


def test_no_photos_are_read_from_a_folder_that_dvc_removes() -> None:
    outs = {out for stage in STAGES for out in DEFINITIONS[stage]["outs"] if isinstance(out, str)}
    assert {str(folder) for folder in REMOVED} == {out for out in outs if not Path(out).suffix}


@pytest.mark.parametrize("stage", STAGES)
def test_the_import_closure_lies_inside_the_code_deps(stage: str) -> None:
    """Nothing that a stage imports is missing from its deps, and no folder or file is listed that it does not import."""
    listed = {dep for dep in DEFINITIONS[stage]["deps"] if dep.startswith("pipeline/")}
    found, waiting = set(), [ROOT / f"pipeline/stages/{stage.replace('-', '_')}.py"]
    while waiting:
        file = waiting.pop()
        if file not in found | {APART}:
            found.add(file)
            waiting.extend(imported_files(file))
    names = [str(file.relative_to(ROOT)) for file in found]
    assert {next((dep for dep in listed if name.startswith(f"{dep}/")), name) for name in names} == listed


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_described_and_shown_and_made_of_whole_folders(stage: str) -> None:
    definition = DEFINITIONS[stage]
    assert definition["cmd"] == f"python -m pipeline {stage}"
    for key in ("desc", "deps", "params", "outs", "metrics", "plots"):
        assert definition.get(key), f"{stage} has no {key}"
    assert "runtime" not in definition["params"]
    for dep in definition["deps"]:
        assert not dep.endswith(".py") or dep.count("/") == 1 or dep.startswith("pipeline/stages/"), dep
    assert "__pycache__/" in (ROOT / ".dvcignore").read_text().splitlines()


def test_stages_do_not_import_stages_imports_run_one_way_and_the_library_knows_no_paths() -> None:
    level = {name: number for number, names in enumerate(LEVELS.split("\n")) for name in names.split()}
    for file in (ROOT / "pipeline").rglob("*.py"):
        own = file.relative_to(ROOT / "pipeline").with_suffix("").parts[0]
        for imported in imported_files(file) if file != APART else ():
            other = imported.relative_to(ROOT / "pipeline").with_suffix("").parts[0]
            same_package = own == other and own != "stages"
            assert same_package or level[other] < level[own], f"{file} imports {imported}"
            assert other != "paths" or own in ("stages", "reproduce", "__main__"), f"{file} imports {imported}"
