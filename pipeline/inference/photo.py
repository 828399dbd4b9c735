"""One photo to predict, from whatever a person has: a path, an address, the bytes of a file, a PIL image or an array.

image = open_photo("cat.jpg")     # mode RGB, upright
"""

import time
from pathlib import Path
from typing import TypeGuard
from urllib.parse import urlsplit

import numpy as np
import requests
from PIL import Image

from pipeline.files import megabytes
from pipeline.preprocess.decode import Refused, pixels, pixels_of, plain
from pipeline.preprocess.photo import MAX_FILE_BYTES

Photo = str | Path | bytes | Image.Image | np.ndarray

TIMEOUTS = (10.0, 30.0)  # seconds, to connect and for any next bytes
SECONDS_TO_FETCH = 120.0
MAX_FETCHED_BYTES = 64 * 2**20


def open_photo(photo: Photo) -> Image.Image:
    """The pixels of a photo, decoded by the rules of `pipeline.preprocess.decode`, as the training photos were.

    Args:
        photo: a path, an http(s) address, the bytes of an image file, a PIL image, or a uint8 array of (height, width),
            (height, width, 3) in RGB or (height, width, 4) in RGBA.

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
    return pixels(fetched(photo) if is_address(photo) else _read(Path(photo)))


def is_address(photo: Photo) -> TypeGuard[str]:
    """Whether it is an http(s) address."""
    return isinstance(photo, str) and photo.startswith(("http://", "https://"))


def fetched(address: str) -> bytes:
    """The bytes at an http(s) address.

    Raises:
        Refused: it cannot be reached in time, is no success, leads from HTTPS to HTTP, or gives more than `MAX_FETCHED_BYTES`.
    """
    try:
        with requests.get(address, stream=True, timeout=TIMEOUTS) as response:
            hops = [*response.history[1:], response]
            if address.startswith("https://") and any(urlsplit(hop.url).scheme != "https" for hop in hops):
                raise Refused("it redirects from HTTPS to HTTP")
            response.raise_for_status()
            return _body(response)
    except requests.RequestException as error:
        raise Refused(f"cannot be fetched: {plain(str(error))}") from None


def _body(response: requests.Response) -> bytes:
    """All that is sent, in time: the timeouts of requests are for any next bytes, which may come one by one."""
    deadline = time.monotonic() + SECONDS_TO_FETCH
    content = bytearray()
    for chunk in response.iter_content(2**16):
        content += chunk
        if len(content) > MAX_FETCHED_BYTES:
            raise Refused(f"more than {megabytes(MAX_FETCHED_BYTES)} come from there")
        if time.monotonic() > deadline:
            raise Refused(f"it took more than {SECONDS_TO_FETCH:.0f} s to fetch")
    return bytes(content)


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
            raise Refused("a folder without photos" if path.is_dir() else "there is no such file")
        if (size := path.stat().st_size) > MAX_FILE_BYTES:
            raise Refused(f"file too large: {megabytes(size)}")
        return path.read_bytes()
    except OSError as error:
        raise Refused(f"cannot be read: {error.strerror}") from None
