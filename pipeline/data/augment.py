"""How training photos are changed: albumentations, made exact.

A photo's augmentation is a function of (seed, epoch, photo id) alone: the generators are set before each call, so the number
of workers, the order of photos and any resumption change nothing. This is the only module that imports albumentations;
its 2.0.8 looks for updates on the network when imported, unless told not to.
"""

import hashlib
import os

import numpy as np
import torch
from torch import Tensor

from pipeline.checkpoint import Preprocessing

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
import albumentations
import cv2

INTERPOLATION = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC, "lanczos": cv2.INTER_LANCZOS4}

# Strength -> (least area of the random crop, colour jitter, rotation in degrees, chance of a random erasing).
STRENGTHS = {
    "light": (0.65, 0.0, 0, 0.0),
    "medium": (0.35, 0.2, 10, 0.0),
    "strong": (0.15, 0.4, 15, 0.25),
}


class TrainingTransform:
    """Call with (photo, epoch, id): (height, width, 3) uint8 RGB -> the same of the network's size, a tensor.

    Normalising is left to the device that trains: bytes are a quarter of what floats would cost on the way there.

    The crop covers between the strength's least share and all of the photo's area, in aspect ratios from 3/4 to 4/3
    (Szegedy et al., Going deeper with convolutions, 2015), and is mirrored half of the time.
    """

    def __init__(self, preprocessing: Preprocessing, strength: str, seed: int) -> None:
        least_area, jitter, degrees, erasing = STRENGTHS[strength]
        _, height, width = preprocessing.input_size
        interpolation = INTERPOLATION.get(preprocessing.interpolation, cv2.INTER_CUBIC)
        steps: list[albumentations.BasicTransform] = [
            albumentations.RandomResizedCrop(
                (height, width), scale=(least_area, 1.0), interpolation=interpolation, area_for_downscale="image"
            ),
            albumentations.HorizontalFlip(p=0.5),
        ]
        if degrees:
            steps.append(albumentations.Rotate(degrees, border_mode=cv2.BORDER_REFLECT_101, p=0.3))
        if jitter:
            steps.append(
                albumentations.ColorJitter(
                    (1 - jitter, 1 + jitter), (1 - jitter, 1 + jitter), (1 - jitter, 1 + jitter), (0, 0), p=0.8
                )
            )
        if erasing:
            steps.append(albumentations.Erasing(p=erasing))
        self._compose = albumentations.Compose(steps)
        self._seed = seed

    def __call__(self, photo: np.ndarray, epoch: int, photo_id: str) -> Tensor:
        key = hashlib.blake2b(f"{self._seed}/{epoch}/{photo_id}".encode(), digest_size=4).digest()
        self._compose.set_random_seed(int.from_bytes(key, "little"))
        changed = self._compose(image=photo)["image"]
        return torch.from_numpy(np.ascontiguousarray(changed))
