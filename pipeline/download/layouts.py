"""The layouts in which sets of cats and dogs are passed around, and how each becomes class folders of photos.

    PetImages/Cat/0.jpg        the published archive, below any folders
    train/cat.0.jpg            one flat folder, the class in the file's name, as on Kaggle
    photos/<class>/any.jpg     a folder per class, of any two or more names

The last two may stand in folders train, val and test, or any layout have a splits.csv beside it: those are the splits that
the photos come with (pipeline.download.predefined). Files beside them, such as a readme, belong to no class.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from pipeline.download.members import Member, reading
from pipeline.download.predefined import SPLITS_FILE, parse_predefined, split_named
from pipeline.errors import PipelineError

PHOTO_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
_FLAT_NAME = re.compile(r"(cat|dog)\.(\d+\.\w+)", re.IGNORECASE)
NAMES_SHOWN = 5
MAX_SPLITS_BYTES = 2**28

Parts = tuple[str, ...]


@dataclass(frozen=True)
class Placed:
    """A member, the class it belongs to, the name that its file gets in that class's folder, and the split it comes with."""

    member: Member
    label: str
    name: str
    split: str = ""


def place(source: Path, members: Sequence[Member]) -> tuple[str, list[Placed]]:
    """Recognise the layout of a source and give every file of its class folders a place.

    Args:
        source: what was listed; only for the text of errors.
        members: all that it holds.

    Returns:
        The layout's name ("published", "flat" or "class folders"), and the files in the order of `members`. Files that
        belong to no class are left out; those of a class folder that are no photos are not. Where two splits have a file
        of the same class and name, every name gets its split in front.

    Raises:
        PipelineError: no layout fits, there are fewer than two classes, one of them has no photos, or a splits.csv does
            not fit the photos.
    """
    visible = [member for member in members if not _is_hidden(member)]
    photos = [member.parts for member in visible if not member.is_folder and is_photo(member.parts[-1])]
    place_in: Callable[[Path, Parts, Sequence[Member]], list[Placed]]
    if folders := _flat_folders(photos):
        layout, place_in = "flat", _place_flat
    elif folders := {parts[:-2] for parts in photos if parts[-3:-2] and parts[-3].lower() == "petimages"}:
        layout, place_in = "published", _place_folders
    elif photos and all(parts[:-1] for parts in photos):
        layout, place_in, folders = "class folders", _place_folders, {parts[:-2] for parts in photos}
    else:
        raise _unknown(source, members)
    roots = _one_set(source, folders)
    placed = [replace(photo, split=split) for root, split in roots.items() for photo in place_in(source, root, visible)]
    order = {member.name: index for index, member in enumerate(members)}  # a compressed tar is slow in any other
    placed.sort(key=lambda photo: order[photo.member.name])
    classes = {photo.label for photo in placed}
    if len(classes) < 2:
        raise PipelineError(f"{source} holds photos of one class alone ({', '.join(classes)}); two or more are needed.")
    if len(roots) > 1:
        return layout, _told_apart(placed)
    return layout, _with_listed_splits(source, next(iter(roots)), placed, visible)


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


def _one_set(source: Path, folders: set[Parts]) -> dict[Parts, str]:
    """The folders of one set of photos, each with its split: one folder, or the splits side by side."""
    if len(folders) == 1:
        return dict.fromkeys(folders, "")
    splits = {folder: split_named(folder[-1]) if folder else "" for folder in sorted(folders)}
    distinct = "" not in splits.values() and len(set(splits.values())) == len(splits)
    if distinct and len({folder[:-1] for folder in folders}) == 1:
        return splits
    names = ", ".join(repr("/".join(folder) or ".") for folder in sorted(folders)[:NAMES_SHOWN])
    raise PipelineError(
        f"{source} holds {len(folders)} sets of photos, in {names}: put the one that is meant in a folder of its own "
        "and give that."
    )


def _told_apart(placed: list[Placed]) -> list[Placed]:
    """Names that are unique in their class, which train/cats/0.jpg and val/cats/0.jpg do not have."""
    splits: dict[tuple[str, str], set[str]] = defaultdict(set)
    for photo in placed:
        splits[photo.label, photo.name.casefold()].add(photo.split)
    if all(len(found) == 1 for found in splits.values()):
        return placed
    return [replace(photo, name=f"{photo.split}_{photo.name}") for photo in placed]


def _with_listed_splits(source: Path, root: Parts, placed: list[Placed], members: Sequence[Member]) -> list[Placed]:
    """Give the photos the splits that a splits.csv, in the folder of the classes or in the one above, lists them in."""
    tables = [member for member in members if not member.is_folder and member.parts[-1].casefold() == SPLITS_FILE]
    for folder in dict.fromkeys((root, root[:-1])):
        for table in tables:
            if table.parts[:-1] == folder:
                return _as_listed(f"{source}: {table.name!r}", _listed_splits(source, table), folder, placed)
    return placed


def _listed_splits(source: Path, table: Member) -> dict[str, str]:
    what = f"{source}: {table.name!r}"
    if table.size > MAX_SPLITS_BYTES:
        raise PipelineError(f"{what} is too large for a list of photos ({table.size:,} bytes).")
    with reading(what):
        with table.open() as file:
            text = file.read(MAX_SPLITS_BYTES).decode()
    return parse_predefined(text, what)


def _as_listed(what: str, listed: Mapping[str, str], folder: Parts, placed: list[Placed]) -> list[Placed]:
    depth = len(folder)
    paths = {photo.member.name: "/".join(photo.member.parts[depth:]) for photo in placed}
    if missing := sorted(set(listed) - set(paths.values())):
        raise PipelineError(f"{what} lists {len(missing):,} files that are not there, such as {missing[0]!r}.")
    unlisted = [path for path in paths.values() if path not in listed and is_photo(path)]
    if unlisted:
        raise PipelineError(f"{what} does not list {len(unlisted):,} photos, such as {min(unlisted)!r}: list every photo.")
    return [replace(photo, split=listed.get(paths[photo.member.name], "")) for photo in placed]


def _place_flat(_: Path, folder: Parts, members: Sequence[Member]) -> list[Placed]:
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
