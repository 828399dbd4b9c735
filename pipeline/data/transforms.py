"""From a decoded photo to the network's input: timm's evaluation transform, and albumentations for training.

A photo's augmentation is a function of (seed, epoch, photo id) alone: the generators are set before each call, so the number
of workers, the order of photos and any resumption change nothing. Imports are made inside, because params.yaml is checked
against `AUGMENTATIONS` by stages that need no torch.
"""

import hashlib
import os
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.checkpoint import Preprocessing


class Augmentation(NamedTuple):
    """How much photos are changed: least area of the random crop, colour jitter, rotation, probability of random erasing."""

    least_area: float  # fraction of the photo
    jitter: float  # of brightness, contrast and saturation
    degrees: int
    erasing: float


AUGMENTATIONS = {
    "light": Augmentation(0.65, 0.0, 0, 0.0),
    "medium": Augmentation(0.35, 0.2, 10, 0.0),
    "strong": Augmentation(0.15, 0.4, 15, 0.25),
}


class TrainingTransform:
    """Random crop, mirror image, rotation and colour jitter: (PIL image, id, epoch) -> (height, width, 3) uint8 array.

    The crop covers between `least_area` and all of the photo, in aspect ratios from 3/4 to 4/3 (Szegedy et al., Going deeper
    with convolutions, 2015), and is mirrored half of the time. Where evaluation squashes or pads photos, it is a crop of one
    that is squashed or padded, large enough that the smallest crop keeps the detail. Normalising is left to the device that
    trains: bytes are a quarter of what floats would cost on the way there.
    """

    def __init__(self, preprocessing: "Preprocessing", augmentation: str, seed: int) -> None:
        os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it looks for updates on the network when imported, unless told not to
        import albumentations
        import cv2

        cv2.setNumThreads(0)  # workers are forked, and a forked OpenCV waits for ever for threads that its parent had
        least_area, jitter, degrees, erasing = AUGMENTATIONS[augmentation]
        channels, height, width = preprocessing.input_size
        self._whole: Any = None
        if preprocessing.crop_mode != "center":
            larger = (channels, *(round(side / least_area**0.5) for side in (height, width)))
            self._whole = evaluation_pixels(preprocessing.model_copy(update={"input_size": larger, "crop_pct": 1.0}))
        modes = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC, "lanczos": cv2.INTER_LANCZOS4}
        steps: list[Any] = [
            albumentations.RandomResizedCrop(
                (height, width),
                scale=(least_area, 1.0),
                interpolation=modes.get(preprocessing.interpolation, cv2.INTER_CUBIC),
                area_for_downscale="image",
            ),
            albumentations.HorizontalFlip(p=0.5),
        ]
        if degrees:
            steps.append(albumentations.Rotate(degrees, border_mode=cv2.BORDER_REFLECT_101, p=0.3))
        if jitter:
            bounds = (1 - jitter, 1 + jitter)
            steps.append(albumentations.ColorJitter(bounds, bounds, bounds, (0, 0), p=0.8))
        if erasing:
            steps.append(albumentations.Erasing(p=erasing))
        self._compose = albumentations.Compose(steps)
        self._seed = seed

    def __call__(self, image: Image.Image, photo_id: str, epoch: int) -> np.ndarray:
        key = hashlib.blake2b(f"{self._seed}/{epoch}/{photo_id}".encode(), digest_size=4).digest()
        self._compose.set_random_seed(int.from_bytes(key, "little"))
        pixels = np.asarray(self._whole(image) if self._whole else image)
        return np.ascontiguousarray(self._compose(image=pixels)["image"])


def evaluation_transform(preprocessing: "Preprocessing") -> Any:
    """timm's own evaluation transform: PIL image -> (channels, height, width) float32, normalised."""
    from timm.data import create_transform

    return create_transform(**preprocessing.model_dump(), is_training=False)


def evaluation_pixels(preprocessing: "Preprocessing") -> Any:
    """The same up to the normalisation: PIL image -> (height, width, channels) uint8, a quarter of the bytes to carry."""
    from timm.data import create_transform
    from torchvision.transforms import Compose

    *of_image, _ = create_transform(**preprocessing.model_dump(), is_training=False, use_prefetcher=True).transforms
    return Compose([*of_image, np.asarray])


def normalise(pixels: "Tensor", preprocessing: "Preprocessing") -> "Tensor":
    """(n, height, width, channels) uint8 -> (n, channels, height, width) float32, the bits of timm's evaluation transform.

    Photos are decoded with their channels last, and convolutions are fastest so: nothing moves, in channels_last memory format,
    where a transposition would be a pass over each photo.
    """
    import torch

    mean, std = (torch.tensor(v, device=pixels.device).view(1, -1, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    # In place: each further tensor of a batch's size costs more than the arithmetic.
    return pixels.permute(0, 3, 1, 2).float().div_(255).sub_(mean).div_(std)
