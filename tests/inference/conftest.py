"""A small run of all five stages, to predict with."""

from pathlib import Path

import pytest

from pipeline.inference import Classifier
from pipeline.params import load_params
from pipeline.stages import download, evaluate, preprocess, train_frozen_backbone, unfreeze_finetune
from tests.clones import clone, set_params

SETTINGS = {
    "download.drawn_photos": 160,
    "runtime.workers": 0,
    "unfreeze_finetune.epochs": 1,
    "unfreeze_finetune.augmented_copies": 2,
}


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone after a run on few photos."""
    folder = clone(tmp_path_factory.mktemp("clones") / "inference")
    set_params(folder, SETTINGS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        params = load_params()
        for stage in (download, preprocess, train_frozen_backbone, unfreeze_finetune, evaluate):
            stage.run(params)
    return folder


@pytest.fixture(scope="session")
def checkpoint(project: Path) -> Path:
    return project / "outputs/frozen"


@pytest.fixture(scope="session")
def classifier(checkpoint: Path) -> Classifier:
    return Classifier.load(checkpoint)


@pytest.fixture(scope="session")
def photos(project: Path) -> list[Path]:
    """The stored validation photos."""
    return sorted((project / "data/processed/images/val").rglob("*.jpg"))
