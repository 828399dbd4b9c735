"""Dataset layouts: how a set of photos is recognised, and which class and file name each photo gets.

    labels.csv                 a list of photos with their classes, beside the photos (or train.csv, as on Kaggle)
    PetImages/Cat/0.jpg        the published archive, below any folders
    train/cat.0.jpg            one flat folder, the class in the file's name, as on Kaggle
    photos/<class>/any.jpg     a folder per class, of any two or more names; photos may lie in folders below it

Any of them may lie in folders named for train, val and test (training_set, seg_test, holdout ...), or have a splits.csv
(columns path and split): predefined splits, which preprocessing uses as they are. A new layout is an entry of LAYOUTS.

What is taken for what:

* The first layout of LAYOUTS that fits is taken, unless another one accounts for more than twice as many photos.
* A folder of cats beside one of dogs is a class, whatever its photos are called: one that was moved there keeps its name.
* The classes are the topmost folders that lie side by side, below folders of splits where such hold most photos.
* A folder that is named like documentation or samples (`STRAYS`) is no class where a folder beside it holds more photos. Any
  other folder of photos is one, however few it has.
* A folder of a split that has no class of the training photos, such as unlabelled test photos, is left out.
* Folders of splits may also lie below every class, and there alone. Folders of masks in every class (`MASKS`) are left out.
"""

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from hashlib import sha256
from itertools import chain
from os.path import commonprefix
from pathlib import Path, PurePath, PurePosixPath
from typing import NamedTuple

from pipeline.download.extract import Useless, folded, reading
from pipeline.download.listing import HIDDEN, NO_PHOTO, POINTER, is_hidden, is_photo_name
from pipeline.errors import PipelineError
from pipeline.progress import say

SPLITS_FILE = "splits.csv"
# What folders of documentation and samples are called.
STRAYS = re.compile(
    r"annotations?|assets|demos?|docs?|documentation|examples?|figures|images?|imgs?|previews?|readme|samples?|static|thumb(nail)?s",
    re.IGNORECASE,
)
# What folders beside the photos of a class are called where they hold no photos.
MASKS = re.compile(r"(.*[ _-])?(masks?|segmentations?|ground[ _-]?truth|trimaps?)", re.IGNORECASE)
# Columns of a list of labels, the first that is there; a path may be a file's name, with or without its suffix.
PATH_COLUMNS = ("path", "filepath", "filename", "file_name", "file", "image", "image_id", "id")
LABEL_COLUMNS = ("label", "class", "category", "breed", "labels")
NAMES_SHOWN = 10
DEEPEST = 100  # folders; where more lie in each other, no one's classes do
LONGEST_NAME = 255  # bytes of a file's name, on most disks
_SPLIT = re.compile(
    r"(?:seg[ _-]?)?(?:(train|training)|(val|valid|validation|dev)|(test|testing|eval|evaluation|hold[ _-]?out))"
    r"(?:[ _-]?(?:set|data|images|photos|\d+))*",
    re.IGNORECASE,
)
_LIST_OF_LABELS = re.compile(r"(.*?)[ _-]*(?:labels?)?\.csv", re.IGNORECASE)  # labels.csv, train.csv, trainLabels.csv
_FLAT_NAME = re.compile(r"(cat|dog)\.(\d+\.\w+)", re.IGNORECASE)

Parts = tuple[str, ...]


class PlacedPhoto(NamedTuple):
    """A file of the source, its class, its name in that class's folder, and its predefined split ("" for none)."""

    path: str
    label: str
    name: str
    split: str = ""


Sets = dict[Parts, list[PlacedPhoto]]  # the folder of each set, and its photos


class Placement(NamedTuple):
    """Where the files of a source go: the layout's name, the placed photos, and path -> reason of the files left out."""

    layout: str
    photos: list[PlacedPhoto]
    left_out: dict[str, str]

    @property
    def classes(self) -> dict[str, int]:
        """Class -> number of photos."""
        return dict(sorted(Counter(photo.label for photo in self.photos).items()))

    @property
    def splits(self) -> dict[str, int]:
        """Predefined split -> number of photos; empty without splits."""
        return dict(sorted(Counter(photo.split for photo in self.photos if photo.split).items()))


