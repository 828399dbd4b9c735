"""The ledger of doubtful labels: photos of the published set that people's own lists call mislabelled.

    manifest = mark_doubts(manifest)    # columns doubt and doubt_lists
    manifest = drop_doubted(manifest)   # takes them out of training, and out of nothing else

The ledger is label_doubts.csv beside this module, a line for each photo and kind of doubt:

    id               of the published set: cat.724 is PetImages/Cat/724.jpg, and cat.724.jpg of Kaggle's archive
    class            the class that the photo is published under
    kind             reversed (it shows the other animal), unusable (neither animal, or nothing to learn from, such as a
                     logo or a placeholder) or both (a cat and a dog)
    lists            how many lists agree
    perceptual_hash  of the photo, as in the manifest; empty where the photo was not at hand

Where it comes from: lists that people made by hand and published; which ones they were has not been recorded, and a kind named
by one list alone is one person's word. 45 of the 50 photos were looked at again, those that have a hash here: 44 show
what their line says (three of the reversed, dog.2877, dog.10401 and dog.10797, are one drawn placeholder of a cat), and
cat.12272, called reversed, shows a poster.

An id says nothing about a photo of another set, and many sets number their photos from 0. So the ledger speaks only where the
photos themselves show that they are numbered as published: of those that have a hash, nearly all must look as the ledger
says.
"""

from pathlib import Path

import numpy as np
import pandas as pd

LEDGER = Path(__file__).with_name("label_doubts.csv")
# Of 64 bits; the published photos squeezed to 180 x 180 pixels differ from the originals in at most 4.
MAX_HAMMING_DISTANCE = 8
MIN_RECOGNISED = 0.9  # a few photos may have been replaced since; of another set none would be recognised


def read_ledger() -> pd.DataFrame:
    """The ledger: text columns `id`, `class`, `kind` and `perceptual_hash`, and `lists` (int)."""
    return pd.read_csv(LEDGER, dtype={"lists": "int64"}, keep_default_na=False)


def mark_doubts(manifest: pd.DataFrame) -> pd.DataFrame:
    """Add `doubt` (the kind, "" where there is none) and `doubt_lists` (how many lists say so, 0 where none does).

    Where there are several kinds of doubt about a photo, the one that most lists name stands.

    Args:
        manifest: rows with `id`, `class` and `perceptual_hash`.
    """
    ledger = read_ledger().sort_values("lists", ascending=False, kind="stable").drop_duplicates("id").set_index("id")
    meant = ledger if _numbered_as_published(manifest, ledger["perceptual_hash"]) else ledger[:0]
    kinds, lists = meant["kind"].to_dict(), meant["lists"].to_dict()
    doubt = [kinds.get(photo, "") for photo in manifest["id"]]
    return manifest.assign(doubt=doubt, doubt_lists=[lists.get(photo, 0) for photo in manifest["id"]])


def _numbered_as_published(manifest: pd.DataFrame, hashes: pd.Series) -> bool:
    """Whether the photos that carry the ledger's ids are the ledger's photos."""
    here = manifest.loc[manifest["perceptual_hash"] != "", ["id", "perceptual_hash"]].set_index("id")["perceptual_hash"]
    pairs = pd.concat({"here": here, "ledger": hashes[hashes != ""]}, axis=1, join="inner")
    bits = pairs.map(lambda text: int(text, 16)).astype("uint64")
    distances = np.bitwise_count(bits["here"].to_numpy() ^ bits["ledger"].to_numpy())
    return len(pairs) > 0 and bool((distances <= MAX_HAMMING_DISTANCE).mean() >= MIN_RECOGNISED)


def drop_doubted(manifest: pd.DataFrame) -> pd.DataFrame:
    """Refuse the doubtful photos that are in `train`; validation and test keep theirs, so that scores stay comparable."""
    doubted = (manifest["split"] == "train") & (manifest["doubt"] != "")
    dropped = manifest.copy()
    dropped.loc[doubted, "reason"] = "label doubted: " + manifest["doubt"][doubted]
    dropped.loc[doubted, ["status", "split"]] = ["refused", ""]
    return dropped
