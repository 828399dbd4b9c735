"""What tests of preprocessing start from: pictures, and files of them."""

import io
from pathlib import Path

import numpy as np
from PIL import Image


def picture(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    """Random patches with smooth transitions, RGB: unlike noise, it survives compression."""
    patches = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, format_name: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def exif(tag: int, value: object) -> Image.Exif:
    made = Image.Exif()
    made[tag] = value
    return made


def save(path: Path, image: Image.Image, format_name: str = "JPEG", **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(image, format_name, **options))
    return path
