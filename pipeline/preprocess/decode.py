"""Decoding: the bytes of one photo file to an upright RGB image, or the reason why not. Training and prediction share it.

* The content decides, not the extension: JPEG, MPO, PNG, WEBP, GIF, BMP, TIFF, HEIC and AVIF are read, nothing else.
* The EXIF orientation is applied. Transparency is laid over white. The first frame stands for an animation.
* 16-bit grey is scaled to 8 bits, by the smallest number of bits, from 8 to 16, that holds its maximum, because cameras of 10
  or 12 bits leave the upper ones empty.
* CMYK, YCbCr and palettes are converted without a colour profile; floating-point, 32-bit and Lab pixels have no agreed range
  and are refused.
* A file that ends early is refused, also where libjpeg would fill the rest with grey.
* A photo may hold `MAX_PIXELS` pixels. A JPEG may hold `MAX_JPEG_PIXELS`, because libjpeg can read it at a half, a quarter or
  an eighth of its size; so it does above `MAX_PIXELS`.
* A photo's longer side is at most `MAX_ASPECT` times the shorter one: any transform would make gigabytes of a line.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from pillow_heif import register_heif_opener

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")  # MPO is a JPEG with further pictures behind it
MAX_FILE_BYTES = 512 * 2**20
MAX_PIXELS = 100_000_000  # 400 MB while decoding
MAX_JPEG_PIXELS = 250_000_000  # phones reach 200 million
MAX_ASPECT = 50  # panoramas stay below 20
register_heif_opener(thumbnails=False)
Image.MAX_IMAGE_PIXELS = MAX_JPEG_PIXELS  # Pillow's own bound, from which on it warns, is lower
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY  # up to 64 MB of text or profile do not spoil the pixels
EXIF_ORIENTATION = 0x0112
TO = Image.Transpose
# What puts a photo of EXIF orientation 2 to 8 upright.
UPRIGHT = TO.FLIP_LEFT_RIGHT, TO.ROTATE_180, TO.FLIP_TOP_BOTTOM, TO.TRANSPOSE, TO.ROTATE_270, TO.TRANSVERSE, TO.ROTATE_90
TRANSPOSITIONS = dict(enumerate(UPRIGHT, 2))
CONVERTED = {"CMYK": "CMYK converted", "YCbCr": "YCbCr converted", "P": "palette expanded", "RGBX": "padding dropped"}
CORNER = 8  # pixels a side of what a JPEG ends with: one block
SCAN_END = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # in coded data 0xff is followed by 0, a restart or 0xff


class Refused(Exception):
    """The file is not a usable photo; `str(error)` is the reason, with details only after a colon."""


class Decoded(NamedTuple):
    """One decoded photo."""

    image: Image.Image  # RGB, upright, without metadata
    format: str  # one of `FORMATS` or "MPO"
    mode: str  # Pillow's name of the file's pixel format ("RGB", "L", "CMYK" ...)
    orientation: int  # EXIF orientation of the file, 1 to 8
    notes: tuple[str, ...]  # what was repaired or converted; empty for an ordinary photo


def decode(data: bytes) -> Decoded:
    """Decode one photo from the file's bytes.

    `Refused` says what is wrong with the bytes, a MemoryError that the pixels do not fit into memory.
    """
    if not data:
        raise Refused("empty file")
    notes: list[str] = []
    with _refusing():
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        _check_size(image)
        notes += _read_smaller(image)
        format_name, mode = str(image.format), image.mode
        if format_name != "MPO" and getattr(image, "is_animated", False):
            notes.append("first frame of several")
        # Pillow turns a TIFF upright while it loads. Elsewhere EXIF may stand behind the pixels, so it is read later.
        turned = _orientation(image) if format_name == "TIFF" else 1
        image.load()
        if format_name in ("JPEG", "MPO"):
            notes += _check_jpeg(data, image)
        remaining = _orientation(image)
        rgb = _upright(_to_rgb(image, notes), remaining)
    rgb.info = {}  # a comment would be stored with the photo
    orientation = max(turned, remaining)
    if orientation != 1:
        notes.append("EXIF orientation applied")
    return Decoded(rgb, format_name, mode, orientation, tuple(notes))


def pixels_of(image: Image.Image) -> Image.Image:
    """What `decode` makes of a file, of an image that Pillow has opened: RGB, upright. Raises as `decode` does."""
    with _refusing():
        _check_size(image)
        _read_smaller(image)
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
        message = plain(str(error))
        kind = "truncated:" if "truncated" in message.lower() else f"does not decode: {type(error).__name__}"
        raise Refused(f"{kind} {message}".rstrip()) from error


def plain(message: str) -> str:
    """A message as one printable line of at most 160 characters, without the separators that reasons use."""
    line = re.sub(r"[^ -~]+|;|\s+", " ", re.sub(r"0x[0-9a-f]{6,}", "", message))
    return " ".join(line.split())[:160]


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > (MAX_JPEG_PIXELS if isinstance(image, JpegImageFile) else MAX_PIXELS):
        raise Refused(f"too many pixels: {width} x {height}")
    if min(width, height) < 1:
        raise Refused("no pixels")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise Refused(f"too long and thin: {width} x {height}")


def _read_smaller(image: Image.Image) -> list[str]:
    """Have libjpeg shrink what is above `MAX_PIXELS` to at most half of them while it decodes; returns a note."""
    width, height = image.size
    if width * height <= MAX_PIXELS:
        return []
    scale = next(scale for scale in (2, 4, 8) if width * height <= MAX_PIXELS / 2 * scale**2)
    image.draft(None, (width // scale, height // scale))
    return [f"read at a smaller scale: 1/{scale} of {width} x {height}"]


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image if orientation == 1 else image.transpose(TRANSPOSITIONS[orientation])


def _orientation(image: Image.Image) -> int:
    value = image.getexif().get(EXIF_ORIENTATION, 1)  # of any type: what stands there is up to the file
    return int(value) if value in TRANSPOSITIONS else 1


def _to_rgb(image: Image.Image, notes: list[str]) -> Image.Image:
    """Convert to RGB by the rules at the top of this module."""
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.uint32)
        bits = max(int(values.max()).bit_length(), 8)
        notes.append("16-bit scaled to 8" + (f": {bits} of them are used" if bits < 16 else ""))
        largest = 2**bits - 1
        return Image.fromarray(((values * 255 + largest // 2) // largest).astype(np.uint8)).convert("RGB")
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


def _check_jpeg(data: bytes, image: Image.Image) -> list[str]:
    """Refuse a JPEG that ends early (libjpeg fills the rest with grey, and Pillow hides its warning); returns notes."""
    scan_end, end, stray = _walk_jpeg(data)
    if end is None:
        raise Refused("truncated: no end marker")
    corner = image.crop((max(0, image.width - CORNER), max(0, image.height - CORNER), *image.size))
    is_filling = set(corner.tobytes()) <= {127, 128}  # all coefficients are zero (127 where CMYK is inverted)
    if is_filling and _wants_more(data, scan_end, image):
        raise Refused("truncated: the coded data end before the picture does")
    notes = ["stray bytes between segments"] if stray else []
    if image.format == "JPEG" and end < len(data):
        notes.append("bytes after the end marker")
    return notes


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


def _wants_more(data: bytes, scan_end: int, image: Image.Image) -> bool:
    """Whether the decoder would use further coded data: a photo that is complete ignores what is added to its scan."""
    longer = Image.open(io.BytesIO(data[:scan_end] + bytes(range(1, 255)) + data[scan_end:]), formats=("JPEG",))
    _read_smaller(longer)
    return longer.tobytes() != image.tobytes()
