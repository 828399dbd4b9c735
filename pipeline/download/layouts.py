"""Dataset layouts: how a set of photos is recognised, and which class and file name each photo gets.

    PetImages/Cat/0.jpg        the published archive, below any folders
    train/cat.0.jpg            one flat folder, the class in the file's name, as on Kaggle
    photos/<class>/any.jpg     a folder per class, of any two or more names

Any of them may lie in folders train, val and test, or have a splits.csv (columns path and split): those are predefined splits,
which preprocessing uses as they are. Other files, such as a readme, belong to no class. A new layout is an entry in LAYOUTS.
"""

import csv
import io
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from pipeline.download.extract import reading
from pipeline.errors import PipelineError

PHOTO_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
SPLITS_FILE = "splits.csv"
SPLIT_NAMES = {"train": "train", "training": "train", "test": "test", "testing": "test"}
SPLIT_NAMES |= dict.fromkeys(("val", "valid", "validation", "dev"), "val")
NAMES_SHOWN = 10
_FLAT_NAME = re.compile(r"(cat|dog)\.(\d+\.\w+)", re.IGNORECASE)

Parts = tuple[str, ...]


@dataclass(frozen=True)
class PlacedPhoto:
    """A file of the source, its class, its name in that class's folder, and its predefined split ("" for none)."""

    path: str
    label: str
    name: str
    split: str = ""


@dataclass(frozen=True)
class Layout:
    """One way to lay out a set of photos.

    Attributes:
        name: what it is called.
        example: a path in it, with a few words.
        find: the folders that hold a set in this layout, from the paths of all photos; empty where none does.
        place: the class and the file name of a file, from its path below such a folder; None where it belongs to no class.
    """

    name: str
    example: str
    find: Callable[[Sequence[Parts]], set[Parts]]
    place: Callable[[Parts], tuple[str, str] | None]


def place(source: Path, root: Path, files: Sequence[str], folders: Sequence[str]) -> tuple[str, list[PlacedPhoto]]:
    """Recognise the layout of a source and place every file of its classes.

    Args:
        source: the source, for the text of errors.
        root: the folder with what it holds.
        files: the paths of all files below `root`, with forward slashes.
        folders: the paths of all folders below it.

    Returns:
        The layout's name, and the files. Those that belong to no class are left out; those of a class folder that are no photos
        are not. Where two splits have a file of the same class and name, every name begins with its split.

    Raises:
        PipelineError: no layout fits, there are fewer than two classes, one of them has no photos, or a splits.csv does
            not fit the photos.
    """
    visible = [parts for parts in map(_parts, files) if not _is_hidden(parts[:-1])]
    photos = [parts for parts in visible if is_photo(parts[-1])]
    layout = next((layout for layout in LAYOUTS if layout.find(photos)), None)
    if layout is None:
        known = ", ".join(layout.example for layout in LAYOUTS)
        held = first_few([repr(path) for path in files]) or "no files"
        raise PipelineError(f"{source} holds no photos in a known layout. It holds {held}. Known layouts: {known}.")
    splits = _one_set(source, layout.find(photos))
    placed = [
        PlacedPhoto("/".join(parts), *placing, split)
        for folder, split in splits.items()
        for parts in visible
        if parts[: len(folder)] == folder and (placing := layout.place(parts[len(folder) :]))
    ]
    classes = {photo.label for photo in placed if is_photo(photo.name)}
    below = [folder for folder in map(_parts, folders) if folder[:-1] in splits and not _is_hidden(folder)]
    if bare := [folder for folder in below if layout.place((folder[-1], "0.jpg")) and folder[-1] not in classes]:
        raise PipelineError(f"{source}: the class folder {'/'.join(bare[0])!r} has no photos: add some, or remove the folder.")
    if len(classes) < 2:
        raise PipelineError(f"{source} holds photos of one class only ({', '.join(classes)}); two or more are needed.")
    if len(splits) > 1:
        return layout.name, _unique_names(placed)
    return layout.name, _with_listed_splits(source, root, next(iter(splits)), placed)


def is_photo(name: str) -> bool:
    """Whether a file is a photo by its name's suffix."""
    return PurePath(name).suffix.lower() in PHOTO_SUFFIXES


def first_few(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - NAMES_SHOWN:,} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


def split_named(name: str) -> str:
    """The split that goes by a name ("Validation" is "val"), or "" where none does."""
    return SPLIT_NAMES.get(name.strip().casefold(), "")


def _read_list(table: Path, what: str) -> dict[str, str]:
    """Path -> "train", "val" or "test", from a splits.csv; further columns are ignored."""
    rows = csv.DictReader(io.StringIO(table.read_text(encoding="utf-8-sig"), newline=""))
    if not {"path", "split"} <= set(rows.fieldnames or ()):
        raise PipelineError(f"{what} needs the columns path and split, and has {', '.join(rows.fieldnames or ()) or 'none'}.")
    splits: dict[str, str] = {}
    for row in rows:
        path, name = row["path"] or "", row["split"] or ""
        if not split_named(name) or path in splits:
            raise PipelineError(f"{what} has {path!r} in the split {name!r}: list a path once, as train, val or test.")
        splits[path] = split_named(name)
    return splits


