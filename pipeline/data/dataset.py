"""From stored photos to batches of tensors, decoded ahead of those who ask for them.

    photos = Photos.of_split(manifest, Path("data/processed"), "train", classes)
    for images, labels in evaluation_batches(photos, transform, batch_size=32, workers=2): ...
    for images, labels in training_batches(photos, transform, seed=0, epoch=3, batch_size=32, workers=2): ...

Nothing about order is state: the permutation is a function of (seed, epoch), and a photo's augmentation of (seed, epoch, id).

Photos for evaluation are decoded by threads: what decodes and resizes lets go of Python's lock, and nothing is copied from one
process to another. Photos for training are changed by Python code, which holds that lock, so processes load them.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipeline.checkpoint import DataFingerprints
from pipeline.data.manifest import fingerprint
from pipeline.errors import PipelineError

Batch = tuple[Tensor, Tensor]

BATCHES_AHEAD = 2  # of each worker, as torch's DataLoader has it


@dataclass(frozen=True)
class Photos:
    """Photos of one split, ordered by id: `labels[i]` is the index of photo i's class."""

    ids: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: Tensor  # (n,) int64

    @classmethod
    def of_split(cls, manifest: pd.DataFrame, processed: Path, split: str, classes: tuple[str, ...]) -> Self:
        """The manifest's photos of a split, as they lie under `processed`/images."""
        rows = manifest[manifest["split"] == split].sort_values("id")
        paths = [
            processed / "images" / split / name / f"{photo}.jpg" for photo, name in zip(rows["id"], rows["class"], strict=True)
        ]
        labels = torch.tensor([classes.index(name) for name in rows["class"]], dtype=torch.int64)
        return cls(tuple(rows["id"]), tuple(paths), labels)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, part: slice) -> "Photos":
        return Photos(self.ids[part], self.paths[part], self.labels[part])


def data_fingerprints(manifest: pd.DataFrame) -> DataFingerprints:
    """What a checkpoint remembers of the photos it was made from."""
    return DataFingerprints(
        manifest=fingerprint(manifest), train=fingerprint(manifest, "train"), val=fingerprint(manifest, "val")
    )


def epoch_order(num_photos: int, *, seed: int, epoch: int) -> np.ndarray:
    """The order in which an epoch takes the photos: a permutation of range(num_photos), a function of (seed, epoch) alone."""
    return np.random.default_rng([seed, epoch]).permutation(num_photos)


def evaluation_batches(
    photos: Photos,
    transform: Callable[[Image.Image], np.ndarray],
    *,
    batch_size: int,
    workers: int,
    rank: int = 0,
    processes: int = 1,
    pinned: bool = False,
) -> Iterator[Batch]:
    """Every photo once, in the order of ids: images (n, height, width, channels) uint8, labels (n,) int64.

    In plain torch: `DataLoader(dataset, batch_size=batch_size, num_workers=workers, pin_memory=pinned)`, with threads for the
    worker processes.

    Args:
        photos: of one split.
        transform: PIL image -> (height, width, channels) uint8, such as `evaluation_pixels`.
        batch_size: photos a batch; the last may be smaller.
        workers: threads that decode, each up to `BATCHES_AHEAD` batches ahead; 0: the caller's own, when it asks.
        rank, processes: of several processes each takes whole batches in turn, so that a batch is what it is in one.
        pinned: whether batches lie in memory that a GPU reads by itself, while it computes another.
    """

    def load(places: list[int]) -> Batch:
        images = torch.from_numpy(np.stack([transform(_opened(photos.paths[place])) for place in places]))
        return images.pin_memory() if pinned else images, photos.labels[places]

    batches = _in_batches(range(len(photos)), batch_size)[rank::processes]
    if workers == 0:
        return map(load, batches)
    # A new thread takes a GPU of its own choice to pin memory for.
    same_device = partial(torch.cuda.set_device, torch.cuda.current_device()) if pinned else None
    return _by_threads(load, batches, ThreadPoolExecutor(workers, "decoding", same_device), ahead=BATCHES_AHEAD * workers)


def training_batches(
    photos: Photos,
    transform: Callable[[Image.Image, int, str], np.ndarray],
    *,
    seed: int,
    epoch: int,
    batch_size: int,
    workers: int,
    start: int = 0,
    rank: int = 0,
    processes: int = 1,
    pinned: bool = False,
) -> DataLoader[Batch]:
    """Every photo once, in the epoch's order; images (n, height, width, channels) uint8, the last batch may be smaller.

    `start` leaves out as many photos at the front: those that a run took before it was stopped. Of several processes each
    takes its share of every batch; one for which the last batch has none left repeats a photo, so that all make the same
    number of steps.
    """
    order = epoch_order(len(photos), seed=seed, epoch=epoch)[start:].tolist()
    shares = shares_of_batches(order, batch_size, rank, processes)
    return _by_processes(_TrainingDataset(photos, transform, epoch), shares, workers, pinned)


def view_batches(
    photos: Photos,
    transform: Callable[[Image.Image, int, str], np.ndarray],
    *,
    view: int,
    batch_size: int,
    workers: int,
    rank: int = 0,
    processes: int = 1,
    pinned: bool = False,
) -> DataLoader[Batch]:
    """Every photo once, in the order of ids, changed as epoch `view` changes it; shared out as by `evaluation_batches`."""
    batches = _in_batches(range(len(photos)), batch_size)[rank::processes]
    return _by_processes(_TrainingDataset(photos, transform, view), batches, workers, pinned)


def shares_of_batches(order: list[int], batch_size: int, rank: int, processes: int) -> list[list[int]]:
    """A process's share of every batch; one for which the last batch has none left repeats a photo of it."""
    return [list(batch[rank::processes] or batch[:1]) for batch in _in_batches(order, batch_size)]


class _TrainingDataset(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, photos: Photos, transform: Callable[[Image.Image, int, str], np.ndarray], epoch: int) -> None:
        self._photos, self._transform, self._epoch = photos, transform, epoch

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = _opened(self._photos.paths[index])
        return torch.from_numpy(self._transform(image, self._epoch, self._photos.ids[index])), self._photos.labels[index]


def _opened(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError:
        raise PipelineError(f"{path} cannot be decoded. Store the photos anew with: dvc repro --force preprocess") from None


def _in_batches(order: Sequence[int], batch_size: int) -> list[list[int]]:
    return [list(order[start : start + batch_size]) for start in range(0, len(order), batch_size)]


def _by_threads(
    load: Callable[[list[int]], Batch], batches: list[list[int]], pool: ThreadPoolExecutor, *, ahead: int
) -> Iterator[Batch]:
    """The batches in order, each made whole by one thread, so many of them ahead."""
    begun: deque[Future[Batch]] = deque()
    try:
        for places in batches:
            begun.append(pool.submit(load, places))
            if len(begun) > ahead:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:  # also where the caller takes no more of them
        pool.shutdown(cancel_futures=True)


def _by_processes(dataset: Dataset[Any], batches: list[list[int]], workers: int, pinned: bool) -> DataLoader[Batch]:
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        pin_memory=pinned,  # so that a GPU fetches a batch by itself while it computes another
        worker_init_fn=_one_thread,
        # Of its own, so that iterating draws nothing from torch's global generator, which dropout reads.
        generator=torch.Generator(),
    )


def _one_thread(worker: int) -> None:
    """Workers run beside each other and beside the training: more threads each would only contend."""
    torch.set_num_threads(1)
