"""What a person names on the command line, as photos: files, folders, patterns, addresses, and one photo on standard input.

for name, photo in photos_named(["holiday/", "*.png", "https://example.org/cat.jpg", "-"]):
    ...
"""

import glob
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.inference.photo import Photo, is_address

SUFFIXES = {".jpg", ".jpeg", ".jpe", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}


def photos_named(arguments: Iterable[str]) -> Iterator[tuple[str, Photo]]:
    """The name and the photo for each file that the arguments come to, in their order, folders and patterns sorted.

    A folder means the photos in it and below, known by their suffix; any other file is taken for a photo whatever it is called.
    `-` is the bytes of one photo on standard input. What does not exist comes out as it is, so that opening it tells.
    """
    for argument in arguments:
        if argument == "-":
            yield "standard input", sys.stdin.buffer.read()
        elif is_address(argument):
            yield argument, argument
        else:
            yield from ((str(path), path) for path in _files(Path(argument)))


def photos_in(folder: Path) -> list[Path]:
    """The photos in a folder and below it, known by their suffix, in the order of their paths; hidden files are left out."""
    photos = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))
    return sorted(path for path in photos if path.is_file())


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return photos_in(path) or [path]
    if not path.exists() and glob.has_magic(str(path)):
        return [Path(found) for found in sorted(glob.glob(str(path), recursive=True))] or [path]
    return [path]
