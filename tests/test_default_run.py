"""The default run is honest transfer learning: pretrained features beat random ones, and fine-tuning beats both."""

import json
import sys
import time
from pathlib import Path

import pytest
from scipy.stats import binomtest

from tests.clones import clone, run, set_params


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone after the very command that a newcomer runs, nothing changed."""
    folder = clone(tmp_path_factory.mktemp("clones") / "default")
    started = time.monotonic()
    run(folder, "dvc", "repro")
    print(f"dvc repro took {time.monotonic() - started:.0f} s", file=sys.stderr)
    return folder


def predictions(folder: Path) -> dict[str, list[bool]]:
    """Checkpoint -> whether each test photo was right."""
    import pandas as pd

    table = pd.read_csv(folder / "outputs/evaluation/predictions.csv")
    return {name: (table[name] == table["actual"]).tolist() for name in ("frozen", "finetuned")}


def test_fine_tuning_beats_the_frozen_probe(default: Path) -> None:
    """McNemar's exact test: of the photos that one of the two gets right and the other wrong, more are fine-tuning's."""
    right = predictions(default)
    pairs = list(zip(right["frozen"], right["finetuned"], strict=True))
    gained, lost = pairs.count((False, True)), pairs.count((True, False))
    assert gained > lost
    assert binomtest(gained, gained + lost, alternative="greater").pvalue < 0.05


def test_pretrained_features_beat_random_ones(default: Path) -> None:
    """On the same validation photos, by more than the chance of a draw would allow."""
    pretrained = json.loads((default / "outputs/metrics/train-frozen-backbone.json").read_text())
    photos = json.loads((default / "outputs/metrics/preprocess.json").read_text())["val"]
    set_params(default, {"backbone.weights": "none"})
    run(default, "dvc", "repro", "train-frozen-backbone")
    random = json.loads((default / "outputs/metrics/train-frozen-backbone.json").read_text())
    right = round(pretrained["val_accuracy"] * photos)
    assert binomtest(right, photos, random["val_accuracy"]).proportion_ci(0.99).low > random["val_accuracy"] + 0.05