class Layout(NamedTuple):
    """One way to lay out a set of photos: its name, and a path in it with a few words."""

    name: str
    example: str
    # The folders that hold a set, from the paths of all photos; empty where none does.
    find: Callable[[Sequence[Parts]], set[Parts]]
    # The class and the file name of a photo, from its path below such a folder; None where it belongs to no class. The name
    # has the folders below the class's, if any.
    place: Callable[[Parts], tuple[str, str] | None]


class _Reading(NamedTuple):
    """A source read as one layout; without `layout`, as a list of labels."""

    name: str
    sets: Sets
    layout: Layout | None = None
    is_whole: bool = True  # whether a list of labels is of all photos around it, and not of a split for val or test alone

    def size(self, photos: Sequence[Parts]) -> int:
        """How many photos it accounts for, a list of labels for all around those it names; 0 where no set has two classes."""
        if all(len({photo.label for photo in placed}) < 2 for placed in self.sets.values()):
            return 0
        labels = [photo.label for placed in self.sets.values() for photo in placed]
        if self.layout or not self.is_whole or len(labels) == len(set(labels)):  # a table of classes names each of them once
            return len(labels)
        paths = [[at, *(_parts(photo.path) for photo in placed)] for at, placed in self.sets.items()]
        around = {tuple(commonprefix(found)) for found in paths}  # noqa: RUF071 - of tuples
        return sum(bool(_those_around(parts, around)) for parts in photos)


def place(source: Path, root: Path, files: Mapping[str, str], folders: Sequence[str]) -> Placement:
    """Recognise the layout of a source, and give every photo a class and a name of its own in that class.

    Args:
        source: what errors name.
        root: the folder with what it holds.
        files, folders: what lies in it, as `list_files` lists it.

    A PipelineError says that no layout fits, there are fewer than two classes, one of them is an empty folder, a list of labels
    or of splits does not fit the photos, or most photos are Git LFS pointers.
    """
    photos = [_parts(path) for path, why in files.items() if not why]
    pointers = [path for path, why in files.items() if why == POINTER]
    if len(pointers) > len(photos):
        raise PipelineError(
            f"{source} holds Git LFS pointers in place of {len(pointers):,} photos, such as {pointers[0]!r}: run "
            "`git lfs pull` in the repository that they come from, which brings the photos."
        )
    strays = _strays(photos)
    others = [parts for parts in photos if not _those_around(parts, strays)]
    readings = _read_list(source, root, files, photos) + [_read_layout(layout, others) for layout in LAYOUTS]
    sizes = [reading.size(photos) for reading in readings]
    fitting = (reading for reading, size in zip(readings, sizes, strict=True) if reading.sets and 2 * size >= max(sizes))
    reading = next(fitting, None)
    if reading is None:
        held = first_few([repr(path) for path in files]) or "no files"
        known = ", ".join([*(layout.example for layout in LAYOUTS), "labels.csv (columns path and label)"])
        kind = PipelineError if photos else Useless
        what = f"{source} holds no photos in a known layout. It holds {held}. Known layouts: {known}."
        raise kind("\n".join([what, *by_reason({path: why for path, why in files.items() if why not in ("", NO_PHOTO)})]))
    name, sets, layout, _ = reading
    kept = _without_masks(sets) if layout else sets
    masks = {photo.path for at in sets for photo in set(sets[at]).difference(kept[at])}
    placed = _of_one_set(source, root, files, folders, layout, kept)
    left_out = {path: why for path, why in files.items() if why}
    for parts in sorted(set(photos).difference(_parts(photo.path) for photo in placed)):
        path = "/".join(parts)
        why = "in a folder of masks" if path in masks else _why_left_out(parts, strays)
        left_out[path] = why if layout else f"no label in {name}"
    if len(classes := {photo.label for photo in placed}) < 2:
        found = f"photos of one class only ({', '.join(classes)})"
        raise PipelineError("\n".join([f"{source} holds {found}; two or more are needed.", *by_reason(left_out)]))
    return Placement(name, _with_unique_names(placed), dict(sorted(left_out.items())))


