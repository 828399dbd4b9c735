"""Fair comparison with peers: the same photos, split, weights, epochs and threads, each side in an environment of its own.

    uv run python benchmarks/compare_peers.py                # the default backbone with its weights from the package registry
    uv run python benchmarks/compare_peers.py --backbone mobilenetv2_100 --weights ../mobilenetv2_100.imagenet.safetensors
    uv run python benchmarks/compare_peers.py --photos 64 --epochs-frozen 1 --epochs-unfrozen 1 --sides "30 lines"  # works?

The peers are fastai, Hugging Face's Trainer, timm's recipe, PyTorch's tutorial and the 30 lines that a good engineer writes,
each a script in benchmarks/peers. All sides take turns. A peer's first run tries some learning rates, and validation chooses;
its seconds are those of training with the chosen rate, without imports and preparing data. Ours are the stages of the commit
that is checked out, in a clone, from the start of a stage to its end. Finished runs stay in benchmarks/.runs, so that an
interrupted comparison goes on; the table is written to benchmarks/results/peers.md.
"""

import argparse
import hashlib
import importlib.metadata
import json
import os
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from common import PROCESSED, PROJECT, RUNS, TRAINING, keep, lend_photos, run_command, run_measured, run_stage
from safetensors.torch import save_file

from pipeline.cores import usable_cores
from pipeline.data.manifest import classes_of, fingerprint, read_manifest, stored_fingerprint, write_manifest
from pipeline.files import read_json, sha256_of, write_json
from pipeline.models.backbone import create_backbone
from pipeline.models.freezing import set_trainable
from pipeline.models.head import replace_head
from pipeline.params import UnfreezeFinetune, change_params
from pipeline.reproduce import clone_project, markdown
from pipeline.runtime import machine_name, resolve_device
from pipeline.training.activations import recipe_of

OURS, PEERS = "this project", PROJECT / "benchmarks/peers"
SCRIPTS = {"30 lines": "thirty_lines", "fastai": "fastai", "Trainer": "trainer"}
SCRIPTS |= {"timm recipe": "timm", "PyTorch tutorial": "tutorial"}
STAGES = dict(zip(("frozen", "finetuned"), TRAINING, strict=True))
SHARED = ("backbone", "weights", "epochs_frozen", "epochs_unfrozen", "threads")
OUR_SETTINGS = {
    "optimizer": "logistic regression to convergence; AdamW, cosine; moving average, interpolated with the frozen weights",
    "augmentation": "light",
    "head": "the logistic regression's",
    "precision": "bfloat16 where the processor has it",
}


def sample(manifest: Any, photos: int | None, seed: int) -> Any:
    """The manifest with about `photos` training photos, the same fraction of each class; the others are in no split."""
    training = manifest[manifest["split"] == "train"].sort_values("id")
    if photos is None or photos >= len(training):
        return manifest
    chosen = training.groupby("class").sample(frac=photos / len(training), random_state=seed)["id"]
    left_out = (manifest["split"] == "train") & ~manifest["id"].isin(chosen)
    return manifest.assign(split=manifest["split"].mask(left_out, ""))


def prepare_photos(project: Path, photos: int | None, seed: int) -> None:
    """Make `project` one that has been preprocessed, with a sample of the training photos of this one, as links."""
    stored, target = PROCESSED, project / "data/processed"
    manifest = sample(read_manifest(stored), photos, seed)
    for split, label, photo in manifest.loc[manifest["split"] != "", ["split", "class", "id"]].itertuples(index=False):
        file = Path("images", split, label, f"{photo}.jpg")
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        os.link((stored / file).resolve(), target / file)
    for file in stored.glob("*.json"):
        shutil.copy(file, target)
    write_manifest(manifest, target)


