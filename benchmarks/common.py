"""What the benchmarks share: the command line, variants over seeds, photos, and projects in which the stages run."""

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from ruamel.yaml import YAML, YAMLError

from pipeline.data.dataset import Photos
from pipeline.data.manifest import classes_of, read_manifest
from pipeline.errors import PipelineError
from pipeline.params import load_params
from pipeline.reproduce import markdown, mean_and_deviation
from pipeline.runtime import ResolvedRuntime, resolve_runtime

PROJECT = Path(__file__).resolve().parents[1]
PROCESSED, RUNS, RESULTS = (PROJECT / name for name in ("data/processed", "benchmarks/.runs", "benchmarks/results"))
TRAINING = ("train-frozen-backbone", "unfreeze-finetune")
RECIPE = "the recipe"
SECONDS_BETWEEN_LOOKS = 2.0  # at the memory of what is timed: a look reads all of its page tables, which takes 50 ms


def run_command(description: str, measure: Callable[[argparse.Namespace], None], **options: dict[str, Any]) -> None:
    """Parse the command line and measure; what a person can mend ends it with a message.

    Args:
        description: the script's docstring.
        measure: takes what argparse parsed.
        options: name -> arguments of argparse's `add_argument`.
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    for name, settings in options.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **settings)
    try:
        measure(parser.parse_args())
    except PipelineError as error:
        sys.exit(str(error))


def setting(text: str) -> dict[str, Any]:
    """SECTION.KEY=VALUE as `change_params` takes it, the value as YAML has it; a PipelineError where it is none."""
    key, given, value = text.partition("=")
    if not given or not re.fullmatch(r"\w+\.\w+", key):
        raise PipelineError(f"--set {text}: write SECTION.KEY=VALUE, such as unfreeze_finetune.epochs=0.")
    if key == "unfreeze_finetune.seed":
        raise PipelineError(f"--set {text}: each run has another seed anyway, from 0 on.")
    try:
        return {key: YAML(typ="safe", pure=True).load(value)}
    except YAMLError as error:
        reason = str(error).partition("\n")[0]
        raise PipelineError(f"--set {text}: the value is not valid YAML ({reason}).") from None


def keep(name: str, text: str) -> None:
    """Print a result, and write it to benchmarks/results."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / name).write_text(f"{text}\n", encoding="utf-8")
    print(text)


Runs = dict[str, list[dict[str, float]]]  # variant -> its scores by name, a run a seed


def run_variants(variants: Sequence[str], seeds: int, run: Callable[[str, int], dict[str, dict[str, float]]]) -> Runs:
    """Every variant with every seed. `run` returns scores by name, of the variant and of what else came out beside it."""
    results: Runs = {}
    for seed in range(seeds):
        for variant in variants:
            for name, scores in run(variant, seed).items():
                results.setdefault(name, []).append(scores)
                print(f"seed {seed}, {name}: {', '.join(f'{key} {value:.4f}' for key, value in scores.items())}", flush=True)
    return results


def table_of_variants(results: Mapping[str, Sequence[Mapping[str, float]]], forms: Mapping[str, str], paired: str) -> str:
    """Mean ± deviation of scores over the seeds, the lowest first; `forms` are their formats.

    The last column is the difference in `paired` to the recipe, of the same seed: runs of equal place have the same.
    """
    rows = []
    for variant, runs in sorted(results.items(), key=lambda item: statistics.mean(one[next(iter(forms))] for one in item[1])):
        cells = [mean_and_deviation([one[name] for one in runs], form) for name, form in forms.items()]
        differences = [one[paired] - recipe[paired] for one, recipe in zip(runs, results[RECIPE], strict=True)]
        rows.append((variant, *cells, "" if variant == RECIPE else mean_and_deviation(differences, "+.4f")))
    return markdown(("", *forms, f"{paired}, to the recipe"), rows)


def resolved(device: str = "auto", **changes: Any) -> ResolvedRuntime:
    """The runtime of params.yaml with changes."""
    own = load_params(PROJECT / "params.yaml").runtime
    return resolve_runtime(own.model_copy(update={"device": device, **changes}))


def stored_photos(split: str, count: int | None = None) -> Photos:
    """The photos of a split as the preprocess stage left them; `count` of them, the same again where there are fewer."""
    manifest = read_manifest(PROCESSED)
    photos = Photos.of_split(manifest, PROCESSED, split, classes_of(manifest))
    return photos.at([number % len(photos) for number in range(count or len(photos))])


def lend_photos(processed: Path, clone: Path) -> Path:
    """Give a clone of the project stored photos, and what this project's stages left about theirs."""
    (clone / "data").mkdir(exist_ok=True)
    (clone / "data/processed").symlink_to(processed.resolve())
    for name in ("metrics", "seconds"):
        shutil.copytree(PROJECT / "outputs" / name, clone / "outputs" / name, dirs_exist_ok=True)
    return clone


def new_log(benchmark: str) -> Path:
    """An empty log that is still there when a message names it, unlike the temporary folders in which stages run."""
    RUNS.mkdir(parents=True, exist_ok=True)
    log = RUNS / f"{benchmark}.log"
    log.write_text("", encoding="utf-8")
    return log


def run_stage(stage: str, folder: Path, log: Path, threads: int | None = None) -> float:
    """Run one stage in a project, as DVC does; as `run_measured`."""
    return run_measured([sys.executable, "-m", "pipeline", stage], folder, log, threads)


def run_measured(command: Sequence[str], folder: Path, log: Path, threads: int | None = None) -> float:
    """Run a command, its output appended to `log`; the peak of its processes' memory together in MB.

    Raises:
        PipelineError: it failed.
    """
    env = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH", "DVC_STAGE")}
    env |= {"OMP_NUM_THREADS": str(threads)} if threads else {}
    peak = 0.0
    with log.open("a", encoding="utf-8") as written:
        process = psutil.Popen(command, cwd=folder, env=env, stdout=written, stderr=subprocess.STDOUT)
        while process.poll() is None:
            with suppress(psutil.Error):  # a process that has just ended
                held = [one.memory_full_info() for one in (process, *process.children(recursive=True))]
                # The proportional set size, in which shared pages count once, where the system has it.
                peak = max(peak, sum(getattr(one, "pss", one.uss) for one in held) / 1e6)
            time.sleep(SECONDS_BETWEEN_LOOKS)
    if process.returncode:
        last = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])
        status = f"{' '.join(command[:4])} ended with status {process.returncode}"
        raise PipelineError(f"{status}. The whole log: {log}. Its end:\n{last}")
    return peak
