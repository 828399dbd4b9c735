"""The default run is honest transfer learning: pretrained features beat random ones, and fine-tuning beats both."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, ttest_rel

from tests.clones import clone, run, set_params


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone after the very command that a newcomer runs, nothing changed."""
    folder = clone(tmp_path_factory.mktemp("clones") / "default")
    run(folder, "dvc", "repro")
    return folder


def test_fine_tuning_beats_the_frozen_probe(default: Path) -> None:
    """More test photos are right, and the loss of each photo beside its own before shows that it is no chance."""
    table = pd.read_csv(default / "outputs/evaluation/predictions.csv")
    right = {name: (table[name] == table["actual"]).mean() for name in ("frozen", "finetuned")}
    assert right["finetuned"] > right["frozen"]
    losses = {
        name: -np.log([row[f"{name}_{row['actual']}"] for _, row in table.iterrows()]) for name in ("frozen", "finetuned")
    }
    assert ttest_rel(losses["frozen"], losses["finetuned"], alternative="greater").pvalue < 0.01


def test_pretrained_features_beat_random_ones(default: Path) -> None:
    """On the same validation photos, by more than the chance of a draw would allow."""
    pretrained = json.loads((default / "outputs/metrics/train-frozen-backbone.json").read_text())
    photos = json.loads((default / "outputs/metrics/preprocess.json").read_text())["val"]
    set_params(default, {"backbone.weights": "none"})
    run(default, "dvc", "repro", "train-frozen-backbone")
    random = json.loads((default / "outputs/metrics/train-frozen-backbone.json").read_text())
    right = round(pretrained["val_accuracy"] * photos)
    assert binomtest(right, photos, random["val_accuracy"]).proportion_ci(0.99).low > random["val_accuracy"] + 0.05