def run_peer(script: Path, given: argparse.Namespace, photos: Path, folder: Path, seed: int, rates: Any) -> dict[str, Any]:
    """A peer, in the environment that its script describes."""
    options = {"images": photos / "data/processed/images", "same_blocks": photos / "same_blocks.json", "seed": seed}
    options |= {"output": folder / "peer.json", "rates": json.dumps(rates)} | {name: vars(given)[name] for name in SHARED}
    command = ["uv", "run", "--script", str(script)]
    command += [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    peak = run_measured(command, PEERS, folder / "log.txt", given.threads)
    return read_json(folder / "peer.json") | {"peak": peak}


def run_ours(given: argparse.Namespace, photos: Path, folder: Path, seed: int) -> dict[str, Any]:
    """The stages, in a clone of the commit that is checked out."""
    changes = {"backbone.name": given.backbone, "backbone.weights": given.weights, "unfreeze_finetune.seed": seed}
    changes |= {"unfreeze_finetune.epochs": given.epochs_unfrozen, "runtime.device": "cpu"}
    changes |= {"runtime.threads": given.threads, "runtime.workers": given.threads}
    with tempfile.TemporaryDirectory() as temporary:
        clone = lend_photos(photos / "data/processed", clone_project(PROJECT, Path(temporary) / "project"))
        change_params(clone / "params.yaml", changes)
        peak = max(run_stage(stage, clone, folder / "log.txt", given.threads) for stage in TRAINING)
        run_stage("evaluate", clone, folder / "log.txt", given.threads)
        scores = read_json(clone / "outputs/evaluation/metrics.json")
        seconds = {key: read_json(clone / f"outputs/seconds/{stage}.json")["seconds"] for key, stage in STAGES.items()}
    counts, stages = read_json(photos / "counts.json"), dict[str, Any]()
    for key in STAGES:
        stages[key] = {name: scores[key][name] for name in ("accuracy", "log_loss", "val_log_loss")}
        stages[key] |= {"seconds": seconds[key], "learnt": counts[key], "parameters": counts["all"], "rate": None}
    versions = {name: importlib.metadata.version(name) for name in ("torch", "timm", "scikit-learn")}
    return {"settings": OUR_SETTINGS, "versions": versions, "stages": stages, "peak": peak}


def weights_file(given: argparse.Namespace) -> Path:
    """The weights as a file that every side can read: a safetensors file, a JSON that describes it beside it."""
    if given.weights != "package":
        return Path(given.weights).resolve()
    backbone, file = create_backbone(given.backbone, "package"), RUNS / f"{given.backbone}.safetensors"
    RUNS.mkdir(parents=True, exist_ok=True)
    save_file(backbone.model.state_dict(), file)
    described = backbone.preprocessing.model_dump() | {"architecture": given.backbone, "sha256": sha256_of(file)}
    write_json(file.with_suffix(".json"), described | {"num_classes": backbone.model.num_classes})
    return file


def describe_blocks(given: argparse.Namespace, photos: Path) -> None:
    """Which parameters fine-tuning changes, for the peers, and how many each of our stages trains."""
    backbone = create_backbone(given.backbone, given.weights)
    manifest = read_manifest(photos / "data/processed")
    path = replace_head(backbone.model, len(classes_of(manifest)))
    num_photos = int((manifest["split"] == "train").sum())
    recipe = recipe_of(backbone.model, backbone.preprocessing, UnfreezeFinetune(), num_photos)
    set_trainable(backbone.model, recipe.unfrozen_blocks)
    learning = [name for name, parameter in backbone.model.named_parameters() if parameter.requires_grad]
    sizes = {name: parameter.numel() for name, parameter in backbone.model.named_parameters()}
    counts = {"frozen": sum(size for name, size in sizes.items() if name.startswith(f"{path}.")), "all": sum(sizes.values())}
    counts["finetuned"] = sum(sizes[name] for name in learning)
    (photos / "counts.json").write_text(json.dumps(counts), encoding="utf-8")
    (photos / "same_blocks.json").write_text(json.dumps(learning), encoding="utf-8")


def compare(given: argparse.Namespace) -> None:
    """Run what is not there yet, side by side in turns, and write and print the table."""
    given.weights = str(weights_file(given))
    manifest = sample(read_manifest(PROCESSED), given.photos, given.seed)
    decides = [vars(given)[name] for name in SHARED if name != "weights"]
    decides += [given.seed, fingerprint(manifest), stored_fingerprint(manifest)]
    decides += [sha256_of(file) for file in (Path(given.weights), PEERS / "peer.py")]
    runs = RUNS / hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:16]
    if not (runs / "same_blocks.json").is_file():
        shutil.rmtree(runs, ignore_errors=True)
        prepare_photos(runs, given.photos, given.seed)
        describe_blocks(given, runs)
    results: dict[str, list[dict[str, Any]]] = {side: [] for side in (OURS, *SCRIPTS) if side in (OURS, *given.sides)}
    for repeat in range(given.repeats):
        for side, own in results.items():
            script = PEERS / f"{SCRIPTS.get(side)}_peer.py"
            revision = source_revision() if side == OURS else sha256_of(script)[:12]
            folder = runs / f"{side}-{revision}-{repeat}"
            if not (folder / "result.json").is_file():
                print(f"running {folder}", flush=True)
                folder.mkdir(exist_ok=True)
                seed = given.seed + repeat
                rates = {stage: one["rate"] for stage, one in own[0]["stages"].items()} if own else {}
                ours = side == OURS
                run = run_ours(given, runs, folder, seed) if ours else run_peer(script, given, runs, folder, seed, rates)
                write_json(folder / "result.json", run)
            own.append(read_json(folder / "result.json"))
    counts = ", ".join(f"{count:,} {split}" for split, count in manifest["split"].value_counts().items() if split)
    machine = machine_name(resolve_device("cpu"), given.threads)
    heading = f"{given.backbone}; photos: {counts}; {given.epochs_frozen} + {given.epochs_unfrozen} epochs; {machine}; "
    keep("peers.md", f"{heading}{given.repeats} runs of each side in turns: median seconds, mean scores.\n\n{report(results)}")


