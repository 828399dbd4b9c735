"""The default run is honest transfer learning: pretrained features beat random ones, and fine-tuning beats both."""

import json
from pathlib import Path
from random import Random

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, ttest_rel

from pipeline.download.drawn import OTHER_KINDS, draw_photo
from pipeline.inference import Classifier
from tests.clones import clone, run, set_params

pytestmark = pytest.mark.slow  # minutes on two cores


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


def test_the_classifier_says_of_test_photos_what_the_evaluation_said(default: Path) -> None:
    table = pd.read_csv(default / "outputs/evaluation/predictions.csv").iloc[::8]
    classifier = Classifier.load(default / "outputs/finetuned")
    predictions = classifier.predict([default / path for path in table["path"]])
    predicted = np.array([[one.probabilities["cat"], one.probabilities["dog"]] for one in predictions])
    assert np.abs(predicted - table[["finetuned_cat", "finetuned_dog"]].to_numpy()).max() < 1e-4


@pytest.mark.parametrize("checkpoint", ["frozen", "finetuned"])
def test_what_is_no_photo_of_a_cat_or_dog_is_mostly_told(default: Path, checkpoint: Path) -> None:
    """Noise and flat colours always, drawings of other animals and things more often than not, cats and dogs hardly ever."""
    classifier = Classifier.load(default / "outputs" / checkpoint)
    random = np.random.default_rng(0)
    noise = [random.integers(0, 256, (180, 240, 3), dtype=np.uint8) for _ in range(10)]
    flat = [np.full((180, 240, 3), shade, np.uint8) for shade in range(5, 255, 25)]
    others = [draw_photo(kind, Random(f"{kind} {number}")) for kind in OTHER_KINDS for number in range(13)]
    test = sorted((default / "data/processed/images/test").rglob("*.jpg"))
    flagged = {
        name: np.mean([one.is_ood for one in classifier.predict(photos)])
        for name, photos in {"noise": noise, "flat": flat, "others": others, "test": test}.items()
    }
    assert flagged["noise"] == flagged["flat"] == 1
    assert flagged["others"] > 0.5
    assert flagged["test"] < 0.04


def test_pretrained_features_beat_random_ones(default: Path) -> None:
    """On the same validation photos, by more than the chance of a draw would allow."""
    pretrained = json.loads((default / "outputs/metrics/train-frozen-backbone.json").read_text())
    photos = json.loads((default / "outputs/metrics/preprocess.json").read_text())["val"]
    set_params(default, {"backbone.weights": "none"})
    run(default, "dvc", "repro", "train-frozen-backbone")
    random = json.loads((default / "outputs/metrics/train-frozen-backbone.json").read_text())
    right = round(pretrained["val_accuracy"] * photos)
    assert binomtest(right, photos, random["val_accuracy"]).proportion_ci(0.99).low > random["val_accuracy"] + 0.05
