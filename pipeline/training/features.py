"""Features and activations of photos: computed once by the fastest backend, and cached on disk.

What frozen layers compute of a photo is the same in every epoch and in every stage, so it is computed once. The cache
(outputs/.features) is no stage's output: without it the same bits are computed again, and nothing but time is lost. A run
that is killed goes on with the photos that it had not come to.
"""

import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from pipeline.checkpoint import Preprocessing
from pipeline.data.ahead import ahead
from pipeline.data.dataset import Batch, Photos, Transform, in_batches, load_batches
from pipeline.data.transforms import evaluation_pixels, normalise
from pipeline.errors import PipelineError
from pipeline.files import sha256_of, write_atomically, write_hashed
from pipeline.models.backends import Backend, build_backend
from pipeline.progress import progress, say
from pipeline.runtime import ResolvedRuntime, broadcast, gather

BATCH_SIZE, GPU_BATCH_SIZE = 32, 128  # a GPU that takes 32 photos is done before the processor has given it the next
CHUNK = 2048  # photos, of each process
BATCHES_AT_A_TIME = 2
# The newest keys of the cache stay, up to so many bytes in all. Activations of all augmented copies that would take more than
# half of it are not cached but computed again for each batch: a rule by size alone, because what is free would not repeat.
MAX_CACHE_BYTES = 32 * 2**30


def batch_size_on(device: torch.device) -> int:
    """How many photos a network is given at a time."""
    return GPU_BATCH_SIZE if device.type == "cuda" else BATCH_SIZE


def cache_key(parts: Mapping[str, Any]) -> str:
    """16 hexadecimal digits from everything that decides a result: the one way in which keys are made."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


class ChunkedTensor:
    """Outputs of a network for the photos of a split, (n, ...), in chunks that may lie on disk (memory-mapped)."""

    def __init__(self, chunks: Sequence[Tensor]) -> None:
        self.chunks = list(chunks)
        self._ends = np.cumsum([len(chunk) for chunk in self.chunks])

    def tensor(self) -> Tensor:
        """All of it in memory."""
        return torch.cat(self.chunks)

    def rows(self, places: Sequence[int]) -> Tensor:
        """Some photos' outputs, (len(places), ...)."""
        numbers = np.searchsorted(self._ends, places, side="right").tolist()
        # Counted from the end of its chunk, a place is negative.
        return torch.stack([self.chunks[n][place - self._ends[n]] for n, place in zip(numbers, places, strict=True)])


class FeatureCache:
    """Outputs for the first photos of a split, in chunks under `folder`/KEY, with KEY a hash of everything that decides them.

    A damaged chunk, and those after it, are computed again.
    """

    def __init__(self, folder: Path, **parts: Any) -> None:
        self._folder = folder / cache_key(parts)

    def read(self) -> list[Tensor]:
        """The whole chunks, in order and without a gap, memory-mapped."""
        chunks: list[Tensor] = []
        for path in sorted(self._folder.glob("*-*")):
            number, _, sha256 = path.name.partition("-")
            if int(number) != len(chunks) or sha256_of(path) != sha256:
                say(f"{path} is damaged, or follows one that is; it is computed again")
                path.unlink(missing_ok=True)  # several processes may come upon it
                continue
            chunks.append(torch.from_numpy(np.load(path, mmap_mode="c")))
        if chunks:
            self._folder.touch()  # the newest keys stay
        return chunks

    def add(self, number: int, values: Tensor) -> Tensor:
        """Write chunk `number` atomically; returns it memory-mapped."""
        buffer = io.BytesIO()
        np.save(buffer, values.contiguous().numpy())
        path = write_hashed(self._folder, f"{number:06d}", buffer.getvalue())
        self._remove_oldest()
        return torch.from_numpy(np.load(path, mmap_mode="c"))

    def _remove_oldest(self) -> None:
        size = 0
        for key in sorted(self._folder.parent.iterdir(), key=lambda key: key.stat().st_mtime, reverse=True):
            size += sum(file.stat().st_size for file in key.iterdir())
            if size > MAX_CACHE_BYTES and key != self._folder:
                shutil.rmtree(key)


def write_features(file: Path, features: Tensor) -> None:
    """Write features (n, width) as a .npy file, scaled to length 1 and in float16: for `nearest`, to which no more matters."""
    buffer = io.BytesIO()
    np.save(buffer, normalize(features).half().numpy())
    write_atomically(file, buffer.getbuffer())


def nearest(features: Tensor, file: Path, count: int) -> tuple[Tensor, Tensor]:
    """Cosine similarities and places of the `count` nearest of the features in a file to each of (n, width): two (n, count)."""
    try:
        others = torch.from_numpy(np.load(file)).float()
    except (FileNotFoundError, ValueError) as error:
        raise PipelineError(f"{file} cannot be used ({error}). Make it again with: dvc repro") from None
    found = (normalize(features) @ others.T).topk(min(count, len(others)))
    return found.values, found.indices