def _parts(path: str) -> Parts:
    return tuple(path.split("/"))


def _is_hidden(folders: Parts) -> bool:
    """Whether a folder is one that programs use for themselves (.git, .dvc, __MACOSX), or lies in one."""
    return any(name.startswith(".") or name == "__MACOSX" for name in folders)


def _one_set(source: Path, folders: set[Parts]) -> dict[Parts, str]:
    """The folders of one set of photos, each with its split: one folder, or one for each split."""
    if len(folders) == 1:
        return dict.fromkeys(folders, "")
    splits = {folder: split_named(folder[-1]) if folder else "" for folder in sorted(folders)}
    distinct = "" not in splits.values() and len(set(splits.values())) == len(splits)
    if distinct and len({folder[:-1] for folder in folders}) == 1:
        return splits
    names = first_few(sorted(repr("/".join(folder) or ".") for folder in folders))
    raise PipelineError(f"{source} holds {len(folders)} sets of photos, in {names}: give one of these folders.")


def _unique_names(placed: list[PlacedPhoto]) -> list[PlacedPhoto]:
    """Names that are unique in their class, which train/cats/0.jpg and val/cats/0.jpg do not have."""
    splits: dict[tuple[str, str], set[str]] = defaultdict(set)
    for photo in placed:
        splits[photo.label, photo.name.casefold()].add(photo.split)
    if all(len(found) == 1 for found in splits.values()):
        return placed
    return [replace(photo, name=f"{photo.split}_{photo.name}") for photo in placed]


def _with_listed_splits(source: Path, root: Path, folder: Parts, placed: list[PlacedPhoto]) -> list[PlacedPhoto]:
    """Give the photos the splits of a splits.csv, which lies in the folder of the classes or in the one above."""
    found = [
        (parent, path)
        for parent in (folder, folder[:-1])
        for path in root.joinpath(*parent).iterdir()
        if path.is_file() and path.name.casefold() == SPLITS_FILE
    ]
    if not found:
        return placed
    parent, table = found[0]
    what = f"{source}: {table.relative_to(root).as_posix()!r}"
    with reading(what):
        listed = _read_list(table, what)
    paths = ["/".join(_parts(photo.path)[len(parent) :]) for photo in placed]
    if missing := sorted(set(listed).difference(paths)):
        raise PipelineError(f"{what} lists {len(missing):,} files that are not there, such as {missing[0]!r}.")
    if unlisted := [path for path in paths if path not in listed and is_photo(path)]:
        raise PipelineError(f"{what} does not list {len(unlisted):,} photos, such as {min(unlisted)!r}: list every photo.")
    return [replace(photo, split=listed.get(path, "")) for photo, path in zip(placed, paths, strict=True)]


def _find_flat(photos: Sequence[Parts]) -> set[Parts]:
    """The folders that hold both cat.N and dog.N; one that holds only one of them is a class folder."""
    classes: dict[Parts, set[str]] = defaultdict(set)
    for *folder, name in photos:
        if match := _FLAT_NAME.fullmatch(name):
            classes[tuple(folder)].add(match[1].lower())
    return {folder for folder, found in classes.items() if len(found) == 2}


def _place_flat(parts: Parts) -> tuple[str, str] | None:
    """cat.0.jpg -> 0.jpg of Cat."""
    match = _FLAT_NAME.fullmatch(parts[0]) if len(parts) == 1 and is_photo(parts[0]) else None
    return (match[1].capitalize(), match[2]) if match else None


def _find_published(photos: Sequence[Parts]) -> set[Parts]:
    return {parts[:-2] for parts in photos if len(parts) > 2 and parts[-3].lower() == "petimages"}


def _find_class_folders(photos: Sequence[Parts]) -> set[Parts]:
    return {parts[:-2] for parts in photos} if all(len(parts) > 1 for parts in photos) else set()


def _place_in_class_folder(parts: Parts) -> tuple[str, str] | None:
    """cats/a.jpg -> a.jpg of cats."""
    return (parts[0], parts[1]) if len(parts) == 2 else None


LAYOUTS = (  # the first that finds a folder is taken
    Layout("flat", "train/cat.0.jpg (flat, as on Kaggle)", _find_flat, _place_flat),
    Layout("published", "PetImages/Cat/0.jpg (the published archive)", _find_published, _place_in_class_folder),
    Layout(
        "class folders",
        "<class>/any.jpg (a folder for each of two or more classes)",
        _find_class_folders,
        _place_in_class_folder,
    ),
)
