"""From stored photos to batches of pixels, decoded ahead of those who ask for them.

Nothing about order is state: the permutation is a function of (seed, epoch), and a photo's augmentation of (seed, epoch, id).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipeline.checkpoint import DataFingerprints
from pipeline.data.ahead import ahead
from pipeline.data.manifest import fingerprint
from pipeline.errors import PipelineError

Places = Iterable[Sequence[int]]  # of the photos of each batch
Batch = tuple[Tensor, Tensor]
Transform = Callable[[Image.Image, str], np.ndarray]  # photo and its id -> (height, width, channels) uint8

BATCHES_AHEAD = 2  # of each worker, as torch's DataLoader has it


@dataclass(frozen=True)
class Photos:
    """Photos of one split, ordered by id: `labels[i]` is the index of photo i's class."""

    ids: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: Tensor  # (n,) int64
    groups: tuple[str, ...]  # equal where photos look alike

    @classmethod
    def of_split(cls, manifest: pd.DataFrame, processed: Path, split: str, classes: tuple[str, ...]) -> Self:
        """The manifest's photos of a split, as they lie under `processed`/images."""
        rows = manifest[manifest["split"] == split].sort_values("id")
        folder = processed / "images" / split
        paths = folder.as_posix() + "/" + rows["class"] + "/" + rows["id"] + ".jpg"
        labels = torch.tensor([classes.index(name) for name in rows["class"]], dtype=torch.int64)
        return cls(tuple(rows["id"]), tuple(map(Path, paths)), labels, tuple(rows["group"]))

    def __len__(self) -> int:
        return len(self.ids)

    def at(self, places: Sequence[int]) -> "Photos":
        """Some of the photos, in the order of `places`."""
        ids, paths, groups = zip(*((self.ids[i], self.paths[i], self.groups[i]) for i in places), strict=True)
        return Photos(ids, paths, self.labels[list(places)], groups)


def data_fingerprints(manifest: pd.DataFrame) -> DataFingerprints:
    """What a checkpoint remembers of the photos it was made from."""
    return DataFingerprints(
        manifest=fingerprint(manifest), train=fingerprint(manifest, "train"), val=fingerprint(manifest, "val")
    )


def epoch_order(num_photos: int, *, seed: int, epoch: int) -> list[int]:
    """The order in which an epoch takes the photos: a permutation of range(num_photos), a function of (seed, epoch) alone."""
    return np.random.default_rng([seed, epoch]).permutation(num_photos).tolist()


def in_batches(order: Sequence[int], batch_size: int) -> list[list[int]]:
    """Consecutive places in batches; the last may be smaller."""
    return [list(order[start : start + batch_size]) for start in range(0, len(order), batch_size)]


def load_batches(
    photos: Photos, transform: Transform, batches: Places, *, workers: int, by_processes: bool = False, pinned: bool = False
) -> Iterator[Batch]:
    """Pixels (n, height, width, channels) uint8 and labels (n,) int64 of each batch of places, in order.

    Threads load photos for evaluation: what decodes and resizes releases Python's lock, and nothing is copied from one process
    to another. Augmentation is Python code, which holds that lock, so for training processes of torch's DataLoader load them,
    and `transform` must be picklable. Each of the `workers` is up to `BATCHES_AHEAD` batches ahead; without any, a batch is
    loaded when the caller asks for it. `pinned` batches lie in memory that a GPU reads by itself. A PipelineError says that a
    stored photo cannot be decoded any more.
    """
    dataset = _Batches(photos, transform, list(batches))
    if by_processes and workers:
        # An item is a batch. Without a generator of its own, iterating draws from torch's global one, which dropout reads.
        loader = DataLoader(dataset, batch_size=None, num_workers=workers, pin_memory=pinned, generator=torch.Generator())
        return map(_or_raise, loader)

    def load(number: int) -> Batch:
        pixels, labels = _or_raise(dataset[number])
        return pixels.pin_memory() if pinned else pixels, labels

    if not workers:
        return map(load, range(len(dataset)))
    # A new thread takes a GPU of its own choice to pin memory for.
    same_device = partial(torch.cuda.set_device, torch.cuda.current_device()) if pinned else None
    return ahead(load, range(len(dataset)), workers, BATCHES_AHEAD * workers, same_device)


@dataclass(frozen=True)
class _Batches(Dataset[Batch | PipelineError]):
    """An error is given, not raised: torch would raise that of a process again with its traceback in the message."""

    photos: Photos
    transform: Transform
    places: Sequence[Sequence[int]]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> Batch | PipelineError:
        places = self.places[number]
        try:
            pixels = np.stack([self._pixels(place) for place in places])
        except PipelineError as error:
            return error
        return torch.from_numpy(pixels), self.photos.labels[list(places)]

    def _pixels(self, place: int) -> np.ndarray:
        path = self.photos.paths[place]
        try:
            with Image.open(path) as image:
                rgb = image.convert("RGB")
        except OSError:
            raise PipelineError(f"{path} cannot be decoded. Store the photos anew with: dvc repro --force preprocess") from None
        return self.transform(rgb, self.photos.ids[place])


def _or_raise(batch: Batch | PipelineError) -> Batch:
    if isinstance(batch, PipelineError):
        raise batch
    return batch
