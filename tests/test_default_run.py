"""The default run is honest transfer learning: pretrained features beat random ones, and fine-tuning beats both."""

import json
import re
from pathlib import Path
from random import Random

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, ttest_1samp, ttest_rel

from pipeline.download.drawn_photo import OTHER_KINDS, draw_photo
from pipeline.inference import Classifier
from tests.clones import clone, run, set_params

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # minutes on two cores
LONGEST = 1200


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone after the very command that a newcomer runs, nothing changed."""
    folder = clone(tmp_path_factory.mktemp("clones") / "default")
    run(folder, "dvc", "repro", longest=LONGEST)
    return folder


def _log_losses(folder: Path) -> dict[str, np.ndarray]:
    """Of each test photo by each checkpoint."""
    table = pd.read_csv(folder / "outputs/evaluation/predictions.csv")
    return {name: -np.log([row[f"{name}_{row['actual']}"] for _, row in table.iterrows()]) for name in ("frozen", "finetuned")}


def test_fine_tuning_beats_the_frozen_probe(default: Path) -> None:
    """More test photos are right, and the loss of each photo beside its own before shows that it is no chance."""
    table = pd.read_csv(default / "outputs/evaluation/predictions.csv")
    right = {name: (table[name] == table["actual"]).mean() for name in ("frozen", "finetuned")}
    assert right["finetuned"] > right["frozen"]
    losses = _log_losses(default)
    assert ttest_rel(losses["frozen"], losses["finetuned"], alternative="greater").pvalue < 0.05


def test_fine_tuning_gains_on_many_test_photos_whatever_the_seed(tmp_path: Path) -> None:
    """Three seeds, 1,800 test photos: the 95% interval of the mean gain in log-loss, photo by photo, lies above zero."""
    folder, gains = clone(tmp_path / "many"), []
    splits = {"preprocess.train": 0.28, "preprocess.val": 0.12, "preprocess.test": 0.6}
    for seed in range(3):
        set_params(folder, {"download.drawn_photos": 3000, **splits, "unfreeze_finetune.seed": seed})
        run(folder, "dvc", "repro", longest=LONGEST)
        losses = _log_losses(folder)
        gains.append(losses["frozen"] - losses["finetuned"])
    assert len(gains[0]) >= 1500
    assert ttest_1samp(np.mean(gains, axis=0), 0.0).confidence_interval(0.95).low > 0


@pytest.mark.parametrize("checkpoint", ["frozen", "finetuned"])
def test_what_is_no_photo_of_a_cat_or_dog_is_mostly_out_of_distribution(default: Path, checkpoint: Path) -> None:
    """Noise always, drawings of other things often, cats and dogs hardly ever."""
    classifier = Classifier.load(default / "outputs" / checkpoint)
    random = np.random.default_rng(0)
    noise = [random.integers(0, 256, (180, 240, 3), dtype=np.uint8) for _ in range(10)]
    others = [draw_photo(kind, Random(f"{kind} {number}")) for kind in OTHER_KINDS for number in range(13)]
    test = sorted((default / "data/processed/images/test").rglob("*.jpg"))
    flagged = {
        name: np.mean([one.is_ood for one in classifier.predict(photos)])
        for name, photos in {"noise": noise, "others": others, "test": test}.items()
    }
    assert flagged["noise"] == 1
    assert flagged["others"] > {"frozen": 0.5, "finetuned": 0.4}[checkpoint]
    assert flagged["test"] < {"frozen": 0.05, "finetuned": 0.04}[checkpoint]


def test_pretrained_features_beat_random_ones(default: Path) -> None:
    """On the same validation photos, by more than the chance of a draw would allow."""
    pretrained = json.loads((default / "outputs/metrics/train-frozen-backbone.json").read_text())
    photos = json.loads((default / "outputs/metrics/preprocess.json").read_text())["val"]
    set_params(default, {"backbone.weights": "none"})
    run(default, "dvc", "repro", "train-frozen-backbone", longest=LONGEST)
    random = json.loads((default / "outputs/metrics/train-frozen-backbone.json").read_text())
    right = round(pretrained["val_accuracy"] * photos)
    assert binomtest(right, photos, random["val_accuracy"]).proportion_ci(0.99).low > random["val_accuracy"] + 0.05


def test_the_whole_job_on_one_page_gives_the_same_numbers(default: Path) -> None:
    printed = run(default, "python", "examples/whole_job.py", longest=LONGEST).stdout
    found = re.search(r"test: accuracy ([\d.]+), log-loss ([\d.]+)", printed)
    assert found
    metrics = json.loads((default / "outputs/evaluation/metrics.json").read_text())["finetuned"]
    assert float(found[1]) == pytest.approx(metrics["accuracy"], abs=1e-4)
    assert float(found[2]) == pytest.approx(metrics["log_loss"], abs=2e-4)
