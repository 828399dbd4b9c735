"""Each photo's feature, computed once: what the frozen backbone says of it, and all that a linear probe needs.

    backend = backend_for(FeatureExtractor(model).eval(), photos, preprocessing, choice="auto", runtime=runtime)
    features = run_over(backend.run, photos, preprocessing, runtime=runtime, description="features", kept=Kept(folder))
    features.values, features.labels     # (n, width) float32, (n,) int64

What is computed is kept in chunks under a key of all that decides it. So a run that is killed goes on with the photos that
it had not come to, and another head on the same features costs only the head.
"""

import hashlib
import json
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from pipeline.checkpoint import Preprocessing
from pipeline.data.dataset import Batch, Photos, evaluation_batches
from pipeline.data.transforms import evaluation_pixels, normalise
from pipeline.files import read_hashed, write_hashed
from pipeline.models.backends import Backend, build_backend
from pipeline.progress import progress, say
from pipeline.runtime import ResolvedRuntime
from pipeline.training.distributed import broadcast, gather

# By the kind of device. A GPU that takes 32 photos is done before the processor has told it what to do next.
BATCH_SIZES = {"cuda": 128}
BATCH_SIZE = 32  # of any other device
PHOTOS_A_CHUNK = 2048  # of each process
BATCHES_AT_A_TIME = 2
KEYS_KEPT = 16  # two a split, and up to 8 views


def batch_size_on(device: torch.device) -> int:
    """How many photos a network is given at a time."""
    return BATCH_SIZES.get(device.type, BATCH_SIZE)


@dataclass(frozen=True)
class Outputs:
    """What a network gave for every photo of a split, in the order of ids: values (n, width), labels (n,)."""

    values: Tensor
    labels: Tensor


class Kept:
    """Outputs for the first photos of a split, in chunks under `folder`/KEY, with KEY a hash of everything that decides them.

    Of the folder's keys the newest `KEYS_KEPT` stay. A damaged chunk, and those after it, are computed again.
    """

    def __init__(self, folder: Path, **parts: Any) -> None:
        key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
        self._folder = folder / key

    def read(self) -> list[Tensor]:
        """The whole chunks, in order, without a gap."""
        chunks: list[Tensor] = []
        for path in sorted(self._folder.glob("*-*")):
            content = read_hashed(path)
            if content is None or int(path.name.split("-")[0]) != len(chunks):
                say(f"{path} is damaged, or follows on one that was; it is computed again")
                path.unlink()
                continue
            chunks.append(load(content)["values"])
        return chunks

    def add(self, number: int, values: Tensor) -> None:
        """Keep chunk `number`."""
        write_hashed(self._folder, f"{number:06d}", save({"values": values.contiguous()}))
        keys = sorted(self._folder.parent.iterdir(), key=lambda path: path.stat().st_mtime)
        for old in keys[:-KEYS_KEPT]:
            shutil.rmtree(old)


