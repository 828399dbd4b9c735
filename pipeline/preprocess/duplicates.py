"""Photos that show the same picture: found, grouped, and left out where their labels contradict each other.

A group is never divided between splits; otherwise the same picture would be learnt from and scored on.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

MAX_HAMMING_DISTANCE = 8  # of 64 bits: another size or compression changes 0 to 4, another picture hardly ever less than 10
MAX_MEAN_DIFFERENCE = 8.0  # of 0..255, between thumbnails: pairs that are no duplicates lie above 15
THUMBNAIL_SIDE = 32
DISTANCES_PER_BLOCK = 100_000  # 0.8 MB at a time, which a cache holds
PAIRS_PER_BLOCK = 4096


def group_duplicates(manifest: pd.DataFrame, store: Path) -> pd.DataFrame:
    """Add the column `group`, and refuse the photos whose duplicates carry another label.

    Two photos are duplicates where their pixels are equal, or where their perceptual hashes differ in at most
    `MAX_HAMMING_DISTANCE` bits and their thumbnails by at most `MAX_MEAN_DIFFERENCE`; duplicates of duplicates belong
    to the same group. The group's name is its smallest pixel hash, so it depends on neither names nor order. Nobody
    can tell which of two contradicting labels is right, so all photos of such a group are refused.

    Args:
        manifest: rows of the audit; refused rows get an empty group.
        store: the folder with the stored photos, `store`/class/ID.jpg.
    """
    ranks = _ranks(manifest["pixel_hash"])
    kept = np.flatnonzero(manifest["status"] != "refused")
    # In ascending order of the pixel hash, so that the smallest index of a group stands for its name.
    rank_of_picture, first = np.unique(ranks[kept], return_index=True)
    first = kept[first]
    pictures = manifest[["id", "class", "perceptual_hash"]].iloc[first]
    perceptual = np.fromiter((int(text, 16) for text in pictures["perceptual_hash"]), np.uint64, len(pictures))
    smallest = _smallest_connected(len(pictures), _confirmed(_close_pairs(perceptual), pictures, store))
    place = np.searchsorted(rank_of_picture, ranks[kept])  # among the pictures, of each kept row
    grouped = manifest.assign(group=manifest["pixel_hash"])  # that of a refused file is empty
    moved = smallest[place] != place  # few: most photos are a group of their own
    names = manifest["pixel_hash"].iloc[first[smallest[place[moved]]]]
    grouped.loc[grouped.index[kept[moved]], "group"] = names.to_numpy()
    members = np.bincount(smallest[place], minlength=len(pictures))
    return _refuse_contradictions(grouped, kept[members[smallest[place]] > 1])


def _ranks(texts: pd.Series) -> np.ndarray:
    """Of each text, its place among the different ones in ascending order; packed, because objects would take much memory."""
    packed = pa.table({"texts": texts})["texts"].combine_chunks()
    order = pc.array_sort_indices(packed)
    ascending = packed.take(order)
    ranks = np.empty(len(texts), dtype=np.intp)
    ranks[order] = np.concatenate([[0], np.cumsum(pc.not_equal(ascending[1:], ascending[:-1]))])
    return ranks


def _close_pairs(hashes: np.ndarray) -> np.ndarray:
    """Index pairs (n, 2), first below second, whose hashes (uint64) are close; compares all, a block at a time."""
    found = [np.empty((0, 2), dtype=np.intp)]
    rows = max(1, DISTANCES_PER_BLOCK // max(1, len(hashes)))
    for start in range(0, len(hashes), rows):
        differing = np.bitwise_count(hashes[start : start + rows, None] ^ hashes[None, start:])
        first, second = np.nonzero(np.triu(differing <= MAX_HAMMING_DISTANCE, k=1))
        found.append(np.stack([first + start, second + start], axis=1))
    return np.concatenate(found)


def _confirmed(pairs: np.ndarray, pictures: pd.DataFrame, store: Path) -> np.ndarray:
    """Those of the pairs whose stored photos look the same."""
    members = np.unique(pairs)
    thumbnails = np.empty((len(members), THUMBNAIL_SIDE, THUMBNAIL_SIDE, 3), dtype=np.int16)
    for place, index in enumerate(members):
        picture = pictures.iloc[index]
        thumbnails[place] = _thumbnail(store / picture["class"] / f"{picture['id']}.jpg")
    places = np.searchsorted(members, pairs)
    same = np.zeros(len(pairs), dtype=bool)
    for start in range(0, len(pairs), PAIRS_PER_BLOCK):
        block = slice(start, start + PAIRS_PER_BLOCK)
        difference = np.abs(thumbnails[places[block, 0]] - thumbnails[places[block, 1]])
        same[block] = difference.mean(axis=(1, 2, 3)) <= MAX_MEAN_DIFFERENCE
    return pairs[same]


def _thumbnail(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        small = image.convert("RGB").resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BOX)
    return np.asarray(small)


def _smallest_connected(count: int, pairs: np.ndarray) -> np.ndarray:
    """For each of `count` indices, the smallest index that is connected to it through pairs."""
    smallest = np.arange(count)
    while True:
        lower = smallest[pairs].min(axis=1)
        if (smallest[pairs] == lower[:, None]).all():
            return smallest
        np.minimum.at(smallest, pairs, lower[:, None])


def _refuse_contradictions(grouped: pd.DataFrame, shared: np.ndarray) -> pd.DataFrame:
    """`shared` are the places of rows whose group has others."""
    reasons: dict[object, str] = {}
    for _, members in grouped[["id", "class", "group"]].iloc[shared].groupby("group"):
        for index, label in members["class"].items():
            contradicting = members.loc[members["class"] != label, "id"]
            if len(contradicting):
                reasons[index] = f"label contradicts its duplicate: {contradicting.min()}"
    grouped.loc[list(reasons), "status"] = "refused"
    grouped.loc[list(reasons), "reason"] = list(reasons.values())
    return grouped
