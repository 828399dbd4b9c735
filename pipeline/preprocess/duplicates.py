"""Duplicate photos: perceptual hashes and thumbnails, and groups of photos that look like one of them, their leader.

A group is never divided between splits; otherwise the same picture would be learnt from and scored on.
"""

import numpy as np
import pandas as pd
from scipy.fft import dctn

from pipeline.errors import PipelineError
from pipeline.preprocess.photo import THUMBNAIL_SIDE

HASH_SIDE = 8
MAX_HAMMING_DISTANCE = 8  # of 64 bits: another size or compression changes 0 to 4, another picture hardly ever less than 8
MAX_MEAN_DIFFERENCE = 8.0  # of 0..255, between thumbnails: pairs of different pictures with close hashes lie above 15
LUMA = np.array([299, 587, 114]) / 1000
MAX_GROUP, MAX_GROUP_FRACTION = 5, 0.1  # pictures of a class, and of all its pictures, that a group may hold: the larger counts


def group_duplicates(manifest: pd.DataFrame, *, near: bool = True) -> pd.DataFrame:
    """Add the column `group`, drop `thumbnail`, and refuse equal pictures with several labels.

    Nobody can tell which label of equal pixels is right. Pictures that only look alike may well differ in what the label is
    about, such as a scratch: they are kept, and a group may hold several classes. A group's name is the smallest SHA-256 of its
    members' files, so it depends on neither decoder, names nor order; that of refused rows is empty. Unless `near`, only equal
    pictures are grouped. A PipelineError says that near duplicates of one photo are more than a tenth of a class, and more than
    `MAX_GROUP`.
    """
    usable = manifest[manifest["status"] != "refused"]
    group = usable["sha256"].groupby(usable["pixel_hash"]).transform("min")
    contradicting = usable["class"].groupby(group).transform("nunique") > 1
    if near:
        pictures = usable[~contradicting & (usable["sha256"] == group)].drop_duplicates("sha256").sort_values("sha256")
        thumbnails = np.frombuffer(b"".join(pictures["thumbnail"]), np.uint8)
        leader = leaders(thumbnails.reshape(-1, THUMBNAIL_SIDE, THUMBNAIL_SIDE, 3))
        led = dict(zip(pictures["sha256"], pictures["sha256"].iloc[leader], strict=True))
        group = group.map(led).fillna(group)
        _check_sizes(usable.assign(group=group)[~contradicting])
    grouped = manifest.drop(columns="thumbnail").assign(group=group.reindex(manifest.index, fill_value=""))
    for _, members in usable[contradicting].groupby(group):
        for index, label in members["class"].items():
            other = members.loc[members["class"] != label, "id"].min()
            grouped.loc[index, ["status", "reason"]] = ["refused", f"label contradicts its duplicate: {other}"]
    return grouped


def leaders(thumbnails: np.ndarray) -> np.ndarray:
    """The index of each one's leader, of RGB thumbnails (n, side, side, 3): the first one that leads and looks like it.

    Two look alike where their hashes differ in at most `MAX_HAMMING_DISTANCE` bits and the thumbnails by at most
    `MAX_MEAN_DIFFERENCE`. One that looks like no leader leads itself. Members look like their leader, not only like one
    another, so that a slow pan is no single group. Only leaders are compared with the rest: the fewer they are, the faster.
    """
    hashes, colours = perceptual_hashes(thumbnails), thumbnails.mean(axis=(1, 2))
    leader = np.full(len(hashes), -1)
    for first in range(len(hashes)):
        if leader[first] >= 0:
            continue
        near = first + np.flatnonzero(np.bitwise_count(hashes[first:] ^ hashes[first]) <= MAX_HAMMING_DISTANCE)
        near = near[leader[near] < 0]
        near = near[np.abs(colours[near] - colours[first]).mean(axis=1) <= MAX_MEAN_DIFFERENCE]  # the least it can be
        difference = np.abs(thumbnails[near].astype(np.int16) - thumbnails[first])
        leader[near[difference.mean(axis=(1, 2, 3)) <= MAX_MEAN_DIFFERENCE]] = first
    return leader


def perceptual_hashes(thumbnails: np.ndarray) -> np.ndarray:
    """64-bit DCT hashes, (n,) uint64, of RGB thumbnails (n, side, side, 3): few bits differ where photos look alike.

    Each bit tells whether one of the 64 lowest frequencies of the grey picture is above their median. Rounding keeps the
    hash of a flat picture from depending on the last bits of a sum.
    """
    frequencies = dctn(thumbnails @ LUMA, axes=(1, 2), norm="ortho")[:, :HASH_SIDE, :HASH_SIDE]
    coefficients = np.round(frequencies.reshape(-1, HASH_SIDE**2), 3)
    bits = coefficients > np.median(coefficients, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(np.uint64).ravel()


def _check_sizes(usable: pd.DataFrame) -> None:
    """Refuse groups that take so much of a class that its splits would come out wrong."""
    pictures = usable.drop_duplicates("pixel_hash")
    held = pictures.value_counts(["class", "group"])
    total = held.groupby("class").transform("sum")
    too_large = held[held > np.maximum(MAX_GROUP, MAX_GROUP_FRACTION * total)]
    if len(too_large):
        label, group = worst = too_large.index[0]
        path = usable.loc[usable["sha256"] == group, "path"].min()
        raise PipelineError(
            f"Class {label}: {held[worst]:,} of its {total[worst]:,} different photos look like {path}, and such a group "
            "must be in one split. Where they are frames of one scene, leave most of them out of the source. Where they are "
            "different things on one background, set preprocess.duplicates to ignore: then only equal pictures are grouped."
        )
