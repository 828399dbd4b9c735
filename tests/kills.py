"""Kill the training stages again and again at random moments: what they end with must be the bits of an unbroken run.

    uv run python -m tests.kills --kills 200

The suite does the same with 20 kills.
"""

import argparse
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from importlib import import_module
from multiprocessing.context import ForkServerContext
from pathlib import Path

import numpy as np

from pipeline.files import sha256_of
from tests.clones import SMALL, clone, run, set_params

CHECKPOINTS = {
    "train_frozen_backbone": "outputs/frozen/model.safetensors",
    "unfreeze_finetune": "outputs/finetuned/model.safetensors",
}


def run_stage(folder: Path, stage: str) -> None:
    """What a child process does: the stage, in the clone's folder."""
    os.chdir(folder)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    from pipeline.params import load_params

    import_module(f"pipeline.stages.{stage}").run(load_params())


def killed_again_and_again(folder: Path, stage: str, kills: int, seed: int) -> str:
    """Run a stage until it has been killed `kills` times, then to its end; returns the hash of the weights it made."""
    # Started from a server that has imported torch and timm, a run that is to live for a second does not spend it on that.
    context: ForkServerContext = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"pipeline.stages.{name}" for name in CHECKPOINTS])
    rng, killed = np.random.default_rng(seed), 0
    (folder / CHECKPOINTS[stage]).unlink()
    shutil.rmtree(folder / "outputs/.features")  # so that computing and caching them is killed too
    while killed < kills:
        child = context.Process(target=run_stage, args=(folder, stage))
        child.start()
        child.join(rng.uniform(0.1, 1.5))
        if child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
            killed += 1
        child.join()
        assert child.exitcode in (0, -signal.SIGKILL), f"{stage} ended with {child.exitcode} after {killed} kills"
    last = context.Process(target=run_stage, args=(folder, stage))
    last.start()
    last.join()
    assert last.exitcode == 0
    return sha256_of(folder / CHECKPOINTS[stage])


def main() -> None:
    """The documented command."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--kills", type=int, default=200)
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = clone(Path(temporary) / "clone")
        set_params(folder, {**SMALL, "runtime.seconds_between_saves": 0})
        run(folder, "dvc", "repro")
        started = time.monotonic()
        for stage, checkpoint in CHECKPOINTS.items():
            unbroken, kills = sha256_of(folder / checkpoint), given.kills // len(CHECKPOINTS)
            same = killed_again_and_again(folder, stage, kills, given.seed) == unbroken
            print(f"{stage}: {kills} kills, {'the same bits' if same else 'OTHER BITS'}, {time.monotonic() - started:.0f} s")
            if not same:
                sys.exit(1)


if __name__ == "__main__":
    main()
