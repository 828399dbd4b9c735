"""The network of a training stage, split once: activations of what is frozen, cached, and the part that learns.

    network = SplitNetwork(model, 2, preprocessing, choice="auto", runtime=runtime)
    activations = network.activations("train", photos)             # of the photos as they are
    outputs = network.trainable(activations.rows([0, 5]).float())  # (2, classes + width): logits and features

Both training stages split the network at the same place, below the blocks that fine-tuning unfreezes, so the pass that computes
features for the linear probe leaves the activations that fine-tuning starts from in the cache.
"""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.checkpoint import BackboneInfo, Preprocessing, library_versions
from pipeline.data.dataset import Photos, Transform, in_batches
from pipeline.data.transforms import TrainingTransform
from pipeline.files import sha256_of
from pipeline.models.backends import Backend, build_backend, candidates
from pipeline.models.freezing import fractions_of_operations, frozen_fingerprint, set_trainable
from pipeline.models.ood import Pooled
from pipeline.models.outputs import ConcatenatedNetwork, LogitsAndFeatures
from pipeline.models.splitting import split_model
from pipeline.params import UnfreezeFinetune
from pipeline.progress import say
from pipeline.runtime import ResolvedRuntime, broadcast, hardware
from pipeline.training.features import (
    BATCH_SIZE,
    MAX_CACHE_BYTES,
    ChunkedTensor,
    FeatureCache,
    backend_for,
    evaluation,
    first_pixels,
    run_inference,
)
from pipeline.training.schedule import Recipe, choose_recipe

# The side of photos at low resolution, as a fraction of the network's own; rounded, because strides are powers of two.
LOW_RESOLUTION, MULTIPLE = 5 / 7, 16
PIPELINE = Path(__file__).resolve().parents[1]
# The code that decides an activation, beside libraries and tensors.
CODE = (
    *("data/dataset.py", "data/transforms.py", "training/activations.py", "training/features.py"),
    *(f"models/{name}.py" for name in ("backbone", "folding", "head", "outputs", "freezing", "splitting", "backends")),
)


