"""Duplicate photos: perceptual hashes and thumbnails of the published photos, grouped by connected components.

A group is never divided between splits; otherwise the same picture would be learnt from and scored on.
"""

import numpy as np
import pandas as pd
from scipy.fft import dctn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline.preprocess.photo import THUMBNAIL_SIDE

HASH_SIDE = 8
MAX_HAMMING_DISTANCE = 8  # of 64 bits: another size or compression changes 0 to 4, another picture hardly ever less than 8
MAX_MEAN_DIFFERENCE = 8.0  # of 0..255, between thumbnails: pairs of different pictures with close hashes lie above 15
LUMA = np.array([299, 587, 114]) / 1000
DISTANCES_PER_BLOCK = 100_000  # 0.8 MB at a time, which a cache holds


def group_duplicates(manifest: pd.DataFrame) -> pd.DataFrame:
    """Add the column `group`, drop `thumbnail`, and refuse the photos whose duplicates carry another label.

    Two photos are duplicates where their pixels are equal, or where their perceptual hashes differ in at most
    `MAX_HAMMING_DISTANCE` bits and their thumbnails by at most `MAX_MEAN_DIFFERENCE`; duplicates of duplicates belong to
    the same group. A group's name is the smallest SHA-256 of its members' files, so it depends on neither decoder, names
    nor order. Nobody can tell which of two contradicting labels is right, so all photos of such a group are refused.

    Args:
        manifest: rows of the audit; refused rows get an empty group.
    """
    usable = manifest[manifest["status"] != "refused"]
    picture, _ = pd.factorize(usable["pixel_hash"])
    _, first = np.unique(picture, return_index=True)
    thumbnails = np.frombuffer(b"".join(usable["thumbnail"].iloc[first]), np.uint8)
    pairs = close_pairs(thumbnails.reshape(-1, THUMBNAIL_SIDE, THUMBNAIL_SIDE, 3))
    graph = coo_array((np.ones(len(pairs)), pairs.T), shape=(len(first), len(first)))
    component = connected_components(graph, directed=False)[1][picture]
    groups = usable["sha256"].groupby(component).transform("min")
    grouped = manifest.drop(columns="thumbnail").assign(group=groups.reindex(manifest.index, fill_value=""))
    labels = usable.groupby(component)["class"].transform("nunique")
    for _, members in usable[labels > 1].groupby(groups):
        for index, label in members["class"].items():
            other = members.loc[members["class"] != label, "id"].min()
            grouped.loc[index, ["status", "reason"]] = ["refused", f"label contradicts its duplicate: {other}"]
    return grouped


def perceptual_hashes(thumbnails: np.ndarray) -> np.ndarray:
    """64-bit DCT hashes, (n,) uint64, of RGB thumbnails (n, side, side, 3): few bits differ where photos look alike.

    Each bit tells whether one of the 64 lowest frequencies of the grey picture is above their median. Rounding keeps the
    hash of a flat picture from depending on the last bits of a sum.
    """
    frequencies = dctn(thumbnails @ LUMA, axes=(1, 2), norm="ortho")[:, :HASH_SIDE, :HASH_SIDE]
    coefficients = np.round(frequencies.reshape(-1, HASH_SIDE**2), 3)
    bits = coefficients > np.median(coefficients, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(np.uint64).ravel()


def close_pairs(thumbnails: np.ndarray) -> np.ndarray:
    """Index pairs (m, 2), first below second, of thumbnails (n, side, side, 3) that look alike; compares all, in blocks."""
    hashes = perceptual_hashes(thumbnails)
    found = [np.empty((0, 2), dtype=np.intp)]
    rows = max(1, DISTANCES_PER_BLOCK // max(1, len(hashes)))
    for start in range(0, len(hashes), rows):
        differing = np.bitwise_count(hashes[start : start + rows, None] ^ hashes[None, start:])
        pairs = np.argwhere(np.triu(differing <= MAX_HAMMING_DISTANCE, k=1)) + start
        first, second = thumbnails[pairs.T].astype(np.int16)
        found.append(pairs[np.abs(first - second).mean(axis=(1, 2, 3)) <= MAX_MEAN_DIFFERENCE])
    return np.concatenate(found)