def source_revision() -> str | None:
    """The Git commit of the present folder, marked where files differ from it; None outside of Git."""
    command = ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=, with changes"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None


def report(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """One table of all sides, where ours is not the best, and how each side was set up; ratios are of the same repeat."""
    runs: Any = pd.DataFrame(
        {"side": side, "stage": stage, "repeat": repeat, **numbers}
        for side, own in results.items()
        for repeat, run in enumerate(own)
        for stage, numbers in run["stages"].items()
    ).set_index(["side", "stage", "repeat"])
    seconds = runs["seconds"].unstack("stage")
    seconds["both"] = seconds.sum(axis=1)
    ratio = seconds.div(seconds.loc[OURS], level="repeat").groupby("side").median()
    seconds = seconds.groupby("side").median()
    mean = runs[["val_log_loss", "log_loss", "accuracy"]].groupby(["side", "stage"]).mean()
    rows, setups, lost = [], [], []
    for side, own in results.items():
        first, tuned, ours = own[0]["stages"], mean.loc[side, "finetuned"], mean.loc[OURS, "finetuned"]
        times = [f"{seconds.at[side, stage]:.0f} s ({ratio.at[side, stage]:.2f})" for stage in (*STAGES, "both")]
        learns = [f"{one['learnt']:,} ({one['learnt'] / one['parameters']:.1%})" for one in first.values()]
        rates = " / ".join(f"{one['rate']:g}" if one["rate"] else "-" for one in first.values())
        scores = [f"{tuned['val_log_loss']:.4f}", f"{tuned['log_loss']:.4f}"]
        scores += [f"{mean.at[(side, stage), 'accuracy']:.2%}" for stage in STAGES]
        rows.append([side, *times, *learns, rates, *scores, f"{statistics.median(run['peak'] for run in own):,.0f} MB"])
        versions = ", ".join(f"{name} {version}" for name, version in own[0]["versions"].items())
        setups.append(f"- {side}: {'; '.join(f'{name}: {value}' for name, value in own[0]['settings'].items())}; {versions}")
        better = {"seconds": ratio.at[side, "both"] < 1, "test accuracy": tuned["accuracy"] > ours["accuracy"]}
        better |= {name: tuned[name] < ours[name] for name in ("val_log_loss", "log_loss")}
        lost += [f"{side} is better in {name}" for name, is_better in better.items() if is_better]
    head = ["", "frozen (ratio to ours)", "fine-tuning", "both", "learns, frozen", "learns, fine-tuning", "learning rates"]
    head += ["val log-loss", "test log-loss", "accuracy, frozen", "accuracy, fine-tuned", "peak memory"]
    return "\n\n".join([markdown(head, rows), f"{'; '.join(lost) or 'No side is better in anything'}.", "\n".join(setups)])


if __name__ == "__main__":
    run_command(
        __doc__,
        compare,
        backbone={"default": "tf_efficientnet_lite0", "help": "timm's name"},
        weights={"default": "package", "help": "package, or a safetensors file, a JSON that describes it beside it"},
        photos={"type": int, "help": "a sample of about so many training photos; all where it is left out"},
        epochs_frozen={"type": int, "default": 2},
        epochs_unfrozen={"type": int, "default": 2},
        repeats={"type": int, "default": 2},
        seed={"type": int, "default": 0, "help": "of the sample and of the first repeat"},
        threads={"type": int, "default": usable_cores(), "help": "one a core where it is left out"},
        sides={"nargs": "+", "choices": SCRIPTS, "default": list(SCRIPTS), "metavar": "SIDE", "help": ", ".join(SCRIPTS)},
    )