class SplitNetwork:
    """A network with logits and features as its outputs, and how its frozen part is computed.

    Args:
        model: on the CPU; it is set to training mode, and `set_trainable` decides what learns.
        unfrozen_blocks: how many of the topmost blocks learn, or "all".
        preprocessing: of the network's own input size.
        choice: of the backend, as for `build_backend`.
        runtime: where to compute.

    Attributes:
        cache: makes a cache from what distinguishes it, or None: nothing is cached. `use_cache` sets it.
        split: frozen and trainable part, or None where the network cannot be split, as when all of it learns.
        low_resolution: preprocessing of smaller photos, or None for a network that takes one size alone.
        classes: how many logits come first in the outputs.
    """

    def __init__(
        self, model: nn.Module, unfrozen_blocks: int | str, preprocessing: Preprocessing, choice: str, runtime: ResolvedRuntime
    ) -> None:
        set_trainable(model, unfrozen_blocks)
        self.model, self.unfrozen_blocks, self.preprocessing = model, unfrozen_blocks, preprocessing
        self.choice, self.runtime = choice, runtime
        self.cache: Callable[..., FeatureCache] | None = None
        self.outputs = LogitsAndFeatures(model).train()
        self.classes = self.outputs.num_outputs
        self.split = split_model(self.outputs, random_images(preprocessing)) if unfrozen_blocks != "all" else None
        if self.split is None and unfrozen_blocks != "all":
            say("this network cannot be split below the blocks that learn, so the frozen ones compute in every step")
        self.low_resolution = self._find_low_resolution()
        self._backends: dict[tuple[int, tuple[str, ...]], Backend] = {}

    def use_cache(self, folder: Path, backbone: BackboneInfo, photos: str) -> None:
        """Cache features and activations under keys of all that decides them; `photos` is the fingerprint of those stored."""
        set_trainable(self.model, "head")
        tensors = frozen_fingerprint(self.model)
        set_trainable(self.model, self.unfrozen_blocks)
        deciding = {
            "tensors": tensors,
            "network": backbone.model_dump(include={"name", "kwargs", "code_sha256", "parts"}),
            "unfrozen_blocks": self.unfrozen_blocks,
            "photos": photos,
            "preprocessing": self.preprocessing.model_dump(),
            "backend": self.choice,
            "device": self.runtime.device.type,
            "precision": self.runtime.mixed_precision,
            "hardware": broadcast(self.runtime, lambda: hardware(self.runtime)),  # machines that differ share one key
            "processes": self.runtime.processes,  # by which chunks are long
            "versions": library_versions(),
            "code": [sha256_of(PIPELINE / name) for name in CODE],
        }
        self.cache = partial(FeatureCache, folder, **deciding)

    @property
    def trainable(self) -> nn.Module:
        """(n, ...) activations, or normalised images where nothing is split -> (n, classes + width): logits and features."""
        return self.split.trainable if self.split else self.outputs

    def backend(self, photos: Photos, *, low_resolution: bool = False, float32: bool = False) -> Backend:
        """What computes the frozen part, or all where nothing is split, from pixels; checked on the first photos."""
        preprocessing = self.preprocessing_of(low_resolution)
        # Where the hardware has float32 alone, what is wanted in float32 is no other backend.
        key = preprocessing.input_size[1], tuple(candidates(self.choice, self.runtime.device, float32=float32))
        if key not in self._backends:
            module = copy.deepcopy(self.split.frozen if self.split else self.outputs).eval()
            self._backends[key] = backend_for(
                module, photos, preprocessing, choice=self.choice, runtime=self.runtime, float32=float32
            )
        return self._backends[key]

    def preprocessing_of(self, low_resolution: bool) -> Preprocessing:
        """The network's own, or that of smaller photos."""
        return self.low_resolution if low_resolution and self.low_resolution else self.preprocessing

    def activations(
        self,
        split: str,
        photos: Photos,
        *,
        copy_number: int = 0,
        low_resolution: bool = False,
        augmentation: str = "light",
        seed: int = 0,
    ) -> ChunkedTensor:
        """Activations of all photos of "train", in float16, or "val", in float32: by these choices are made.

        Copy 0 is the photos as they are; others are augmented by (augmentation, seed, copy).
        """
        precise, preprocessing = split == "val", self.preprocessing_of(low_resolution)
        size = preprocessing.input_size[1]
        cache = self._cache_of(split, photos, copy_number, size, [augmentation, seed] if copy_number else None)
        if found := self._all_cached(cache, photos):
            return found
        backend = self.backend(photos, low_resolution=low_resolution, float32=precise)
        name = f"augmented copy {copy_number}, {size} px" if copy_number else "photos as they are"
        [values] = run_inference(
            lambda pixels: backend.run(pixels) if precise else to_float16(backend.run(pixels)),
            photos,
            augmented(preprocessing, augmentation, seed, copy_number),
            runtime=self.runtime,
            description=f"activations of {split}: {name}",
            caches=[cache],
            by_processes=copy_number > 0,
        )
        return values

    def features(self, split: str, photos: Photos) -> Tensor:
        """Features (n, width) float32 of the photos as they are; their activations are cached on the way."""
        precise, device, threads = split == "val", self.runtime.device, self.runtime.threads
        caches = [self.cache and self.cache(kind="features", split=split, ids=photos.ids)]
        if found := self._all_cached(caches[0], photos):
            return found.tensor()
        lower = self.backend(photos, float32=precise).run
        upper: Callable[[Tensor], Tensor] = nn.Identity()
        if self.split:
            example = lower(first_pixels(photos, self.preprocessing).to(device)).cpu()
            module = copy.deepcopy(self.split.trainable).eval()
            upper = build_backend(module, example, choice=self.choice, device=device, threads=threads, float32=precise).run
            if self.cache and self.fits_in_cache(example[0].numel(), len(photos)):
                caches.append(self._cache_of(split, photos, 0, self.preprocessing.input_size[1], None))

        def run(pixels: Tensor) -> tuple[Tensor, ...]:
            activations = lower(pixels)
            stored = activations if precise else to_float16(activations)
            return (upper(activations)[:, self.classes :], stored)[: len(caches)]

        transform, description = evaluation(self.preprocessing), f"features of {split}"
        return run_inference(run, photos, transform, runtime=self.runtime, description=description, caches=caches)[0].tensor()

    def pooled_activations(self, split: str, photos: Photos, places: list[int]) -> Tensor:
        """Activations of some photos, averaged over positions: (n, channels) float32, which no fine-tuning changes.

        Of a network that is not split: its features (n, width), by the weights that it has now.
        """
        if self.split is None:
            return self.run_whole(self.outputs.eval(), photos.at(places), "features for OOD detection")[:, self.classes :]
        with torch.inference_mode():
            size = self.split.frozen.eval()(random_images(self.preprocessing))[0].numel()
            if self.cache and self.fits_in_cache(size, len(photos)):
                cached = self.activations(split, photos)
                return torch.cat([Pooled()(cached.rows(some).float()) for some in in_batches(places, BATCH_SIZE)])
        frozen = nn.Sequential(self.split.frozen, Pooled()).eval()
        return self.run_whole(frozen, photos.at(places), "activations for OOD detection")

    def run_whole(self, module: nn.Module, photos: Photos, description: str) -> Tensor:
        """Outputs (n, ...) in float32 of a whole network, in eval mode on the CPU, for photos as they are."""
        runtime, transform = self.runtime, evaluation(self.preprocessing)
        backend = backend_for(module, photos, self.preprocessing, choice=self.choice, runtime=runtime, float32=True)
        return run_inference(backend.run, photos, transform, runtime=runtime, description=description)[0].tensor()

    @staticmethod
    def fits_in_cache(values_a_photo: int, photos: int, copies: int = 1) -> bool:
        """Whether the activations of all copies, in float16, take at most half of the cache."""
        return 2 * values_a_photo * photos * copies <= MAX_CACHE_BYTES // 2

    def _cache_of(self, split: str, photos: Photos, copy_number: int, size: int, changes: Any) -> FeatureCache | None:
        deciding = {"split": split, "ids": photos.ids, "copy": copy_number, "size": size, "changes": changes}
        return self.cache and self.cache(kind="activations", **deciding)

    def _all_cached(self, cache: FeatureCache | None, photos: Photos) -> ChunkedTensor | None:
        """The outputs for all photos, where none is missing in the cache: then no backend need be built."""
        chunks = cache.read() if cache else []
        complete = broadcast(self.runtime, lambda: sum(map(len, chunks)) == len(photos))
        return ChunkedTensor(chunks) if complete else None

    def _find_low_resolution(self) -> Preprocessing | None:
        """Preprocessing of smaller photos, where the network takes them and the split agrees on them."""
        channels, *sides = self.preprocessing.input_size
        height, width = (max(MULTIPLE, MULTIPLE * round(LOW_RESOLUTION * side / MULTIPLE)) for side in sides)
        smaller = self.preprocessing.model_copy(update={"input_size": (channels, height, width)})
        images = random_images(smaller)
        try:
            with torch.no_grad():
                outputs, split = copy.deepcopy((self.outputs.eval(), self.split))
                expected = outputs(images)
                found = split.trainable.eval()(split.frozen.eval()(images)) if split else expected
            fits = torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
        except Exception:  # a network that takes one size alone refuses others by errors of any kind
            fits = False
        if not fits:
            say("this network takes photos of one size, so none are at low resolution in the first epochs")
        return smaller if fits else None


