"""The network of a training stage, split once: activations of what is frozen, cached, and the part that learns.

    network = SplitNetwork.build(model, "auto", preprocessing, photos, ...)
    activations = network.activations("train", photos)             # of the photos as they are
    outputs = network.trainable(activations.rows([0, 5]).float())  # (2, classes + width): logits and features

Both training stages split the network at the same place, below the blocks that fine-tuning unfreezes, so the pass that computes
features for the linear probe leaves the activations that fine-tuning starts from in the cache.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.checkpoint import BackboneInfo, Preprocessing, library_versions
from pipeline.data.dataset import Photos, Transform
from pipeline.data.transforms import TrainingTransform
from pipeline.files import sha256_of
from pipeline.models.backends import Backend, build_backend
from pipeline.models.freezing import auto_unfrozen_blocks, frozen_fingerprint, set_trainable
from pipeline.models.outputs import LogitsAndFeatures
from pipeline.models.splitting import SplitModel, split_model
from pipeline.progress import say
from pipeline.runtime import ResolvedRuntime
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

# The side of photos at low resolution, as a fraction of the network's own; rounded, because strides are powers of two.
LOW_RESOLUTION, MULTIPLE = 5 / 7, 16
PIPELINE = Path(__file__).resolve().parents[1]
# The code that decides an activation, beside libraries and tensors.
CODE = (
    *("data/dataset.py", "data/transforms.py", "training/activations.py", "training/features.py"),
    *(f"models/{name}.py" for name in ("backbone", "same_padding", "head", "outputs", "splitting", "backends")),
)


@dataclass
class SplitNetwork:
    """A network with logits and features as its outputs, and how its frozen part is computed.

    Attributes:
        model: the network itself, in training mode; `set_trainable` has decided what learns.
        unfrozen_blocks: how many of the topmost blocks learn, or "all".
        split: frozen and trainable part, or None where the network cannot be split, as when all of it learns.
        preprocessing: of the network's own input size.
        low_resolution: of smaller photos, or None for a network that takes one size alone.
        choice: of the backend, as for `build_backend`.
        runtime: where to compute.
        cache: makes the cache of activations from what distinguishes them, or None: nothing is cached.
    """

    model: nn.Module
    unfrozen_blocks: int | str
    outputs: LogitsAndFeatures
    split: SplitModel | None
    preprocessing: Preprocessing
    low_resolution: Preprocessing | None
    choice: str
    runtime: ResolvedRuntime
    cache: Callable[..., FeatureCache] | None
    _backends: dict[tuple[int, bool], Backend] = field(default_factory=dict)

    @classmethod
    def build(
        cls,
        model: nn.Module,
        unfrozen_blocks: int | str,
        preprocessing: Preprocessing,
        *,
        choice: str,
        runtime: ResolvedRuntime,
        cache: Callable[..., FeatureCache] | None = None,
    ) -> "SplitNetwork":
        """Split a network, on the CPU, below its topmost blocks; "auto" unfreezes those with up to half of the operations."""
        if unfrozen_blocks == "auto":
            unfrozen_blocks = auto_unfrozen_blocks(model, preprocessing.input_size)
        set_trainable(model, unfrozen_blocks)
        outputs = LogitsAndFeatures(model).train()
        split = split_model(outputs, random_images(preprocessing)) if unfrozen_blocks != "all" else None
        if split is None and unfrozen_blocks != "all":
            say("this network cannot be split below the blocks that learn, so the frozen ones compute in every step")
        low = _low_resolution(outputs, split, preprocessing)
        return cls(model, unfrozen_blocks, outputs, split, preprocessing, low, choice, runtime, cache)

    @property
    def trainable(self) -> nn.Module:
        """(n, ...) activations, or normalised images where nothing is split -> (n, classes + width): logits and features."""
        return self.split.trainable if self.split else self.outputs

    def backend(self, photos: Photos, *, low_resolution: bool = False, float32: bool = False) -> Backend:
        """What computes the frozen part, or the whole network where nothing is split, from pixels; built once a stage.

        The first photos are those it is compared with eager float32 on.
        """
        preprocessing = self.preprocessing_of(low_resolution)
        key = (preprocessing.input_size[1], float32)
        if key not in self._backends:
            other = self._backends.get((key[0], not float32))
            if other is not None and other.name in ("onnxruntime", "torch"):  # it computes in float32 already
                return other
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
        augment: Transform | None = None,
        changes: Any = None,
    ) -> ChunkedTensor:
        """Activations of all photos: validation's in float32, by which choices are made, training's in float16.

        Args:
            split: "train" or "val".
            photos: of that split.
            copy_number: 0 for the photos as they are.
            low_resolution: whether they are smaller; of augmented copies alone.
            augment: makes the augmented copy.
            changes: what decides how it is augmented, for the cache's key.
        """
        precise = split == "val"
        backend = self.backend(photos, low_resolution=low_resolution, float32=precise)
        size = self.preprocessing_of(low_resolution).input_size[1]
        cache = self.cache and self.cache(kind="activations", split=split, copy=copy_number, size=size, changes=changes)
        name = f"augmented copy {copy_number}, {size} px" if copy_number else "photos as they are"
        [values] = run_inference(
            lambda pixels: _stored(backend.run(pixels), precise),
            photos,
            augment or evaluation(self.preprocessing),
            runtime=self.runtime,
            description=f"activations of {split}: {name}",
            caches=[cache],
            by_processes=augment is not None,
        )
        return values

    def features(self, split: str, photos: Photos) -> Tensor:
        """Features (n, width) float32 of the photos as they are; their activations are cached on the way."""
        float32, classes = split == "val", self.classes
        backend = self.backend(photos, float32=float32)
        cache = self.cache and self.cache(kind="features", split=split)
        if self.split is None:
            run: Callable[[Tensor], Any] = lambda pixels: backend.run(pixels)[:, classes:]  # noqa: E731
            caches = [cache]
        else:
            example = backend.run(first_pixels(photos, self.preprocessing).to(self.runtime.device))
            upper = self._upper(example, float32)
            size = self.preprocessing.input_size[1]
            caches = [cache]
            if self.cache and self.fits_in_cache(example[0].numel(), len(photos), 1):
                caches.append(self.cache(kind="activations", split=split, copy=0, size=size, changes=None))

            def run(pixels: Tensor) -> Any:
                activations = backend.run(pixels)
                return (upper.run(activations)[:, classes:], _stored(activations, float32))[: len(caches)]

        values = run_inference(
            run,
            photos,
            evaluation(self.preprocessing),
            runtime=self.runtime,
            description=f"features of {split}",
            caches=caches,
        )
        return values[0].tensor()

    def trained_features(self, split: str, photos: Photos, places: list[int]) -> Tensor:
        """Features (n, width) float32 of some photos, by the weights that the network has now.

        Args:
            split, photos: as in `activations`; where those would exceed the cache, some photos go through the whole network.
            places: which photos.
        """
        if self.split is not None and self.cache and self.fits_in_cache(self._activation_size(), len(photos), 1):
            cached = self.activations(split, photos).rows(places)
            with torch.inference_mode():
                parts = [self.split.trainable.cpu().eval()(part.float()) for part in cached.split(BATCH_SIZE)]
            return torch.cat(parts)[:, self.classes :]
        some, runtime = photos.at(places), self.runtime
        backend = backend_for(self.outputs.eval(), some, self.preprocessing, choice=self.choice, runtime=runtime, float32=True)
        transform = evaluation(self.preprocessing)
        [outputs] = run_inference(backend.run, some, transform, runtime=runtime, description="features for OOD detection")
        return outputs.tensor()[:, self.classes :]

    def _activation_size(self) -> int:
        """How many numbers an activation of one photo has."""
        assert self.split
        with torch.inference_mode():
            return self.split.frozen.eval()(random_images(self.preprocessing))[0].numel()

    def _upper(self, activations: Tensor, float32: bool) -> Backend:
        """What computes the trainable part in inference."""
        assert self.split
        module = copy.deepcopy(self.split.trainable).eval()
        runtime = self.runtime
        return build_backend(
            module, activations.cpu(), choice=self.choice, device=runtime.device, threads=runtime.threads, float32=float32
        )

    @property
    def classes(self) -> int:
        """How many logits come first in the outputs."""
        return self.outputs.num_outputs

    @staticmethod
    def fits_in_cache(values_a_photo: int, photos: int, copies: int) -> bool:
        """Whether the activations of all copies, in float16, take at most half of the cache."""
        return 2 * values_a_photo * photos * copies <= MAX_CACHE_BYTES // 2


def augmented(preprocessing: Preprocessing, augmentation: str, seed: int, copy_number: int) -> Transform:
    """An augmented copy of each photo, (photo, id) -> pixels; copy 0 is the photo as it is for evaluation."""
    if copy_number == 0:
        return evaluation(preprocessing)
    return partial(_augmented, TrainingTransform(preprocessing, augmentation, seed), copy_number)


def _augmented(transform: TrainingTransform, copy_number: int, image: Any, photo_id: str) -> np.ndarray:
    return transform(image, copy_number, photo_id)


def feature_caches(
    folder: Path,
    model: nn.Module,
    backbone: BackboneInfo,
    unfrozen_blocks: int | str,
    photos: str,
    preprocessing: Preprocessing,
    choice: str,
    runtime: ResolvedRuntime,
) -> Callable[..., FeatureCache]:
    """Makes caches whose keys hold all that decides a feature or an activation.

    Args:
        folder: outputs/.features.
        model: with any head, which does not count; set to learn the head alone.
        backbone: which network.
        unfrozen_blocks: where it is split.
        photos: fingerprint of all splits' photos as they are stored.
        preprocessing, choice, runtime: as in `SplitNetwork.build`.
    """
    set_trainable(model, "head")
    deciding = {
        "tensors": frozen_fingerprint(model),
        "network": backbone.model_dump(include={"name", "kwargs", "code_sha256"}),
        "unfrozen_blocks": unfrozen_blocks,
        "photos": photos,
        "preprocessing": preprocessing.model_dump(),
        "backend": choice,
        "device": runtime.device.type,
        "precision": runtime.mixed_precision,
        "threads": runtime.threads,
        "versions": library_versions(),
        "code": [sha256_of(PIPELINE / name) for name in CODE],
    }
    return lambda **own: FeatureCache(folder, **deciding, **own)


def random_images(preprocessing: Preprocessing) -> Tensor:
    """Two of the network's input size, always the same: (2, channels, height, width)."""
    return torch.randn(2, *preprocessing.input_size, generator=torch.Generator().manual_seed(0))


def _stored(activations: Tensor, float32: bool) -> Tensor:
    return activations if float32 else activations.half()


def _low_resolution(outputs: nn.Module, split: SplitModel | None, preprocessing: Preprocessing) -> Preprocessing | None:
    """Preprocessing of smaller photos, where the network takes them and the split agrees on them."""
    channels, *sides = preprocessing.input_size
    height, width = (max(MULTIPLE, MULTIPLE * round(LOW_RESOLUTION * side / MULTIPLE)) for side in sides)
    smaller = preprocessing.model_copy(update={"input_size": (channels, height, width)})
    images = random_images(smaller)
    try:
        with torch.no_grad():
            outputs, split = copy.deepcopy((outputs.eval(), split))
            expected = outputs(images)
            found = split.trainable.eval()(split.frozen.eval()(images)) if split else expected
        fits = torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    except Exception:  # a network that takes one size alone refuses others by errors of any kind
        fits = False
    if not fits:
        say("this network takes photos of one size, so none are at low resolution in the first epochs")
    return smaller if fits else None
