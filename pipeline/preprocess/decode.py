"""Decoding: the bytes of one photo file to upright RGB pixels, or the reason why not. Training and prediction share it.

* The content decides, not the extension: JPEG, MPO, PNG, WEBP, GIF, BMP and TIFF are read, nothing else.
* The EXIF orientation is applied. Transparency is laid over white. The first frame stands for an animation.
* 16-bit grey is scaled to 8 bits; CMYK, YCbCr and palettes are converted without a colour profile; floating-point, 32-bit
  and Lab pixels have no agreed range and are refused.
* A file that ends early is refused, also where libjpeg would fill the rest with grey.
* No file may hold more than `MAX_PIXELS` pixels.

Pillow decodes. Ordinary JPEGs go to OpenCV, which takes a third less time for the same pixels (both call libjpeg-turbo;
`python -m tests.preprocess.mutate` compares them).
"""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

# Workers are forked, and a forked OpenCV would wait for ever for its parent's threads.
cv2.setNumThreads(0)

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # MPO is a JPEG with further pictures behind it
MAX_FILE_BYTES = 512 * 2**20
MAX_PIXELS = 100_000_000  # 400 MB while decoding, and far above what cameras make
EXIF_ORIENTATION = 0x0112
TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
CONVERTED = {"CMYK": "CMYK converted", "YCbCr": "YCbCr converted", "P": "palette expanded", "RGBX": "padding dropped"}
CORNER = 8  # pixels a side of what a JPEG ends with: one block
SCAN_END = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # in coded JPEG data 0xff is followed by 0, by a restart or by 0xff


class Refused(Exception):
    """The file is not a usable photo; `str(error)` is the reason, with details only after a colon."""


@dataclass(frozen=True)
class Decoded:
    """One decoded photo.

    Attributes:
        pixels: upright RGB, (height, width, 3) uint8, contiguous.
        format: one of `FORMATS` or "MPO".
        mode: Pillow's name of the file's pixel format ("RGB", "L", "CMYK" ...).
        orientation: the EXIF orientation of the file, 1 to 8.
        notes: what was repaired or converted; empty for an ordinary photo.
    """

    pixels: np.ndarray
    format: str
    mode: str
    orientation: int
    notes: tuple[str, ...]


def decode(data: bytes, *, note_warnings: bool = True) -> Decoded:
    """Decode one photo.

    Args:
        data: the file's bytes.
        note_warnings: add the decoder's warnings to the notes. Not for threads, which share Python's warning filters.

    Raises:
        Refused: whatever is wrong with the bytes.
        MemoryError: the pixels do not fit into memory.
    """
    with _refusing():
        if not note_warnings:
            return _decode(data)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            decoded = _decode(data)
    notes = [*decoded.notes, *(f"decoder warning: {plain(str(warning.message))}" for warning in caught)]
    return replace(decoded, notes=tuple(dict.fromkeys(notes)))


def pixels(data: bytes) -> Image.Image:
    """The image of `decode` alone, also for threads. Raises as `decode` does."""
    return Image.fromarray(decode(data, note_warnings=False).pixels)


def pixels_of(image: Image.Image) -> Image.Image:
    """What `decode` makes of a file, of an image that Pillow has opened: RGB, upright. Raises as `decode` does."""
    with _refusing():
        _check_size(image)
        image.load()
        return _upright(_to_rgb(image, []), _orientation(image))


