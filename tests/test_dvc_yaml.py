"""dvc.yaml says the truth about the stages: what code they are made of, what they read, and that DVC can show it."""

import ast
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("download", "preprocess", "train-frozen-backbone", "unfreeze-finetune", "evaluate")
# The schema of all sections: a stage is keyed by the values of the sections that it lists, not by the file that checks them.
# It looks names up in tables of the rooms, which keys nothing either.
APART = {"pipeline/params.py"}


def pipeline_yaml() -> dict:
    return YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text())


def imported_modules(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import, which this test does not follow"
            names.add(node.module or "")
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {name for name in names if name.split(".")[0] == "pipeline"}


def file_of(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    return path if path.is_file() else None


def import_closure(module: str) -> set[str]:
    """Files of this project that importing a module may run, function-level imports included."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        file = file_of(waiting.pop())
        if file is None or str(file.relative_to(ROOT)) in found | APART:
            continue
        found.add(str(file.relative_to(ROOT)))
        waiting.extend(imported_modules(file))
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_the_import_closure_lies_inside_the_code_deps(stage: str) -> None:
    """Nothing that a stage imports is missing from its deps, and no folder or file is listed that it does not import."""
    listed = {dep for dep in pipeline_yaml()["stages"][stage]["deps"] if dep.startswith("pipeline/")}
    closure = import_closure(f"pipeline.stages.{stage.replace('-', '_')}")
    assert {_room(file, listed) for file in closure} == listed


def _room(file: str, listed: set[str]) -> str:
    """The listed folder that holds a file, or the file itself."""
    return next((dep for dep in listed if file.startswith(f"{dep}/")), file)


def test_a_room_is_a_folder_and_compiled_files_are_no_part_of_it() -> None:
    for definition in pipeline_yaml()["stages"].values():
        for dep in definition.get("deps", []):
            assert not dep.endswith(".py") or dep.count("/") == 1 or dep.startswith("pipeline/stages/"), dep
    assert "__pycache__/" in (ROOT / ".dvcignore").read_text().splitlines()


@pytest.mark.parametrize("stage", STAGES)
def test_stage_is_described_and_shown(stage: str) -> None:
    definition = pipeline_yaml()["stages"][stage]
    assert definition["cmd"] == f"python -m pipeline {stage}"
    for key in ("desc", "deps", "params", "outs", "metrics", "plots"):
        assert definition.get(key), f"{stage} has no {key}"
    assert "runtime" not in definition["params"]


def test_stages_do_not_import_stages_and_imports_run_one_way() -> None:
    level = {
        "errors": -1,
        "progress": 0,
        "cores": 0,
        "files": 0,
        "launch": 0,
        "paths": 0,
        "params": 1,
        "checkpoint": 2,
        "runtime": 2,
    }
    level |= {
        "models": 3,
        "data": 3,
        "download": 3,
        "preprocess": 4,
        "training": 4,
        "evaluation": 5,
        "inference": 6,
        "stages": 7,
        "reproduce": 7,
        "leaderboard": 8,
        "__main__": 9,
    }
    for file in (ROOT / "pipeline").rglob("*.py"):
        own = file.relative_to(ROOT / "pipeline").with_suffix("").parts[0]
        for module in imported_modules(file):
            if file_of(module) is None or own == "params":
                continue
            other = module.split(".")[1]
            same_package = own == other and own != "stages"
            assert same_package or level[other] < level[own], f"{file} imports {module}"


def test_only_stages_know_paths() -> None:
    for file in (ROOT / "pipeline").rglob("*.py"):
        if "pipeline.paths" in imported_modules(file):
            assert file.parent.name == "stages" or file.stem == "reproduce", f"{file} imports pipeline.paths"