def first_few(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - NAMES_SHOWN:,} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


def by_reason(left_out: Mapping[str, str]) -> list[str]:
    """Lines that say what was left out: each reason, the most frequent first, with its files."""
    paths = defaultdict(list)
    for path, why in left_out.items():
        paths[why].append(path)
    return [
        f"Left out {len(found):,} ({why}): {first_few(found)}"
        for why, found in sorted(paths.items(), key=lambda item: -len(item[1]))
    ]


def split_named(name: str) -> str:
    """The split that goes by a name ("Validation_set" is "val"), or "" where none does."""
    match = _SPLIT.fullmatch(name.strip())
    return ("train", "val", "test")[match.lastindex - 1] if match and match.lastindex else ""


def first_split(names: Iterable[str]) -> str:
    """The split that the first of some names goes by that goes by any; "" where none does."""
    return next(filter(None, map(split_named, names)), "")


def _parts(path: str) -> Parts:
    return tuple(path.split("/"))


def _those_around(parts: Parts, folders: Collection[Parts]) -> list[Parts]:
    """Those of some folders that a path lies in."""
    return [parts[:depth] for depth in range(len(parts)) if parts[:depth] in folders]


def _strays(photos: Sequence[Parts]) -> set[Parts]:
    """The folders of documentation, samples and the like that lie beside the photos, or beside a folder around them."""
    strays: set[Parts] = set()
    at: Parts = ()
    while True:
        held = Counter(parts[len(at)] for parts in photos if parts[: len(at)] == at and len(parts) > len(at) + 1)
        beside = {name for name, count in held.items() if STRAYS.fullmatch(name) and count < max(held.values())}
        strays |= {(*at, name) for name in beside}
        if len(held) != len(beside) + 1:
            return strays
        at = (*at, *(set(held) - beside))


def _why_left_out(parts: Parts, strays: set[Parts]) -> str:
    """The reason why a photo has no class."""
    if _those_around(parts, strays):
        return "in a folder of documentation or samples"
    if any(map(split_named, parts[:-1])):
        return "in a folder of a split, without a class of the training photos"
    return "in no class folder"


def _read_layout(layout: Layout, photos: Sequence[Parts]) -> _Reading:
    sets: Sets = {folder: [] for folder in sorted(layout.find(photos))}
    for parts in photos:
        for folder in _those_around(parts, sets):
            if placing := layout.place(parts[len(folder) :]):
                sets[folder].append(PlacedPhoto("/".join(parts), *placing))
    return _Reading(layout.name, sets, layout)


def _of_one_set(
    source: Path, root: Path, files: Mapping[str, str], folders: Sequence[str], layout: Layout | None, sets: Sets
) -> list[PlacedPhoto]:
    """The photos of one set, which lies in one folder, or in one for each split; with their splits."""
    common = len(commonprefix([*sets]))  # noqa: RUF071 - of tuples
    splits = {folder: split_named(folder[common]) if len(folder) > common else "" for folder in sets}
    if len(sets) == 1 or "" in splits.values() or len(set(splits.values())) < len(sets):
        largest = max(sets, key=lambda folder: len(sets[folder]))
        if len(sets[largest]) < 0.95 * sum(map(len, sets.values())):  # otherwise they are stray photos, samples for instance
            names = first_few([repr("/".join(folder) or ".") for folder in sets])
            raise PipelineError(f"{source} holds {len(sets)} sets of photos, in {names}: give one of these folders.")
        splits = {largest: ""}
    labels = {folder: {folded(photo.label) for photo in sets[folder]} for folder in splits}
    if learnt := next((labels[folder] for folder, split in splits.items() if split == "train"), None):
        splits = {folder: split for folder, split in splits.items() if labels[folder] & learnt}  # unlabelled ones go
    filled = {name[: found.start()] for name, why in files.items() if why != HIDDEN for found in re.finditer("/", name)}
    for name in sorted(set(folders) - filled):
        *parent, last = _parts(name)
        is_class = tuple(parent) in splits and not is_hidden(last) and not STRAYS.fullmatch(last)
        if layout and is_class and layout.place((last, "0.jpg")):
            raise PipelineError(f"{source}: the class folder {name!r} is empty: add photos, or remove the folder.")
    if len(splits) > 1:
        return [photo._replace(split=photo.split or split) for folder, split in splits.items() for photo in sets[folder]]
    [folder] = splits
    placed = _with_splits_below_classes(source, folder, sets[folder]) if layout else sets[folder]
    return _with_listed_splits(source, root, files, folder, placed)