@contextmanager
def _refusing() -> Iterator[None]:
    """Turn whatever a decoder raises into `Refused`."""
    try:
        yield
    except (Refused, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise Refused("not a photo in a known format") from error
    except Image.DecompressionBombError as error:
        raise Refused("too many pixels") from error
    except Exception as error:  # a decoder fed with broken bytes raises almost anything
        raise Refused(_reason(error)) from error


def plain(message: str) -> str:
    """A message as one printable line of at most 160 characters, without the separators that reasons use."""
    line = re.sub(r"[^ -~]+|;|\s+", " ", re.sub(r"0x[0-9a-f]{6,}", "", message))
    return " ".join(line.split())[:160]


def _reason(error: Exception) -> str:
    message = plain(str(error))
    if "truncated" in message.lower():
        return f"truncated: {message}"
    return f"does not decode: {type(error).__name__} {message}".rstrip()


def _decode(data: bytes) -> Decoded:
    if not data:
        raise Refused("empty file")
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    _check_size(image)
    format_name, mode, notes = str(image.format), image.mode, list[str]()
    if format_name == "JPEG" and (pixels := _ordinary_jpeg(data, image)) is not None:
        return Decoded(pixels, format_name, mode, 1, ())
    if format_name != "MPO" and getattr(image, "is_animated", False):
        notes.append("first frame of several")
    # Pillow turns a TIFF upright while it loads. Elsewhere EXIF may stand behind the pixels, so it is read later.
    turned = _orientation(image) if format_name == "TIFF" else 1
    image.load()
    if format_name in ("JPEG", "MPO"):
        _check_jpeg(data, image, notes, single=format_name == "JPEG")
    remaining = _orientation(image)
    rgb = _upright(_to_rgb(image, notes), remaining)
    orientation = max(turned, remaining)
    if orientation != 1:
        notes.append("EXIF orientation applied")
    return Decoded(np.ascontiguousarray(rgb), format_name, mode, orientation, tuple(notes))


def _ordinary_jpeg(data: bytes, image: Image.Image) -> np.ndarray | None:
    """The pixels of an upright RGB or grey JPEG in good order; None for any other file."""
    if image.mode not in ("RGB", "L") or _orientation(image) != 1:
        return None
    _, end, stray = _walk_jpeg(data)
    if end != len(data) or stray:
        return None
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:  # out of memory: Pillow then raises MemoryError
        return None
    if pixels is None or pixels.shape[1::-1] != image.size or _is_filling(pixels[-CORNER:, -CORNER:].tobytes()):
        return None
    return pixels


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise Refused(f"too many pixels: {width} x {height}")
    if min(width, height) < 1:
        raise Refused("no pixels")


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image if orientation == 1 else image.transpose(TRANSPOSITIONS[orientation])


def _orientation(image: Image.Image) -> int:
    value = image.getexif().get(EXIF_ORIENTATION, 1)  # of any type: what stands there is up to the file
    return int(value) if value in TRANSPOSITIONS else 1


def _to_rgb(image: Image.Image, notes: list[str]) -> Image.Image:
    """Convert to RGB by the rules at the top of this module."""
    if image.mode.startswith("I;16"):
        notes.append("16-bit scaled to 8")
        values = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        notes.append("transparency laid over white")
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    if image.mode == "RGB":
        return image
    if image.mode in CONVERTED:
        notes.append(CONVERTED[image.mode])
    elif image.mode not in ("L", "1"):
        raise Refused(f"unsupported pixel format: {image.mode}")
    return image.convert("RGB")


def _check_jpeg(data: bytes, image: Image.Image, notes: list[str], *, single: bool) -> None:
    """Refuse a JPEG that ends early (libjpeg fills the rest with grey, and Pillow hides its warning); note stray bytes."""
    scan_end, end, stray = _walk_jpeg(data)
    if end is None:
        raise Refused("truncated: no end marker")
    left, top = max(0, image.width - CORNER), max(0, image.height - CORNER)
    if _is_filling(image.crop((left, top, *image.size)).tobytes()) and _wants_more(data, scan_end, image):
        raise Refused("truncated: the coded data end before the picture does")
    if stray:
        notes.append("stray bytes between segments")
    if single and end < len(data):
        notes.append("bytes after the end marker")


def _walk_jpeg(data: bytes) -> tuple[int, int | None, bool]:
    """Where the first scan's data end, where the picture ends (None: no end marker), and whether there are stray bytes."""
    position, scan_end, stray = 2, len(data), False
    while position + 1 < len(data):
        marker = data[position + 1]
        if data[position] != 0xFF or marker == 0x00:
            stray = True
            position = _next_marker(data, position + 1)
        elif marker == 0xFF:  # any number of 0xff may precede a marker
            position += 1
        elif marker == 0xD9:
            return min(scan_end, position), position + 2, stray
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers without a segment
            position += 2
        else:
            position += 2 + max(2, int.from_bytes(data[position + 2 : position + 4], "big"))
            if marker == 0xDA:
                position = _next_marker(data, position)
                scan_end = min(scan_end, position)
    return scan_end, None, stray


def _next_marker(data: bytes, start: int) -> int:
    found = SCAN_END.search(data, start)
    return found.start() if found else len(data)


def _is_filling(corner: bytes) -> bool:
    """Whether the last pixels are all the grey of coefficients that are zero (127 where CMYK is inverted)."""
    return set(corner) <= {127, 128}


def _wants_more(data: bytes, scan_end: int, image: Image.Image) -> bool:
    """Whether the decoder would use further coded data: a photo that is complete ignores what is added to its scan."""
    longer = Image.open(io.BytesIO(data[:scan_end] + bytes(range(1, 255)) + data[scan_end:]), formats=("JPEG",))
    return longer.tobytes() != image.tobytes()
