"""The layouts in which sets of cats and dogs are passed around, and how each becomes class folders of photos.

    PetImages/Cat/0.jpg        the published archive, below any folders
    train/cat.0.jpg            one flat folder, the class in the file's name, as on Kaggle
    photos/<class>/any.jpg     a folder per class, of any two or more names

Files beside them, such as a readme, belong to no class.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from pipeline.data.members import Member
from pipeline.errors import PipelineError

PHOTO_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
_FLAT_NAME = re.compile(r"(cat|dog)\.(\d+\.\w+)", re.IGNORECASE)
NAMES_SHOWN = 5

Parts = tuple[str, ...]


@dataclass(frozen=True)
class Placed:
    """A member, the class it belongs to and the name that its file gets in that class's folder."""

    member: Member
    label: str
    name: str


def place(source: Path, members: Sequence[Member]) -> tuple[str, list[Placed]]:
    """Recognise the layout of a source and give every file of its class folders a place.

    Args:
        source: what was listed; only for the text of errors.
        members: all that it holds.

    Returns:
        The layout's name ("published", "flat" or "class folders"), and the files in the order of `members`. Files that
        belong to no class are left out; those of a class folder that are no photos are not.

    Raises:
        PipelineError: no layout fits, there are fewer than two classes, or one of them has no photos.
    """
    visible = [member for member in members if not _is_hidden(member)]
    photos = [member.parts for member in visible if not member.is_folder and is_photo(member.parts[-1])]
    if flat := _flat_folders(photos):
        layout, placed = "flat", _place_flat(_only(source, flat), visible)
    elif published := {parts[:-2] for parts in photos if parts[-3:-2] and parts[-3].lower() == "petimages"}:
        layout, placed = "published", _place_folders(source, _only(source, published), visible)
    elif photos and all(parts[:-1] for parts in photos):
        layout = "class folders"
        placed = _place_folders(source, _only(source, {parts[:-2] for parts in photos}), visible)
    else:
        raise _unknown(source, members)
    classes = {photo.label for photo in placed}
    if len(classes) < 2:
        raise PipelineError(f"{source} holds photos of one class alone ({', '.join(classes)}); two or more are needed.")
    return layout, placed


def is_photo(name: str) -> bool:
    """Whether a file's name says that it is a photo."""
    return PurePath(name).suffix.lower() in PHOTO_SUFFIXES


def _is_hidden(member: Member) -> bool:
    """Whether a member lies in a folder that programs keep for themselves (.git, .dvc, __MACOSX)."""
    folders = member.parts if member.is_folder else member.parts[:-1]
    return any(part.startswith(".") or part == "__MACOSX" for part in folders)


def _flat_folders(photos: Sequence[Parts]) -> set[Parts]:
    """The folders that hold both cat.N and dog.N; one that holds either alone is a class folder."""
    classes: dict[Parts, set[str]] = {}
    for *folder, name in photos:
        if match := _FLAT_NAME.fullmatch(name):
            classes.setdefault(tuple(folder), set()).add(match[1].lower())
    return {folder for folder, found in classes.items() if len(found) == 2}


def _only(source: Path, folders: set[Parts]) -> Parts:
    if len(folders) == 1:
        return next(iter(folders))
    names = ", ".join(repr("/".join(folder) or ".") for folder in sorted(folders)[:NAMES_SHOWN])
    raise PipelineError(
        f"{source} holds {len(folders)} sets of photos, in {names}: put the one that is meant in a folder of its own "
        "and give that."
    )


def _place_flat(folder: Parts, members: Sequence[Member]) -> list[Placed]:
    """cat.0.jpg -> 0.jpg of Cat; other files of the folder belong to no class."""
    inside = [member for member in members if not member.is_folder and member.parts[:-1] == folder]
    matches = [(member, _FLAT_NAME.fullmatch(member.parts[-1])) for member in inside if is_photo(member.parts[-1])]
    return [Placed(member, match[1].capitalize(), match[2]) for member, match in matches if match]


def _place_folders(source: Path, root: Parts, members: Sequence[Member]) -> list[Placed]:
    """Every file that lies directly in a folder below `root`."""
    depth = len(root)
    below = [member for member in members if member.parts[:depth] == root]
    placed = [
        Placed(member, member.parts[depth], member.parts[-1])
        for member in below
        if len(member.parts) == depth + 2 and not member.is_folder
    ]
    folders = {member.parts[depth] for member in below if len(member.parts) > depth + (not member.is_folder)}
    if bare := sorted(folders - {photo.label for photo in placed if is_photo(photo.name)}):
        path = "/".join((*root, bare[0]))
        raise PipelineError(f"{source}: the class folder {path!r} has no photos: add some, or take the folder away.")
    return placed


def _unknown(source: Path, members: Sequence[Member]) -> PipelineError:
    files = [member.name for member in members if not member.is_folder]
    if not files:
        return PipelineError(f"{source} holds no files.")
    more = f" and {len(files) - NAMES_SHOWN:,} more" if len(files) > NAMES_SHOWN else ""
    return PipelineError(
        f"{source} holds no photos in a layout that is known here. It holds {', '.join(map(repr, files[:NAMES_SHOWN]))}"
        f"{more}. Known are PetImages/Cat/0.jpg (the published archive), train/cat.0.jpg (flat, as on Kaggle) and "
        "<class>/any.jpg (a folder for each of two or more classes)."
    )