def _folder_below(photo: PlacedPhoto) -> str:
    """The folder right below its class's that a photo lies in; "" where it lies in none."""
    return photo.name.rpartition("/")[0].split("/")[0]


def _folders_below(placed: Iterable[PlacedPhoto]) -> dict[str, set[str]]:
    """Those folders of each class."""
    below = defaultdict(set)
    for photo in placed:
        below[photo.label].add(_folder_below(photo))
    return below


def _without_masks(sets: Sets) -> Sets:
    """Sets without the folders of masks that every class holds beside its photos."""
    below = _folders_below(chain(*sets.values()))
    if any({bool(MASKS.fullmatch(name)) for name in names} != {True, False} for names in below.values()):
        return sets
    return {at: [photo for photo in placed if not MASKS.fullmatch(_folder_below(photo))] for at, placed in sets.items()}


def _stem_and_split(name: str) -> tuple[str, str] | None:
    """("fruit", "test") of "fruit_test_set"; None of a name that does not end in one of a split."""
    for at in re.finditer("^|[ _-]", name):
        if split := split_named(name[at.end() :]):
            return name[: at.start()], split
    return None


def _with_splits_below_classes(source: Path, folder: Parts, placed: list[PlacedPhoto]) -> list[PlacedPhoto]:
    """Give photos the splits of <class>/train, <class>/test; refuse classes that are no classes, but splits or sets."""
    below = _folders_below(placed)
    named = {name: found for name in below if (found := _stem_and_split(name))}
    stems = [stem for stem, _ in set(named.values())]
    if len(stems) > len(set(stems)):  # but a "freight train" beside a "crash test" are classes
        split_names = first_few(sorted(named))
        raise PipelineError(
            f"{source} would have the classes {first_few(sorted(below))}, but {split_names} are named for splits: give the one "
            "that holds the classes, or a folder with train/<class> and test/<class>, and nothing larger beside them."
        )
    names = set().union(*below.values())
    splits = {name: split_named(name) for name in names}
    if all(splits.values()) and len(set(splits.values())) > 1:
        return [photo._replace(split=splits[_folder_below(photo)]) for photo in placed]
    if copy := next((name for name, inside in below.items() if len(below.keys() & inside) > 1), None):
        inner = "/".join((*folder, copy))
        raise PipelineError(f"{source} holds 2 sets of photos, one beside {inner!r} and one in it: give it, or move it away.")
    if len(names) > 1 and "" not in names and all(inside == names for inside in below.values()):
        say(f"Each class holds {first_few(sorted(names))}: if those are the classes, give one of the folders around them.")
    return placed


def _with_unique_names(placed: Sequence[PlacedPhoto]) -> list[PlacedPhoto]:
    """Name each photo as its file; where names in a class are the same, with its split, folders or a digest."""
    files = {(photo.split, *_key(photo, PurePath(photo.name).name)) for photo in placed}
    shared = len(files) > len({key[1:] for key in files})
    spellings = []
    for photo in placed:
        path, prefix = PurePath(photo.name), f"{photo.split}_" if shared else ""
        digest = sha256(photo.path.encode()).hexdigest()[:12] + path.suffix
        spellings.append((prefix + path.name, prefix + "_".join(path.parts), digest))
    shortest, *longer = zip(*spellings, strict=True)
    names = list(shortest)
    for others in longer:
        times = Counter(map(_key, placed, names))
        names = [
            other if times[_key(photo, name)] > 1 or len(name.encode()) > LONGEST_NAME else name
            for photo, name, other in zip(placed, names, others, strict=True)
        ]
    return [photo._replace(name=name) for photo, name in zip(placed, names, strict=True)]