def recipe_of(
    model: nn.Module,
    preprocessing: Preprocessing,
    settings: UnfreezeFinetune,
    num_photos: int,
    *,
    frozen_loss: float = 1.0,
    is_split: bool = True,
) -> Recipe:
    """`choose_recipe` for a network; several backbones together stay frozen, because only their solved head could learn."""
    if isinstance(model, ConcatenatedNetwork):
        return choose_recipe(settings.model_copy(update={"unfrozen_blocks": 0, "epochs": 0}), [0.0], num_photos)
    fractions = fractions_of_operations(model, preprocessing.input_size)
    return choose_recipe(settings, fractions, num_photos, frozen_loss=frozen_loss, is_split=is_split)


def augmented(preprocessing: Preprocessing, augmentation: str, seed: int, copy_number: int) -> Transform:
    """An augmented copy of each photo, (photo, id) -> pixels; copy 0 is the photo as it is for evaluation."""
    if copy_number == 0:
        return evaluation(preprocessing)
    return partial(TrainingTransform(preprocessing, augmentation, seed), epoch=copy_number)


def random_images(preprocessing: Preprocessing) -> Tensor:
    """Two of the network's input size, always the same: (2, channels, height, width)."""
    return torch.randn(2, *preprocessing.input_size, generator=torch.Generator().manual_seed(0))


def to_float16(activations: Tensor) -> Tensor:
    """Activations in float16, where what is beyond its 65,504 becomes the largest that it holds, not infinite."""
    largest = torch.finfo(torch.float16).max
    return activations.clamp(-largest, largest).half()
