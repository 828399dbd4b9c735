"""Batches of stored photos: in order, decoded ahead, and augmented as a function of (seed, epoch, photo) alone."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pipeline.data.dataset import BATCHES_AHEAD, Photos, epoch_order, in_batches, load_batches
from pipeline.data.transforms import AUGMENTATIONS, TrainingTransform, evaluation_pixels, evaluation_transform, normalise
from pipeline.training.activations import augmented
from pipeline.training.features import evaluation
from tests.refusals import refused
from tests.training import tiny

PREPROCESSING = tiny.PREPROCESSING.model_copy(update={"input_size": (3, 32, 32), "std": (0.25,) * 3, "crop_pct": 0.9})


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Photos:
    return tiny.photos(tmp_path_factory.mktemp("photos"), 22)


def by_photo(photos: Photos, *, seed: int, epoch: int, workers: int, augmentation: str = "strong") -> dict[str, Tensor]:
    """Photo id -> its pixels in one epoch."""
    order = epoch_order(len(photos), seed=seed, epoch=epoch)
    transform = augmented(PREPROCESSING, augmentation, seed, epoch)
    batches = load_batches(photos, transform, in_batches(order, 4), workers=workers, by_processes=True)
    pixels = torch.cat([images for images, _ in batches])
    return {photos.ids[index]: image for index, image in zip(order, pixels, strict=True)}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
@pytest.mark.parametrize("workers", [1, 4])
def test_workers_change_nothing(photos: Photos, workers: int) -> None:
    assert same(by_photo(photos, seed=1, epoch=2, workers=0), by_photo(photos, seed=1, epoch=2, workers=workers))


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_a_photo_alone_is_augmented_as_in_an_epoch(photos: Photos, augmentation: str) -> None:
    pixels = by_photo(photos, seed=3, epoch=5, workers=0, augmentation=augmentation)
    transform = TrainingTransform(PREPROCESSING, augmentation, 3)
    for index in (7, 2, 11):  # another order than the epoch's, by a transform without a past
        alone = transform(Image.open(photos.paths[index]), photos.ids[index], 5)
        assert torch.equal(torch.from_numpy(alone), pixels[photos.ids[index]])


@pytest.mark.parametrize(("mode", "seen"), [("center", {2}), ("squash", {3}), ("border", {4})])
def test_a_crop_for_training_is_of_what_evaluation_sees(monkeypatch: pytest.MonkeyPatch, mode: str, seen: set[int]) -> None:
    """Of a long photo in three colours the middle one and one end, all three, or those with the colour of the borders."""
    monkeypatch.setitem(AUGMENTATIONS, "none", AUGMENTATIONS["light"]._replace(least_area=0.97))
    preprocessing = PREPROCESSING.model_copy(update={"crop_mode": mode, "crop_pct": 1.0})
    transform = TrainingTransform(preprocessing, "none", 0)
    photo = Image.new("RGB", (300, 60))
    for place, colour in enumerate(("red", "lime", "blue")):
        photo.paste(colour, (100 * place, 0, 100 * place + 100, 60))
    numbers = set()
    for epoch in range(5):
        levels = transform(photo, "cat.0", epoch).reshape(-1, 3) // 86  # 0, 1 or 2: low, that of the borders, high
        counts = np.unique(levels, axis=0, return_counts=True)[1]
        numbers.add(int((counts > len(levels) // 20).sum()))
    assert numbers <= seen if mode != "center" else max(numbers) <= 2


def test_seed_and_epoch_change_photos_and_order(photos: Photos) -> None:
    first = by_photo(photos, seed=1, epoch=1, workers=0)
    for seed, epoch in ((1, 2), (2, 1)):
        assert not same(first, by_photo(photos, seed=seed, epoch=epoch, workers=0))
        assert epoch_order(22, seed=1, epoch=1) != epoch_order(22, seed=seed, epoch=epoch)


def test_every_photo_comes_once_with_its_own_label(photos: Photos) -> None:
    order = epoch_order(len(photos), seed=0, epoch=1)
    assert sorted(order) == list(range(len(photos)))
    transform = augmented(PREPROCESSING, "light", 0, 1)
    batches = list(load_batches(photos, transform, in_batches(order, 4), workers=0, by_processes=True))
    assert [len(labels) for _, labels in batches] == [4, 4, 4, 4, 4, 2]
    assert torch.equal(torch.cat([labels for _, labels in batches]), photos.labels[order])
    assert all(images.dtype == torch.uint8 and images.shape[1:] == (32, 32, 3) for images, _ in batches)


def test_loading_leaves_torchs_global_generator_alone(photos: Photos) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    by_photo(photos, seed=0, epoch=1, workers=1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_photos_for_evaluation_are_those_of_timms_transform(photos: Photos, workers: int) -> None:
    assert list(photos.ids) == sorted(photos.ids)
    transform = evaluation_transform(PREPROCESSING)
    expected = torch.stack([transform(Image.open(path)) for path in photos.paths])
    batches = list(load_batches(photos, evaluation(PREPROCESSING), in_batches(range(22), 5), workers=workers))
    assert [len(labels) for _, labels in batches] == [5, 5, 5, 5, 2]
    assert torch.equal(torch.cat([labels for _, labels in batches]), photos.labels)
    assert torch.equal(torch.cat([normalise(images, PREPROCESSING) for images, _ in batches]), expected)


def test_some_of_the_photos(photos: Photos) -> None:
    some = photos.at([3, 0])
    assert some.ids == (photos.ids[3], photos.ids[0])
    assert torch.equal(some.labels, photos.labels[[3, 0]])


def test_a_photo_that_cannot_be_read_is_reported_at_its_turn_and_ends_the_threads(photos: Photos, tmp_path: Path) -> None:
    paths = (*photos.paths[:9], tmp_path / "missing.jpg", *photos.paths[10:])
    broken = replace(photos, paths=paths)
    batches = load_batches(broken, evaluation(PREPROCESSING), in_batches(range(22), 3), workers=2)
    for number in range(3):
        assert torch.equal(next(batches)[1], photos.labels[3 * number : 3 * number + 3])
    refused(r"missing\.jpg cannot be decoded", next, batches)
    assert not decoding()


def test_a_process_that_loads_photos_gives_the_reason_alone(photos: Photos, tmp_path: Path) -> None:
    broken = replace(photos, paths=(tmp_path / "missing.jpg", *photos.paths[1:]))
    loaded = load_batches(broken, augmented(PREPROCESSING, "light", 0, 1), [[0, 1]], workers=1, by_processes=True)
    refused(rf"^{tmp_path}/missing\.jpg cannot be decoded", list, loaded)


def test_batches_that_are_not_taken_are_not_decoded(photos: Photos) -> None:
    decoded: list[str] = []

    def transform(image: Image.Image, photo_id: str) -> np.ndarray:
        decoded.append(photo_id)
        return evaluation_pixels(PREPROCESSING)(image)

    batches = load_batches(photos, transform, in_batches(range(22), 1), workers=1)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert len(decoded) <= 1 + BATCHES_AHEAD + 1 < len(photos)
    assert not decoding()


def decoding() -> list[str]:
    """Threads that decode photos at this moment."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("decoding")]