def _key(photo: PlacedPhoto, name: str) -> tuple[str, str]:
    """What must differ between two photos, also on a disk that ignores case."""
    return photo.label, folded(name)


# Lists of labels and of splits


def _read_table(table: Path, what: str, *needed: Collection[str]) -> tuple[Sequence[str], list[dict[str, str]]]:
    """The column names of a CSV file (separated by commas, semicolons or tabs), in lower case, and its rows.

    Of a table without a column of each of `needed` no row is read: it is something else, and may be large.
    """
    with reading(what), table.open(encoding="utf-8-sig", newline="") as file:
        try:
            header = file.readline()
            file.seek(0)
            rows = csv.DictReader(file, restval="", delimiter=max(",;\t", key=header.count))
            columns = rows.fieldnames = [name.strip().casefold() for name in rows.fieldnames or ()]
            wanted = all(map(set(columns).intersection, needed))
            return columns, [row for row in rows if any(map(any, row.values()))] if wanted else []  # a spreadsheet ends in ",,"
        except UnicodeDecodeError as error:
            raise PipelineError(f"{what} is not UTF-8: save it as CSV UTF-8.") from error


def _read_list(source: Path, root: Path, files: Mapping[str, str], photos: Sequence[Parts]) -> list[_Reading]:
    """The photos by the topmost labels.csv, or by train.csv and the lists of other splits; none where those name no photo.

    Those of equal depth are a set each, in a folder of a split for instance.
    """
    tables: dict[tuple[int, bool], dict[Parts, dict[Parts, str]]] = defaultdict(lambda: defaultdict(dict))
    for parts in [_parts(path) for path, why in files.items() if why == NO_PHOTO]:
        match = _LIST_OF_LABELS.fullmatch(parts[-1])
        if match and (not match[1] or split_named(match[1])):  # labels.csv is sorted before train.csv
            tables[len(parts), bool(match[1])][parts[:-1]][parts] = split_named(match[1])
    for _, lists in sorted(tables.items()):
        sets: Sets = {}
        for folder, splits in lists.items():
            rows = [row for table, split in splits.items() for row in _rows(source, root.joinpath(*table), split)]
            what = " and ".join(map("/".join, splits))
            placed = _listed_photos(f"{source}: {what}", folder, photos, rows)
            told = {(photo.path, photo.label) for photo in placed}
            if placed and not any(told <= {(photo.path, photo.label) for photo in other} for other in sets.values()):  # a copy
                sets[folder] = placed
        if sets:
            names = dict.fromkeys(table[-1] for folder in sets for table in lists[folder])
            is_whole = any(split not in ("val", "test") for folder in sets for split in lists[folder].values())
            return [_Reading(" and ".join(names), sets, is_whole=is_whole)]
    return []


def _rows(source: Path, table: Path, split: str) -> list[tuple[str, str, str]]:
    """The rows of a list of labels: path or id, class and split ("" for none); none without columns of paths and labels."""
    what = f"{source}: {table.name!r}"
    columns, rows = _read_table(table, what, PATH_COLUMNS, LABEL_COLUMNS)
    path, label = (next(filter(columns.__contains__, names), None) for names in (PATH_COLUMNS, LABEL_COLUMNS))
    listed = []
    for row in rows if path and label else ():
        photo, text, stated = (row.get(column or "", "").strip() for column in (path, label, "split"))
        if "split" in columns and not split_named(stated):
            raise PipelineError(f"{what} has {photo!r} in the split {stated!r}: say train, val or test.")
        if photo and text:
            listed.append((photo, text, split_named(stated) or split))
    return listed


def check_class_name(what: object, label: str) -> None:
    """Refuse a class whose name cannot be a folder's."""
    if re.search(r"^\.|[/\\\0]", label) or len(label.encode()) > LONGEST_NAME:
        reason = "as it has a slash, begins with a dot or is too long"
        raise PipelineError(f"{what}: the class {label!r} cannot be the name of a folder, {reason}: rename it there.")


