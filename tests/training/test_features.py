"""What was computed of a split is kept, trusted only while whole, and never taken for another key."""

import threading
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from pipeline.checkpoint import Preprocessing
from pipeline.data.dataset import Photos
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
        return images[..., 0].float().mean((1, 2))[:, None]


def extract(photos: Photos, means: Means, kept: Kept | None) -> Tensor:
    runtime = resolve_runtime(load_params().runtime.model_copy(update={"device": "cpu", "workers": 0, "threads": 2}))
    return run_over(means, photos, PREPROCESSING, runtime=runtime, description="testing", kept=kept).values


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "PHOTOS_A_CHUNK", 64)


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


def test_order_is_kept_where_later_batches_are_done_first(photos: Photos) -> None:
    expected, means, started = extract(photos, Means(), None), Means(), threading.Event()

    class FirstWaits(Means):
        def __call__(self, images: Tensor) -> Tensor:
            if int(images[0, ..., 0].max()) == 0:  # the first photo's red
                assert started.wait(60), "no batch was begun before the first was done"
            else:
                started.set()
            return means(images)

    assert torch.equal(extract(photos, FirstWaits(), None), expected)


def test_a_device_that_works_by_itself_gets_one_batch_ahead_and_gives_the_same() -> None:
    told: list[str] = []

    def run_batch(images: Tensor) -> tuple[Tensor, ...]:
        told.append(f"begun {int(images[0, 0])}")
        return (2 * images,)

    batches = [(torch.full((2, 1), float(number)), torch.zeros(2)) for number in range(4)]
    for number, (values,) in enumerate(features._some_ahead(run_batch, batches, by_itself=True)):
        told.append(f"taken {number}")
        assert torch.equal(values, 2 * batches[number][0])
    assert told == ["begun 0", "begun 1", "taken 0", "begun 2", "taken 1", "begun 3", "taken 2", "taken 3"]


def test_what_is_given_beside_is_kept_and_not_returned(photos: Photos, tmp_path: Path) -> None:
    means, runtime = Means(), resolve_runtime(load_params().runtime.model_copy(update={"device": "cpu", "workers": 0}))

    def both(images: Tensor) -> tuple[Tensor, Tensor]:
        values = means(images)
        return values, 2 * values

    kept, beside = Kept(tmp_path, part=1), Kept(tmp_path, part=2)
    found = run_over(both, photos, PREPROCESSING, runtime=runtime, description="testing", kept=kept, beside=beside)
    assert torch.equal(torch.cat(kept.read()), found.values)
    assert torch.equal(torch.cat(beside.read()), 2 * found.values)


def test_a_kill_between_the_two_leaves_no_gap_beside(photos: Photos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, beside = Kept(tmp_path, part=1), Kept(tmp_path, part=2)
    runtime = resolve_runtime(load_params().runtime.model_copy(update={"device": "cpu", "workers": 0}))

    def extract_both(means: Means) -> Tensor:
        def both(images: Tensor) -> tuple[Tensor, Tensor]:
            values = means(images)
            return values, 2 * values

        return run_over(both, photos, PREPROCESSING, runtime=runtime, description="testing", kept=kept, beside=beside).values

    add = Kept.add

    def killed_after(folder: Kept, number: int, values: Tensor) -> None:
        add(folder, number, values)
        if number == 1:
            raise InterruptedError

    monkeypatch.setattr(Kept, "add", killed_after)
    with pytest.raises(InterruptedError):
        extract_both(Means())
    monkeypatch.setattr(Kept, "add", add)
    values = extract_both(Means())
    assert torch.equal(torch.cat(beside.read()), 2 * values)
    assert torch.equal(torch.cat(kept.read()), values)
