"""One photo of the audit: read it, decode it, hash it, store it, and describe it in one manifest row.

This is what worker processes run, so it imports neither pandas nor torch. Prediction brings new photos into the same form with
`read_as_stored` and `as_stored`.
"""

import hashlib
import io
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from pipeline.preprocess.decode import MAX_FILE_BYTES, Decoded, Refused, decode

Row = dict[str, str | int | bytes]

MAX_JPEG_SIDE = 65_500  # what libjpeg writes
REDUCING_GAP = 3.0  # Pillow may halve by plain averaging down to three times the final size: no difference is visible
THUMBNAIL_SIDE = 16


class Task(NamedTuple):
    """One file to examine.

    Attributes:
        source: the file.
        stored: where its stored photo goes; the folder exists.
        id: name of the photo, unique in the manifest.
        path: the file's path below the raw folder, printable.
        label: the class, lower-case.
        size: in bytes, when it was listed.
        stored_size: upper bound of the stored photo's shorter side, in pixels.
    """

    source: str | os.PathLike[str]
    stored: str | os.PathLike[str]
    id: str
    path: str
    label: str
    size: int
    stored_size: int


def refused_row(task: Task, reason: str) -> Row:
    """The row of a refused file: numbers are 0 and texts empty where they are not known."""
    row: Row = {"id": task.id, "path": task.path, "class": task.label, "status": "refused", "reason": reason}
    row |= {"format": "", "mode": "", "width": 0, "height": 0, "orientation": 0, "bytes": task.size}
    return row | {"sha256": "", "pixel_hash": "", "stored_width": 0, "stored_height": 0, "stored_bytes": 0, "thumbnail": b""}


def examine(task: Task) -> Row:
    """Decode one file and store it; returns its manifest row, and the photo's `thumbnail`.

    Raises:
        OSError: the stored photo cannot be written.
        MemoryError: the pixels do not fit into memory.
    """
    row = refused_row(task, "")
    try:
        data = _read(task, row)
        decoded = decode(data)
        stored_pixels, stored = stored_photo(data, decoded, task.stored_size)
    except Refused as error:
        return row | {"reason": str(error)}
    Path(task.stored).write_bytes(stored)
    (height, width, _), (stored_height, stored_width, _) = decoded.pixels.shape, stored_pixels.shape
    row |= {"status": "repaired" if decoded.notes else "kept", "reason": "; ".join(decoded.notes)}
    row |= {
        "format": decoded.format,
        "mode": decoded.mode,
        "width": width,
        "height": height,
        "orientation": decoded.orientation,
    }
    row |= {"stored_width": stored_width, "stored_height": stored_height, "stored_bytes": len(stored)}
    return row | {"pixel_hash": pixel_hash(decoded.pixels), "thumbnail": thumbnail(decoded.pixels)}


def _read(task: Task, row: Row) -> bytes:
    try:
        with open(task.source, "rb") as file:
            if task.size > MAX_FILE_BYTES:
                raise Refused("file too large")
            data = file.read()
    except OSError as error:
        raise Refused(f"cannot be read: {error.strerror}") from error
    row["sha256"] = hashlib.sha256(data).hexdigest()
    return data


def stored_photo(data: bytes, decoded: Decoded, stored_size: int) -> tuple[np.ndarray, bytes]:
    """The photo as it is stored: its pixels, (height, width, 3) uint8 before encoding, and its JPEG bytes.

    The shorter side is at most `stored_size` pixels; the aspect is kept. An upright RGB or grey JPEG that is small enough is
    stored byte for byte, because encoding again would lose detail. Everything else is encoded at quality 95 with full colour
    resolution. Shrinking uses Lanczos, which keeps more fine detail (fur, whiskers) than averaging and does not alias.

    Raises:
        Refused: it is longer than a JPEG can be.
    """
    fits = min(decoded.pixels.shape[:2]) <= stored_size
    if fits and decoded.format == "JPEG" and decoded.mode in ("RGB", "L") and decoded.orientation == 1:
        return decoded.pixels, data
    image, jpeg = _encoded(Image.fromarray(decoded.pixels), stored_size)
    return np.asarray(image), jpeg


def read_as_stored(data: bytes, stored_size: int) -> Image.Image:
    """What reading the stored photo gives, for the bytes of a new file; also for threads.

    Raises:
        Refused: it cannot be decoded or stored.
        MemoryError: the pixels do not fit into memory.
    """
    decoded = decode(data, note_warnings=False)
    stored_pixels, jpeg = stored_photo(data, decoded, stored_size)
    return Image.fromarray(stored_pixels) if jpeg is data else _read_back(jpeg)


def as_stored(image: Image.Image, stored_size: int) -> Image.Image:
    """What reading the stored photo gives, for an upright RGB image without a file: it is encoded only where it is shrunk.

    Raises:
        Refused: it is longer than a JPEG can be.
    """
    return image if min(image.size) <= stored_size else _read_back(_encoded(image, stored_size)[1])


def _encoded(image: Image.Image, stored_size: int) -> tuple[Image.Image, bytes]:
    """The image, shrunk where its shorter side is above `stored_size`, and its JPEG bytes."""
    scale = stored_size / min(image.size)
    if scale < 1:
        size = (max(stored_size, round(image.width * scale)), max(stored_size, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=REDUCING_GAP)
    if max(image.size) > MAX_JPEG_SIDE:
        raise Refused("too long and thin to store")
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, subsampling="4:4:4")
    return image, buffer.getvalue()


def _read_back(jpeg: bytes) -> Image.Image:
    with Image.open(io.BytesIO(jpeg)) as image:
        return image.convert("RGB")


def pixel_hash(pixels: np.ndarray) -> str:
    """SHA-256 (64 hex digits) of the size and the RGB pixels (height, width, 3): equal for equal pixels, whatever the file."""
    digest = hashlib.sha256(f"{pixels.shape[1]}x{pixels.shape[0]}:".encode())
    digest.update(pixels.data)
    return digest.hexdigest()


def thumbnail(pixels: np.ndarray) -> bytes:
    """RGB pixels (height, width, 3) averaged down to `THUMBNAIL_SIDE`², in whole numbers, which all processors do alike."""
    size = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BOX, reducing_gap=2.0).tobytes()