def _listed_photos(
    what: str, folder: Parts, photos: Sequence[Parts], rows: Sequence[tuple[str, str, str]]
) -> list[PlacedPhoto]:
    """The photos that rows of a list in `folder` name; empty where it is no list of photos, but of classes for instance."""
    named: dict[str, list[Parts]] = defaultdict(list)
    for parts in photos:
        for name in {folded(parts[-1]), folded(PurePath(parts[-1]).stem)}:
            named[name].append(parts)
    placed: dict[Parts, PlacedPhoto] = {}
    missing = []
    for path, label, split in rows:
        found = _photos_named(path, split, folder, named)
        if len(found) != 1:
            missing.append(f"{path!r}{' (several photos)' if found else ''}")
            continue
        check_class_name(what, label)
        photo = PlacedPhoto("/".join(found[0]), label, "/".join(_below(folder, found[0])), split)
        if placed.setdefault(found[0], photo) != photo:
            raise PipelineError(f"{what} lists {path!r} more than once, with several classes or splits.")
    if missing and (placed or any(is_photo_name(path) for path, _, _ in rows)):
        missed = f"{len(missing):,} photos that are not there: {first_few(missing)}"
        raise PipelineError(f"{what} lists {missed}. Paths start at the folder of the list.")
    stated = [photo.split for photo in placed.values()]
    splits = stated if any(stated) else _splits_by_folder(what, folder, placed)
    several = len(set(splits)) > 1
    return [photo._replace(split=split if several else "") for photo, split in zip(placed.values(), splits, strict=True)]


def _splits_by_folder(what: str, folder: Parts, photos: Collection[Parts]) -> list[str]:
    """The split that a folder around each photo of a list in `folder` is named for; all "" where a photo has none."""
    splits = {parts: first_split(_below(folder, parts)[:-1]) for parts in photos}
    outside = next((parts for parts, split in splits.items() if not split), None)
    held = next((parts for parts, split in splits.items() if split in ("val", "test")), None)  # a class may be called train
    if outside and held:
        raise PipelineError(
            f"{what} lists {'/'.join(held)!r}, which lies in a folder of the split {splits[held]}, and {'/'.join(outside)!r}, "
            "which lies in none below the list: put every photo into a folder of a split, or add a column split to the list."
        )
    return [""] * len(splits) if outside else [*splits.values()]


def _below(folder: Parts, parts: Parts) -> Parts:
    """A path from a folder on; where it does not lie there, from where the two part."""
    return parts[len(commonprefix([folder, parts])) :]  # noqa: RUF071 - of tuples


def _photos_named(path: str, split: str, folder: Parts, named: Mapping[str, list[Parts]]) -> list[Parts]:
    """The photos that a path or an id may mean, which may lack folders and suffix; the likeliest, where there are several."""
    *folders, last = PurePosixPath(path.replace("\\", "/")).parts or ("",)
    found = [parts for parts in named.get(folded(last), ()) if list(parts[:-1][len(parts) - 1 - len(folders) :]) == folders]
    for fits in (
        lambda parts: last in (parts[-1], PurePath(parts[-1]).stem),
        lambda parts: parts[-1] == last,
        lambda parts: parts[:-1] == (*folder, *folders),
        lambda parts: parts[: len(folder)] == folder,
        lambda parts: (split or "train") in map(split_named, _below(folder, parts)[:-1]),
    ):
        found = list(filter(fits, found)) or found
    return found