class FeatureExtractor(nn.Module):
    """A timm network up to the input of its classifier: (n, channels, height, width) -> (n, width)."""

    model: Any

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Pooled features; timm's `forward_head(pre_logits=True)` is the classifier's input for every family."""
        return self.model.forward_head(self.model.forward_features(images), pre_logits=True)


class FromPixels(nn.Module):
    """A network with the normalisation before it: of photos as they are loaded, (n, height, width, channels) uint8.

    Inside a backend's graph the normalisation costs little. Beside it, it would be a pass over four times the bytes, on threads
    that contend with those of the backend and of the decoding.
    """

    module: Any

    def __init__(self, module: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.module, self._preprocessing = module, preprocessing

    def forward(self, pixels: Tensor) -> Tensor:
        """What the network gives for the normalised photos."""
        return self.module(normalise(pixels, self._preprocessing))


def backend_for(
    module: nn.Module,
    photos: Photos,
    preprocessing: Preprocessing,
    *,
    choice: str,
    runtime: ResolvedRuntime,
    float32: bool = False,
) -> Backend:
    """A backend for `module`, from photos as they are loaded, and checked on the first; the rest as in `build_backend`."""
    whole, example = FromPixels(module, preprocessing).eval(), first_pixels(photos, preprocessing)
    return build_backend(whole, example, choice=choice, device=runtime.device, threads=runtime.threads, float32=float32)


def first_pixels(photos: Photos, preprocessing: Preprocessing) -> Tensor:
    """The first photos as they are loaded for evaluation: (8 or fewer, height, width, channels) uint8."""
    batches = evaluation_batches(photos[:8], evaluation_pixels(preprocessing), batch_size=8, workers=0)
    pixels, _ = next(iter(batches))
    return pixels


def run_over(
    run: Callable[[Tensor], Tensor | tuple[Tensor, Tensor]],
    photos: Photos,
    preprocessing: Preprocessing,
    *,
    runtime: ResolvedRuntime,
    description: str,
    kept: Kept | None = None,
    beside: Kept | None = None,
) -> Outputs:
    """Run a network over every photo once, as loaded for evaluation.

    The rest as in `run_over_batches`.
    """
    batches = partial(evaluation_batches, transform=evaluation_pixels(preprocessing))
    return run_over_batches(run, photos, batches, runtime=runtime, description=description, kept=kept, beside=beside)


def run_over_batches(
    run: Callable[[Tensor], Tensor | tuple[Tensor, Tensor]],
    photos: Photos,
    batches: Callable[..., Iterable[Batch]],
    *,
    runtime: ResolvedRuntime,
    description: str,
    kept: Kept | None = None,
    beside: Kept | None = None,
) -> Outputs:
    """Run a network over every photo once, as `batches` loads them: `evaluation_batches` or `view_batches`, as uint8.

    `run` is given them so, on the device, and normalises them itself, as a backend of `backend_for` does. Where it gives two
    tensors, the second is not returned but kept in `beside`, for a later stage.

    Several processes take the batches in turns, and each ends with all outputs. A batch is the same in any number of
    processes, so the outputs are too, bit for bit, where each computes with as many threads.
    """
    chunks = broadcast(runtime, kept.read) if kept else []
    done = sum(map(len, chunks))
    batch_size = batch_size_on(runtime.device)
    loaded = batches(
        photos[done:],
        batch_size=batch_size,
        workers=runtime.workers,
        rank=runtime.rank,
        processes=runtime.processes,
        pinned=runtime.pinned,
    )

    def run_on_device(images: Tensor) -> tuple[Tensor, ...]:
        given = run(images.to(runtime.device, non_blocking=True))
        return (given,) if isinstance(given, Tensor) else given

    outputs = _some_ahead(run_on_device, loaded, by_itself=runtime.device.type == "cuda")
    fresh: list[tuple[Tensor, ...]] = []
    with progress(description, total=len(photos), done=done) as advance:
        while done < len(photos):
            fresh += islice(outputs, 1)  # none where the last turn has too few batches
            turn = min(batch_size * runtime.processes, len(photos) - done)
            done += turn
            advance(turn)
            if len(fresh) * batch_size == PHOTOS_A_CHUNK or done == len(photos):
                values, *others = map(torch.cat, zip(*gather(runtime, fresh), strict=True))
                fresh.clear()
                chunks.append(values)
                # What lies beside goes first: after a kill in between, the chunk is computed again and both are whole.
                for folder, part in reversed(list(zip((kept, beside), (values, *others), strict=False))):
                    if folder and runtime.is_main:
                        folder.add(len(chunks) - 1, part)
    return Outputs(torch.cat(chunks), photos.labels)


def _some_ahead(
    run: Callable[[Tensor], tuple[Tensor, ...]], batches: Iterable[Batch], *, by_itself: bool
) -> Iterator[tuple[Tensor, ...]]:
    """What `run` gives for each batch, in order, on the CPU; the next is begun before one is done, so that nothing waits.

    A GPU works `by_itself` once it is told what to do. A backend on the processor needs a thread for that, which on a GPU would
    cost seconds: cuDNN plans each layer anew in every thread.
    """
    begun: deque[Callable[[], tuple[Tensor, ...]]] = deque()
    with ThreadPoolExecutor(BATCHES_AT_A_TIME) as pool:
        for images, _ in batches:
            begun.append(partial(tuple, run(images)) if by_itself else pool.submit(run, images).result)
            if len(begun) == BATCHES_AT_A_TIME:
                yield _on_cpu(begun.popleft()())
        while begun:
            yield _on_cpu(begun.popleft()())


def _on_cpu(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(part.cpu() for part in outputs)
