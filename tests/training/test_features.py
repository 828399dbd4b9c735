"""What was computed of a split is kept, trusted only while whole, and never taken for another key."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from pipeline.checkpoint import Preprocessing
from pipeline.data.loader import Photos
from pipeline.params import load_params
from pipeline.runtime import resolve_runtime
from pipeline.training import features
from pipeline.training.features import Kept, run_over

PREPROCESSING = Preprocessing(
    input_size=(3, 8, 8), mean=(0, 0, 0), std=(1, 1, 1), interpolation="bilinear", crop_pct=1, crop_mode="center"
)
NUM_PHOTOS = 150


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Photos:
    folder = tmp_path_factory.mktemp("photos")
    paths = [folder / f"{number:03d}.png" for number in range(NUM_PHOTOS)]
    for number, path in enumerate(paths):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
    return Photos(tuple(path.stem for path in paths), tuple(paths), torch.zeros(NUM_PHOTOS, dtype=torch.int64))


class Means:
    """A network that gives each photo's mean red, counts the photos it sees, and may break down after some."""

    def __init__(self, breaks_after: int = NUM_PHOTOS) -> None:
        self.seen, self.breaks_after = 0, breaks_after

    def __call__(self, images: Tensor) -> Tensor:
        if self.seen >= self.breaks_after:
            raise InterruptedError
        self.seen += len(images)
        return images[:, 0].mean((1, 2))[:, None]


def extract(photos: Photos, means: Means, kept: Kept | None) -> Tensor:
    runtime = resolve_runtime(load_params().runtime.model_copy(update={"device": "cpu", "workers": 0, "threads": 2}))
    return run_over(means, photos, PREPROCESSING, runtime=runtime, description="testing", kept=kept).values


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "BATCHES_A_CHUNK", 2)


def test_nothing_is_computed_twice_and_a_broken_run_goes_on(photos: Photos, tmp_path: Path) -> None:
    expected = extract(photos, Means(), None)
    broken = Means(breaks_after=90)
    with pytest.raises(InterruptedError):
        extract(photos, broken, Kept(tmp_path, key=1))
    rest = Means()
    assert torch.equal(extract(photos, rest, Kept(tmp_path, key=1)), expected)
    assert rest.seen == NUM_PHOTOS - 64  # one chunk of two batches was whole
    again = Means()
    assert torch.equal(extract(photos, again, Kept(tmp_path, key=1)), expected)
    assert again.seen == 0


def test_another_key_computes_for_itself_and_old_keys_go(photos: Photos, tmp_path: Path) -> None:
    for key in range(features.KEYS_KEPT + 2):
        means = Means()
        extract(photos, means, Kept(tmp_path, key=key))
        assert means.seen == NUM_PHOTOS
    assert len(list(tmp_path.iterdir())) == features.KEYS_KEPT


def test_a_damaged_chunk_and_those_after_it_are_computed_again(photos: Photos, tmp_path: Path) -> None:
    expected = extract(photos, Means(), Kept(tmp_path, key=1))
    second = sorted(tmp_path.glob("*/*-*"))[1]
    second.write_bytes(second.read_bytes()[:-1])
    means = Means()
    assert torch.equal(extract(photos, means, Kept(tmp_path, key=1)), expected)
    assert means.seen == NUM_PHOTOS - 64