def _with_listed_splits(
    source: Path, root: Path, files: Iterable[str], folder: Parts, placed: list[PlacedPhoto]
) -> list[PlacedPhoto]:
    """Give the photos the splits of a splits.csv, which lies in the folder of the set or in the one above."""
    beside = [parts for parts in map(_parts, files) if parts[-1].casefold() == SPLITS_FILE]
    table = next((parts for parent in (folder, folder[:-1]) for parts in beside if parts[:-1] == parent), None)
    if table is None:
        return placed
    what = f"{source}: {'/'.join(table)!r}"
    if any(photo.split for photo in placed):
        raise PipelineError(f"{what}: the list of labels, or folders, give photos their splits too: keep one of the two.")
    columns, rows = _read_table(root.joinpath(*table), what, ["path"], ["split"])
    if not {"path", "split"} <= set(columns):
        raise PipelineError(f"{what} needs the columns path and split, and has {', '.join(columns) or 'none'}.")
    listed: dict[str, str] = {}
    for row in rows:
        path, split = row["path"], split_named(row["split"])
        if not split or path in listed:
            raise PipelineError(f"{what} has {path!r} in the split {row['split']!r}: list a path once, as train, val or test.")
        listed[path] = split
    paths = ["/".join(_below(table[:-1], _parts(photo.path))) for photo in placed]
    if missing := sorted(set(listed).difference(paths)):
        raise PipelineError(f"{what} lists {len(missing):,} files that are not there, such as {missing[0]!r}.")
    if unlisted := sorted(set(paths).difference(listed)):
        raise PipelineError(f"{what} does not list {len(unlisted):,} photos, such as {unlisted[0]!r}: list every photo.")
    return [photo._replace(split=listed[path]) for photo, path in zip(placed, paths, strict=True)]


# The layouts


def _find_flat(photos: Sequence[Parts]) -> set[Parts]:
    """The folders that hold both cat.N and dog.N and lie in no class folder."""
    class_folders = _folders_of_cats_and_of_dogs(photos)
    classes: dict[Parts, set[str]] = defaultdict(set)
    for parts in photos:
        match = _FLAT_NAME.fullmatch(parts[-1])
        if match and not _those_around(parts, class_folders):
            classes[parts[:-1]].add(match[1].lower())
    return {folder for folder, found in classes.items() if len(found) == 2}


def _folders_of_cats_and_of_dogs(photos: Sequence[Parts]) -> set[Parts]:
    """Folders named for one of the two, where there is one beside them that is named for the other."""
    named: dict[Parts, dict[Parts, str]] = defaultdict(dict)
    for folder in {parts[:depth] for parts in photos for depth in range(1, len(parts))}:
        if len(kinds := set(re.findall("cat|dog", folder[-1].casefold()))) == 1:
            named[folder[:-1]][folder] = kinds.pop()
    return {folder for kinds in named.values() if len(set(kinds.values())) == 2 for folder in kinds}


def _place_flat(parts: Parts) -> tuple[str, str] | None:
    """cat.0.jpg -> 0.jpg of Cat."""
    match = _FLAT_NAME.fullmatch(parts[0]) if len(parts) == 1 else None
    return (match[1].capitalize(), match[2]) if match else None


def _find_published(photos: Sequence[Parts]) -> set[Parts]:
    return {parts[:-2] for parts in photos if len(parts) > 2 and parts[-3].lower() == "petimages"}


def _find_class_folders(photos: Sequence[Parts], at: Parts = ()) -> set[Parts]:
    """The topmost folder below `at` whose folders lie side by side; where those are of splits, the one below each of them."""
    inside: dict[str, list[Parts]] = defaultdict(list)
    for parts in photos:
        if len(at) + 1 < len(parts) < DEEPEST:
            inside[parts[len(at)]].append(parts)
    below = {name: _find_class_folders(found, (*at, name)) for name, found in inside.items()}
    if len(inside) == 1 and (split_named(*inside) or any(below.values())):
        return set().union(*below.values())
    of_splits = {root for roots in below.values() for root in roots if any(map(split_named, root[len(at) :]))}
    held = sum(bool(_those_around(parts, of_splits)) for parts in photos)
    if all(map(split_named, inside)) or 2 * held > len(photos):
        return of_splits
    return set() if all(STRAYS.fullmatch(name) for name in inside) else {at}


def _place_in_class_folder(parts: Parts) -> tuple[str, str] | None:
    """cats/a.jpg -> a.jpg of cats."""
    return (parts[0], "/".join(parts[1:])) if len(parts) > 1 else None


LAYOUTS = (
    Layout("flat", "train/cat.0.jpg (flat, as on Kaggle)", _find_flat, _place_flat),
    Layout("published", "PetImages/Cat/0.jpg (the published archive)", _find_published, _place_in_class_folder),
    Layout(
        "class folders",
        "<class>/any.jpg (a folder for each of two or more classes)",
        _find_class_folders,
        _place_in_class_folder,
    ),
)