class FromPixels(nn.Module):
    """A network with the normalisation before it, because inside a backend's graph that costs little."""

    module: Any

    def __init__(self, module: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.module, self._preprocessing = module, preprocessing

    def forward(self, pixels: Tensor) -> Tensor:
        """Photos as they are loaded, (n, height, width, channels) uint8 -> the network's outputs."""
        return self.module(normalise(pixels, self._preprocessing))


def evaluation(preprocessing: Preprocessing) -> Transform:
    """The evaluation transform up to normalisation, as `load_batches` takes it; for threads, because it cannot be pickled."""
    pixels = evaluation_pixels(preprocessing)
    return lambda image, photo_id: pixels(image)


def first_pixels(photos: Photos, preprocessing: Preprocessing) -> Tensor:
    """The first photos as they are loaded for evaluation: (8 or fewer, height, width, channels) uint8."""
    pixels, _ = next(load_batches(photos, evaluation(preprocessing), [range(min(8, len(photos)))], workers=0))
    return pixels


def backend_for(
    module: nn.Module, photos: Photos, preprocessing: Preprocessing, *, choice: str, runtime: ResolvedRuntime, float32: bool
) -> Backend:
    """A backend for `module` that takes photos as they are loaded, checked on the first; the rest as in `build_backend`."""
    whole, example = FromPixels(module, preprocessing).eval(), first_pixels(photos, preprocessing)
    return build_backend(whole, example, choice=choice, device=runtime.device, threads=runtime.threads, float32=float32)


def run_inference(
    run: Callable[[Tensor], Tensor | tuple[Tensor, ...]],
    photos: Photos,
    transform: Transform,
    *,
    runtime: ResolvedRuntime,
    description: str,
    caches: Sequence[FeatureCache | None] = (None,),
    by_processes: bool = False,
) -> list[ChunkedTensor]:
    """Run a network over every photo once, in the order of ids; one result for each of its outputs.

    Several processes take the batches in turns, and each ends with all outputs. A batch is the same in any number of
    processes, so the outputs are too, bit for bit, where each computes with as many threads.

    Args:
        run: (n, height, width, channels) uint8 on the device -> one output (n, ...), or a tuple of them.
        transform: of each photo; `evaluation(preprocessing)` or an augmented copy.
        caches: where each output is cached; None: nowhere.
        by_processes: whether processes load the photos, as augmentation wants it.
    """
    outputs = [cache.read() if cache else [] for cache in caches]
    # A kill between two caches leaves one longer than the other. Several processes go by what the main one found.
    count = broadcast(runtime, lambda: min(map(len, outputs)))
    outputs = [chunks[:count] for chunks in outputs]
    done, batch_size = sum(map(len, outputs[0])), batch_size_on(runtime.device)
    batches = in_batches(range(done, len(photos)), batch_size)[runtime.rank :: runtime.processes]
    loaded = load_batches(photos, transform, batches, workers=runtime.workers, by_processes=by_processes, pinned=runtime.pinned)

    def run_on_device(pixels: Tensor) -> tuple[Tensor, ...]:
        given = run(pixels.to(runtime.device, non_blocking=True))
        return (given,) if isinstance(given, Tensor) else given

    results = _ahead(run_on_device, loaded, asynchronous=runtime.device.type == "cuda")
    fresh: list[tuple[Tensor, ...]] = []
    with progress(description, total=len(photos), done=done) as advance:
        while done < len(photos):
            fresh += islice(results, 1)  # none where the last turn has too few batches
            turn = min(batch_size * runtime.processes, len(photos) - done)
            done += turn
            advance(turn)
            if len(fresh) * batch_size == CHUNK or done == len(photos):
                values = map(torch.cat, zip(*gather(runtime, fresh), strict=True))
                for part, chunks, cache in zip(values, outputs, caches, strict=True):
                    chunks.append(cache.add(len(chunks), part) if cache and runtime.is_main else part)
                fresh.clear()
    return [ChunkedTensor(chunks) for chunks in outputs]


def _ahead(
    run: Callable[[Tensor], tuple[Tensor, ...]], batches: Iterator[Batch], *, asynchronous: bool
) -> Iterator[tuple[Tensor, ...]]:
    """What `run` gives for each batch, in order, on the CPU; the next is begun before one is done, so that nothing waits.

    A GPU is asynchronous by itself. A backend on the processor needs a thread for that, which on a GPU would cost seconds:
    cuDNN plans each layer anew in every thread.
    """
    inputs = (pixels for pixels, _ in batches)
    begun = ahead(run, inputs, BATCHES_AT_A_TIME, BATCHES_AT_A_TIME - 1)
    if asynchronous:
        begun = (one for one, _ in pairwise(chain(map(run, inputs), [()])))
    return (tuple(part.cpu() for part in one) for one in begun)
