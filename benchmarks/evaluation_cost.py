"""What the evaluate stage costs beyond running both networks over the test photos, after a `dvc repro` in this folder.

    uv run python benchmarks/evaluation_cost.py
    uv run python benchmarks/evaluation_cost.py --turns 5

The bare pass decodes each test photo once and runs both checkpoints on it, by the backends that the stage takes, already built.
The stage is run as DVC runs it, a process of its own with all its imports, in a temporary copy, so that no result is touched.
Both take turns; the bound is 1.3 times the bare pass and 10 seconds.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from pipeline.checkpoint import MODEL_FILE, read_info, read_model_state
from pipeline.data.dataset import Photos
from pipeline.data.manifest import classes_of, read_manifest
from pipeline.errors import PipelineError
from pipeline.models.backbone import rebuild
from pipeline.params import PARAMS_FILE, load_params
from pipeline.runtime import resolve_runtime
from pipeline.training.features import backend_for, run_over

PROJECT = Path(__file__).resolve().parents[1]
CHECKPOINTS = (Path("outputs/frozen"), Path("outputs/finetuned"))
PROCESSED = Path("data/processed")
FACTOR, SECONDS = 1.3, 10.0


def bare_pass() -> tuple[int, Callable[[], float]]:
    """How many test photos there are, and a function that runs both networks over them and returns the seconds it took."""
    manifest = read_manifest(PROCESSED)
    test = Photos.of_split(manifest, PROCESSED, "test", classes_of(manifest))
    runtime = resolve_runtime(load_params().runtime)
    infos = [read_info(folder) for folder in CHECKPOINTS]
    preprocessing = infos[0].preprocessing
    models = [rebuild(info, read_model_state(folder)).eval() for folder, info in zip(CHECKPOINTS, infos, strict=True)]
    backends = {  # one where fine-tuning kept the frozen weights, as in the stage
        info.files[MODEL_FILE]: backend_for(model, test, preprocessing, choice="auto", runtime=runtime, float32=True)
        for model, info in zip(models, infos, strict=True)
    }

    def both(batch: Tensor) -> Tensor:
        return torch.cat([backend.run(batch) for backend in backends.values()], 1)

    def run() -> float:
        started = time.perf_counter()
        run_over(both, test, preprocessing, runtime=runtime, description="bare pass")
        return time.perf_counter() - started

    return len(test), run


def copy_of_project(folder: Path) -> Path:
    """What the stage reads, linked where it reads only and copied where it also writes."""
    (folder / "outputs").mkdir()
    (folder / "data").symlink_to(Path("data").resolve())
    for name in ("frozen", "finetuned", "plots", "out_of_fold.csv"):
        (folder / "outputs" / name).symlink_to(Path("outputs", name).resolve())
    shutil.copytree("outputs/metrics", folder / "outputs/metrics")
    shutil.copy(PARAMS_FILE, folder)
    return folder


def stage(folder: Path) -> float:
    """The seconds of one evaluate stage."""
    environment = {name: value for name, value in os.environ.items() if name != "DVC_STAGE"} | {"PYTHONPATH": str(PROJECT)}
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "pipeline", "evaluate"], cwd=folder, env=environment, check=True)
    return time.perf_counter() - started


def main() -> None:
    """Print seconds, the ratio, and what is left of the bound."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--turns", type=int, default=3)
    given = arguments.parse_args()
    try:
        photos, bare = bare_pass()
    except PipelineError as error:
        sys.exit(f"error: {error}")
    with tempfile.TemporaryDirectory() as name:
        folder = copy_of_project(Path(name))
        turns = [(bare(), stage(folder)) for _ in range(given.turns)]
    networks, whole = (statistics.median(seconds) for seconds in zip(*turns, strict=True))
    ratio = statistics.median(evaluate / forward for forward, evaluate in turns)
    beyond = statistics.median(evaluate - FACTOR * forward for forward, evaluate in turns)
    print(f"{photos:,} test photos, {given.turns} turns, medians")
    print("| bare pass | evaluate | ratio | evaluate - 1.3 x bare pass | bound |\n| --- | --- | --- | --- | --- |")
    verdict = "kept" if beyond <= SECONDS else "broken"
    print(f"| {networks:.1f} s | {whole:.1f} s | {ratio:.2f} | {beyond:.1f} s | {SECONDS:.0f} s: {verdict} |")


if __name__ == "__main__":
    main()
