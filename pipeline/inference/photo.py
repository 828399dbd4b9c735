"""One photo to predict, from whatever a person has: a path, the bytes of a file, a PIL image or an array.

image = open_photo("cat.jpg")     # mode RGB, upright
"""

from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.data.decode import Refused, pixels, pixels_of
from pipeline.data.photo import MAX_FILE_BYTES
from pipeline.files import megabytes

Photo = str | Path | bytes | Image.Image | np.ndarray


def open_photo(photo: Photo) -> Image.Image:
    """The pixels of a photo, decoded by the rules of `pipeline.data.decode`, as the training photos were.

    Args:
        photo: a path, the bytes of an image file, a PIL image, or a uint8 array of (height, width), (height, width, 3) in RGB
            or (height, width, 4) in RGBA.

    Raises:
        Refused: it cannot be read, decoded or converted; `str(error)` is the reason.
    """
    try:
        return _open(photo)
    except MemoryError:
        raise Refused("not enough memory to decode") from None


def name_of(photo: Photo) -> str:
    """What to call a photo in a message."""
    return str(photo) if isinstance(photo, str | Path) else f"a photo given as {type(photo).__name__}"


def _open(photo: Photo) -> Image.Image:
    if isinstance(photo, bytes):
        return pixels(photo)
    if isinstance(photo, Image.Image):
        return pixels_of(photo)
    if isinstance(photo, np.ndarray):
        return pixels_of(_from_array(photo))
    return pixels(_read(Path(photo)))


def _from_array(photo: np.ndarray) -> Image.Image:
    grey_or_colour = photo.ndim == 2 or (photo.ndim == 3 and photo.shape[2] in (3, 4))
    if photo.dtype != np.uint8 or not grey_or_colour or 0 in photo.shape:
        raise Refused(
            f"an array of {photo.dtype} and shape {photo.shape}: it must be uint8 of (height, width), (height, width, 3) or "
            "(height, width, 4)"
        )
    return Image.fromarray(photo)


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise Refused("it is a folder" if path.is_dir() else "there is no such file")
        if (size := path.stat().st_size) > MAX_FILE_BYTES:
            raise Refused(f"file too large: {megabytes(size)}")
        return path.read_bytes()
    except OSError as error:
        raise Refused(f"cannot be read: {error.strerror}") from None
