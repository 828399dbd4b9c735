"""One photo of the audit: read it, decode it once, hash it, store it, and say what was found in one manifest row.

This is what the audit's worker processes run, so it imports neither pandas nor torch.
"""

import hashlib
import io
import os
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from pipeline.preprocess.decode import Decoded, Refused, decode

Row = dict[str, str | int]

MAX_FILE_BYTES = 512 * 2**20
MAX_JPEG_SIDE = 65_500  # what libjpeg writes
REDUCING_GAP = 3.0  # Pillow may halve by plain averaging down to three times the final size, where no difference is visible
HASH_SIDE = 8
THUMBNAIL_SIDE = 32


class Task(NamedTuple):
    """One file to examine.

    Attributes:
        source: the file. Here and in `stored` a string as a rule, because a Path takes several times the memory.
        stored: where its stored photo goes; the folder exists.
        id: name of the photo, unique in the manifest.
        path: the file's path below the raw folder, printable.
        label: the class, lower-case.
        size: the file's size when it was listed, in bytes.
        modified_ns: its modification time then, in nanoseconds.
        stored_size: upper bound of the stored photo's shorter side, in pixels.
    """

    source: str | os.PathLike[str]
    stored: str | os.PathLike[str]
    id: str
    path: str
    label: str
    size: int
    modified_ns: int
    stored_size: int


def blank_row(task: Task, reason: str) -> Row:
    """The row of a refused file: what needs pixels is 0 or empty."""
    row: Row = {"id": task.id, "path": task.path, "class": task.label, "status": "refused", "reason": reason}
    row |= {"format": "", "mode": "", "width": 0, "height": 0, "orientation": 0, "bytes": task.size}
    row |= {"sha256": "", "pixel_hash": "", "perceptual_hash": ""}
    return row | {"stored_width": 0, "stored_height": 0, "stored_bytes": 0}


def examine(task: Task) -> Row:
    """Decode one file and store it; returns its manifest row, of a refused file too.

    Raises:
        OSError: the stored photo cannot be written.
        MemoryError: the pixels do not fit.
    """
    row = blank_row(task, "")
    try:
        data = _read(task, row)
        decoded = decode(data)
        stored_pixels, stored = stored_photo(data, decoded, task.stored_size)
    except Refused as error:
        return row | {"reason": str(error)}
    Path(task.stored).write_bytes(stored)
    row |= {"status": "repaired" if decoded.notes else "kept", "reason": "; ".join(decoded.notes)}
    row |= {"format": decoded.format, "mode": decoded.mode, "orientation": decoded.orientation}
    row |= {"width": decoded.pixels.shape[1], "height": decoded.pixels.shape[0]}
    row |= {"pixel_hash": pixel_hash(decoded.pixels), "perceptual_hash": perceptual_hash(stored_pixels)}
    stored_height, stored_width, _ = stored_pixels.shape
    return row | {"stored_width": stored_width, "stored_height": stored_height, "stored_bytes": len(stored)}


def _read(task: Task, row: Row) -> bytes:
    try:
        with open(task.source, "rb") as file:
            if task.size > MAX_FILE_BYTES:
                row["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
                raise Refused("file too large")
            data = file.read()
    except OSError as error:
        raise Refused(f"cannot be read: {error.strerror}") from error
    row["sha256"] = hashlib.sha256(data).hexdigest()
    return data


def stored_photo(data: bytes, decoded: Decoded, stored_size: int) -> tuple[np.ndarray, bytes]:
    """The photo as it is stored: its pixels, as in `decoded`, and its JPEG bytes.

    The shorter side is at most `stored_size` pixels and the aspect is kept. An upright RGB or grey JPEG that is small
    enough is stored byte for byte, because encoding again would lose detail; `convert("RGB")` of it gives the decoded
    pixels exactly. Everything else is encoded at quality 95 with full colour resolution. Shrinking uses Lanczos, which
    keeps more fine detail (fur, whiskers) than averaging over areas and, unlike interpolation, does not alias.
    """
    height, width, _ = decoded.pixels.shape
    scale = stored_size / min(width, height)
    if scale >= 1 and decoded.format == "JPEG" and decoded.mode in ("RGB", "L") and decoded.orientation == 1:
        return decoded.pixels, data
    image = Image.fromarray(decoded.pixels)
    if scale < 1:
        size = (max(stored_size, round(width * scale)), max(stored_size, round(height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=REDUCING_GAP)
    if max(image.size) > MAX_JPEG_SIDE:
        raise Refused("too long and thin to store")
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, subsampling="4:4:4")
    return np.asarray(image), buffer.getvalue()


def pixel_hash(pixels: np.ndarray) -> str:
    """sha256 (64 hex digits) of the size and the RGB pixels (height, width, 3): equal for equal pixels, whatever the file."""
    digest = hashlib.sha256(f"{pixels.shape[1]}x{pixels.shape[0]}:".encode())
    digest.update(pixels.data)
    return digest.hexdigest()


def perceptual_hash(pixels: np.ndarray) -> str:
    """64-bit DCT hash (16 hex digits) of RGB pixels: close in Hamming distance for photos that look alike.

    The picture is averaged down to 32 x 32 grey pixels, in whole numbers, which are the same on every processor; each bit
    tells whether one of the 64 lowest frequencies is above their median. Rounding keeps the hash of a flat picture from
    depending on the last bits of a product.
    """
    grey = Image.fromarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))
    small = grey.resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BOX)
    frequencies = cv2.dct(np.asarray(small, dtype=np.float64))[:HASH_SIDE, :HASH_SIDE]
    coefficients = np.round(frequencies, 3)
    ordered = np.sort(coefficients, axis=None)
    median = (ordered[len(ordered) // 2 - 1] + ordered[len(ordered) // 2]) / 2  # np.median takes longer than all the rest
    return np.packbits(coefficients > median).tobytes().hex()
