"""Photos as they are shown in a page: small, inside the page itself, and described for those who cannot see them.

picture = embedded(Path("0.jpg"), "cat.0: a cat")
picture.source, picture.width, picture.height, picture.alternative
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from pipeline.checkpoint import Preprocessing
from pipeline.data.transforms import evaluation_transform
from pipeline.evaluation.attribution import grad_cam, overlay

HEIGHT = 200  # pixels, twice what most are shown at, for screens that show two pixels as one
JPEG_QUALITY = 78


@dataclass(frozen=True)
class Picture:
    """An image inside a page: `source` is a data address; width and height are in pixels; `label` may stand below."""

    source: str
    width: int
    height: int
    alternative: str
    label: str = ""

    @property
    def aspect(self) -> float:
        """Width by height."""
        return self.width / self.height


@dataclass(frozen=True)
class Card:
    """One or several pictures of one photo, with what there is to say of it."""

    pictures: tuple[Picture, ...]
    title: str
    note: str
    confidence: float | None = None  # of the prediction, in [0, 1]
    flag: str = ""  # what is known of it beforehand


@dataclass(frozen=True)
class Gallery:
    """Photos under a heading: in rows, or with Grad-CAM ("heat") a card each."""

    anchor: str
    title: str
    text: str
    cards: Sequence[Card]
    kind: str = "photos"


def embedded(photo: Path | Image.Image, alternative: str, label: str = "") -> Picture:
    """A photo made small enough for a page."""
    if isinstance(photo, Path):
        with Image.open(photo) as image:
            return _embed(image.convert("RGB"), alternative, label)
    return _embed(photo, alternative, label)


def heat_pictures(
    models: dict[str, nn.Module], photos: Sequence[Path], predicted: dict[str, Sequence[int]], preprocessing: Preprocessing
) -> list[dict[str, Image.Image]]:
    """For each photo, what each model saw its prediction in: the network's own crop with Grad-CAM over it.

    Args:
        models: name -> a timm network in eval mode, on the CPU.
        photos: files.
        predicted: name -> the index of the class that it predicts, a photo each.
        preprocessing: of all the networks.

    Raises:
        PipelineError: a network has no layer for it.
    """
    transform = evaluation_transform(preprocessing)
    crops, tensors = [], []
    for path in photos:
        with Image.open(path) as image:
            tensor = transform(image.convert("RGB"))
        tensors.append(tensor)
        crops.append(as_seen(tensor, preprocessing))
    batch = torch.stack(tensors)
    heats = {name: grad_cam(model, batch, predicted[name]) for name, model in models.items()}
    return [
        {"photo": crop} | {name: overlay(crop, heat[index]) for name, heat in heats.items()} for index, crop in enumerate(crops)
    ]


def _embed(image: Image.Image, alternative: str, label: str) -> Picture:
    scale = min(HEIGHT / image.height, 2.2 * HEIGHT / image.width, 1)
    small = image.resize((max(round(image.width * scale), 1), max(round(image.height * scale), 1)), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    source = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    return Picture(source, small.width, small.height, alternative, label)


def as_seen(tensor: torch.Tensor, preprocessing: Preprocessing) -> Image.Image:
    """A network's input (3, height, width) as a picture again."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    pixels = ((tensor * std + mean).clamp(0, 1) * 255).round().byte()
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())
