"""This project beside its peers, in one run: the same photos, split, weights, epochs and threads, each in its own environment.

    uv run python benchmarks/peers/compare.py                                       # whatever `dvc repro preprocess` left
    uv run python benchmarks/peers/compare.py --weights ../mobilenetv2_100.safetensors --backbone mobilenetv2_100
    uv run python benchmarks/peers/compare.py --photos 64 --epochs-frozen 1 --epochs-unfrozen 1 --repeats 1     # does it run?

The peers are fastai, Hugging Face's Trainer, timm's own recipe and PyTorch's tutorial loop; each one's script beside this file
says what it does, and its dependencies, which uv installs into an environment of its own. All sides take turns. Peers are timed
around their training alone, without imports and without preparing data; ours from the start of a stage to its end. Validation
counts, as everybody chooses by it. Test accuracy is measured after each stage, outside of the times.

Ours are the stages of the commit that is checked out, run in a clone. A finished run is kept in benchmarks/.runs, by
photos, weights, settings, script and, of ours, the commit, so that an interrupted comparison goes on where it stopped. The
table, the CSV and the figure are written to benchmarks/results.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from peer_report import report
from photos import sample
from sides import HERE, OURS, PROJECT, SCRIPTS, SIDES, Task, run_side

from pipeline.cores import usable_cores
from pipeline.data.manifest import fingerprint
from pipeline.errors import PipelineError
from pipeline.files import read_json, sha256_of
from pipeline.params import PARAMS_FILE, load_params
from pipeline.paths import PROCESSED
from pipeline.progress import say
from pipeline.runtime import machine_name, source_revision

RUNS, RESULTS = PROJECT / "benchmarks/.runs", PROJECT / "benchmarks/results"


def arguments() -> argparse.Namespace:
    """What is compared, by default on the backbone of params.yaml."""
    own = load_params(PROJECT / PARAMS_FILE).backbone
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default=own.name, help="timm's name")
    parser.add_argument("--weights", type=Path, default=PROJECT / own.weights, help="a file with its JSON beside it")
    parser.add_argument("--processed", type=Path, default=PROJECT / PROCESSED, help="what the preprocess stage made")
    parser.add_argument("--photos", type=int, help="a sample of about so many training photos; all where it is left out")
    parser.add_argument("--epochs-frozen", type=int, default=2)
    parser.add_argument("--epochs-unfrozen", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the sample and of the first repeat")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES), metavar="SIDE", help=", ".join(SIDES))
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the table, the CSV and the figure go")
    return parser.parse_args()


def key_of(given: argparse.Namespace, manifest: pd.DataFrame) -> str:
    """A hash of all that decides a run, its seed apart."""
    parts = {
        "photos": [fingerprint(manifest, split) for split in ("train", "val", "test")],
        "weights": sha256_of(given.weights),
        "settings": [given.backbone, given.epochs_frozen, given.epochs_unfrozen, given.threads, given.seed],
        "shared script": sha256_of(HERE / "peer.py"),
    }
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def compare(given: argparse.Namespace) -> str:
    """Run what is not kept yet, and report.

    Raises:
        PipelineError: the weights or their JSON are missing, or a side failed.
    """
    for file in (given.weights, given.weights.with_suffix(".json")):
        if not file.is_file():
            raise PipelineError(f"There is no {file}. All sides start from --weights FILE, a JSON that describes it beside it.")
    drawn = RUNS / f"photos-{given.photos or 'all'}-{given.seed}-{_name_of(given.processed)}"
    manifest = sample(given.processed, drawn, photos=given.photos, seed=given.seed)
    folder = RUNS / key_of(given, manifest)
    task = Task(drawn, given.backbone, given.weights.resolve(), given.epochs_frozen, given.epochs_unfrozen, given.threads)
    results: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES if side in given.sides}
    for repeat in range(given.repeats):
        for side in results:
            revision = source_revision() if side == OURS else sha256_of(HERE / SCRIPTS[side])[:12]  # peers outlive our commits
            results[side].append(_kept_or_run(side, task, folder / f"{side}-{revision}-{repeat}", given.seed + repeat))
    return report(results, _heading(given, manifest), given.results)


def _kept_or_run(side: str, task: Task, folder: Path, seed: int) -> dict[str, Any]:
    if (folder / "result.json").is_file():
        say(f"{folder.name}: kept from before")
        return read_json(folder / "result.json")
    say(f"{folder.name}: running; {folder / 'log.txt'} tells how far it is")
    result = run_side(side, task, folder=folder, seed=seed)
    told = (f"{name} {stage['seconds']:.0f} s, {stage['correct'] / stage['n']:.2%}" for name, stage in result["stages"].items())
    say(f"{folder.name}: {'; '.join(told)}")
    return result


def _name_of(processed: Path) -> str:
    """Tells one set of processed photos from another."""
    return sha256_of(processed / "manifest.csv")[:12] if (processed / "manifest.csv").is_file() else "none"


def _heading(given: argparse.Namespace, manifest: pd.DataFrame) -> str:
    counts = manifest["split"].value_counts()
    machine = machine_name(torch.device("cpu"), given.threads)
    return (
        f"{counts['train']:,} training, {counts['val']:,} validation and {counts['test']:,} test photos; {given.backbone} from "
        f"{given.weights.name}; {given.epochs_frozen} frozen and {given.epochs_unfrozen} unfrozen epochs (ours: one pass over "
        f"the photos, then at most as many epochs); {machine}; medians of {given.repeats} runs in turn; in brackets the rate, "
        "and the time as a multiple of ours."
    )


def main() -> None:
    """Compare, and print the table."""
    given = arguments()
    try:
        print(compare(given))
    except PipelineError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
