"""Stage 2, preprocess: every photo decoded, the broken ones refused with a reason, the rest split and stored.

Run it with `dvc repro preprocess`, or bare with `python -m pipeline preprocess`. Settings: `preprocess` in params.yaml.
Out come data/processed/manifest.csv, a row a file, data/processed/summary.json, what the rows come to, and
data/processed/images/{train,val,test}/CLASS/ID.jpg, an ordinary image folder that any other tool reads. Killed, it goes on
where it stopped: a photo that was audited is not decoded again.
"""

import shutil
import time
from pathlib import Path

import pandas as pd

from pipeline.cores import worker_count
from pipeline.data.contact_sheet import contact_sheet
from pipeline.data.manifest import classes_of, write_manifest
from pipeline.files import replace_folder, write_csv, write_json
from pipeline.params import Params, Preprocess
from pipeline.paths import AUDITED, METRICS, PLOTS, PROCESSED, RAW
from pipeline.preprocess.audit import audit
from pipeline.preprocess.doubts import mark_doubts
from pipeline.preprocess.duplicates import group_duplicates
from pipeline.preprocess.split import assign_splits, read_splits, refuse_copies_across
from pipeline.preprocess.store import place, summary
from pipeline.progress import say

SHOWN_PER_CLASS = 12
KINDS = ("contradicting", "across splits", "near", "exact")  # of duplicates, in the order in which they are pictured
GROUPS_SHOWN = 6  # of each kind


def run(params: Params) -> None:
    """Make data/processed, whole or not at all."""
    started = time.monotonic()
    settings = params.preprocess
    workers = max(worker_count(params.runtime.workers), 1)
    manifest = audit(RAW, AUDITED, stored_size=256 if settings.stored_size == "auto" else settings.stored_size, workers=workers)
    manifest = _settled(group_duplicates(manifest, AUDITED), settings)
    facts = summary(manifest)
    _picture_duplicates(manifest, AUDITED)

    fresh = PROCESSED.with_name(f".{PROCESSED.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    place(manifest, AUDITED, fresh / "images")
    write_manifest(manifest, fresh)
    write_json(fresh / "summary.json", facts)
    replace_folder(fresh, PROCESSED)
    shutil.rmtree(AUDITED)

    write_csv(PLOTS / "splits.csv", _counts(manifest))
    _picture(manifest)
    kept, refused = int((manifest["split"] != "").sum()), int((manifest["status"] == "refused").sum())
    say(f"{kept:,} photos kept, {refused:,} files refused; {PROCESSED / 'manifest.csv'} says why")
    sizes = {split: int((manifest["split"] == split).sum()) for split in settings.fractions}
    write_json(
        METRICS / "preprocess.json",
        {
            "kept": kept,
            "refused": refused,
            **sizes,
            "duplicate_groups": facts["duplicates"]["groups"],
            "doubtful_labels": sum(facts["doubts"].values()),
            "seconds": time.monotonic() - started,
        },
    )


def _settled(manifest: pd.DataFrame, settings: Preprocess) -> pd.DataFrame:
    """Grouped rows with their split and with what is doubted about their labels."""
    predefined = read_splits(RAW)
    if predefined:
        manifest = refuse_copies_across(manifest, predefined)
        copies = int(manifest["reason"].str.startswith("duplicate of").sum())
        say(f"splits come with the photos; {copies:,} photos with a duplicate in a better one are left out")
    manifest["split"] = assign_splits(manifest, settings.fractions, settings.seed, predefined)
    manifest = mark_doubts(manifest)
    if doubted := int((manifest["doubt"] != "").sum()):
        dropped = int(manifest["reason"].str.startswith("label doubted").sum())
        say(f"{doubted:,} photos have a doubtful label; {dropped:,} are left out of training for it")
    return manifest


def _counts(manifest: pd.DataFrame) -> list[dict[str, str | int]]:
    """How many files went where, a row for each class and split, refused ones included."""
    groups = manifest["class"] + ", " + manifest["split"].replace("", "refused")
    return [{"class and split": str(name), "photos": int(count)} for name, count in groups.value_counts().sort_index().items()]


def _picture(manifest: pd.DataFrame) -> None:
    """Some training photos of each class as they are stored."""
    shown: list[tuple[Path, str]] = []
    for name in classes_of(manifest):
        ids = manifest.loc[(manifest["split"] == "train") & (manifest["class"] == name), "id"].sort_values()
        some = ids.iloc[:: max(len(ids) // SHOWN_PER_CLASS, 1)][:SHOWN_PER_CLASS]
        shown += [(PROCESSED / "images" / "train" / name / f"{photo}.jpg", photo) for photo in some]
    contact_sheet(shown, PLOTS / "photos.png", title="Some training photos")


def _picture_duplicates(manifest: pd.DataFrame, store: Path) -> None:
    """Some groups of duplicates, two photos of each side by side: first those whose labels contradict each other."""
    grouped = manifest[manifest["group"] != ""].sort_values("id").groupby("group", sort=False)
    pairs = [_pair(photos) for _, photos in grouped if len(photos) > 1]
    shown: list[tuple[Path, str]] = []
    for kind in KINDS:
        for rows in [rows for found, rows in pairs if found == kind][:GROUPS_SHOWN]:
            shown += [
                (store / row["class"] / f"{row['id']}.jpg", f"{row['id']}\n{kind}, {row['split'] or 'refused'}") for row in rows
            ]
    groups = "1 group" if len(pairs) == 1 else f"{len(pairs):,} groups"
    title = f"Duplicates among {len(manifest):,} files: {groups}; two photos of each, at most {GROUPS_SHOWN} groups of a kind"
    if not pairs:
        title = f"No duplicates were found among {len(manifest):,} files"
    contact_sheet(shown, PLOTS / "duplicates.png", title=title)


def _pair(photos: pd.DataFrame) -> tuple[str, list[pd.Series]]:
    """What kind of duplicates a group holds, and the two of its photos that show it best."""
    copies = photos["reason"].str.startswith("duplicate of")
    for kind, told_by in (("contradicting", photos["class"]), ("across splits", copies), ("near", photos["pixel_hash"])):
        others = photos[told_by != told_by.iloc[0]]
        if len(others):
            return kind, [photos.iloc[0], others.iloc[0]]
    return "exact", [photos.iloc[0], photos.iloc[1]]
