"""Stage 2, preprocess: every photo decoded, the broken ones refused with a reason, the rest split and stored.

Settings: `preprocess` in params.yaml, and `backbone`, which decides the stored size. It writes
data/processed/manifest.csv, a row a file; data/processed/summary.json, counts; and an ordinary image folder,
data/processed/images/{train,val,test}/CLASS/ID.jpg.
"""

import os
import shutil
import time
from pathlib import Path

import pandas as pd

from pipeline.cores import worker_count
from pipeline.data.contact_sheet import contact_sheet
from pipeline.data.manifest import SUMMARY_FILE, summary, write_manifest
from pipeline.files import replace_folder, write_csv, write_json
from pipeline.params import Params, Preprocess
from pipeline.paths import AUDITED, METRICS, PLOTS, PROCESSED, RAW, SECONDS, user_path
from pipeline.preprocess.audit import audit
from pipeline.preprocess.duplicates import group_duplicates
from pipeline.preprocess.split import assign_splits, limit_splits, mle_bench_splits, read_splits, refuse_copies_across
from pipeline.preprocess.stored_size import choose_stored_size
from pipeline.progress import say

SHOWN_PER_CLASS = 12
# Kinds of duplicates, in the order in which they are pictured, and the column in which the photos of such a group differ.
KINDS = {"several labels": "class", "across splits": "split", "near": "pixel_hash", "exact": "id"}
GROUPS_SHOWN = 6  # of each kind


def run(params: Params) -> None:
    """Make data/processed, whole or not at all."""
    started = time.monotonic()
    settings = params.preprocess
    stored_size = choose_stored_size(settings.stored_size, params.backbone, locate=user_path)
    fresh = PROCESSED.with_name(f".{PROCESSED.name}.new")
    for folder in (AUDITED, fresh):
        shutil.rmtree(folder, ignore_errors=True)
    workers = max(worker_count(params.runtime.workers), 1)
    audited = audit(RAW, AUDITED, stored_size=stored_size, workers=workers)
    manifest = _split(group_duplicates(audited, near=settings.duplicates == "group"), settings)
    facts = summary(manifest, stored_size)
    _picture_duplicates(manifest)

    for split, label, photo in manifest.loc[manifest["split"] != "", ["split", "class", "id"]].itertuples(index=False):
        folder = fresh / "images" / split / label
        folder.mkdir(parents=True, exist_ok=True)
        os.replace(AUDITED / label / f"{photo}.jpg", folder / f"{photo}.jpg")
    write_manifest(manifest, fresh)
    write_json(fresh / SUMMARY_FILE, facts)
    replace_folder(fresh, PROCESSED)
    shutil.rmtree(AUDITED)

    _picture(manifest)
    places = manifest["split"].where(manifest["split"] != "", manifest["status"])
    counts = (manifest["class"] + ", " + places).value_counts().sort_index()
    write_csv(PLOTS / "splits.csv", [{"class and split": name, "photos": int(count)} for name, count in counts.items()])
    sizes = {split: int((manifest["split"] == split).sum()) for split in settings.fractions}
    metrics = {"kept": sum(sizes.values()), "refused": facts["status"].get("refused", 0), **sizes}
    metrics |= {"duplicate_groups": facts["duplicates"]["groups"], "stored_size": stored_size}
    say(f"{metrics['kept']:,} photos kept, {metrics['refused']:,} files refused; {PROCESSED / 'manifest.csv'} says why")
    write_json(METRICS / "preprocess.json", metrics)
    write_json(SECONDS / "preprocess.json", {"seconds": time.monotonic() - started})


def _split(manifest: pd.DataFrame, settings: Preprocess) -> pd.DataFrame:
    """Grouped rows with their split."""
    predefined = mle_bench_splits(manifest) if settings.benchmark else read_splits(RAW)
    if predefined:
        manifest = refuse_copies_across(manifest, predefined)
        copies = int(manifest["reason"].str.startswith("duplicate of").sum())
        say(f"splits come with the photos; {copies:,} photos with a duplicate in a better one are left out")
    manifest = manifest.assign(split=assign_splits(manifest, settings.fractions, settings.seed, predefined))
    manifest = limit_splits(manifest, settings.most, settings.seed)
    if left := int((manifest["status"] == "left out").sum()):
        say(f"{left:,} photos are left out by preprocess.max_train and preprocess.max_val")
    return manifest


def _picture(manifest: pd.DataFrame) -> None:
    """Some training photos of each class as they are stored."""
    shown: list[tuple[Path, str]] = []
    for name, ids in manifest[manifest["split"] == "train"].sort_values(["class", "id"]).groupby("class")["id"]:
        some = ids.iloc[:: max(len(ids) // SHOWN_PER_CLASS, 1)][:SHOWN_PER_CLASS]
        shown += [(PROCESSED / "images" / "train" / str(name) / f"{photo}.jpg", photo) for photo in some]
    contact_sheet(shown, PLOTS / "photos.png", title="Some training photos")


def _picture_duplicates(manifest: pd.DataFrame) -> None:
    """Some groups of duplicates, two photos of each that differ: first those with several labels."""
    grouped = manifest[manifest["group"] != ""].sort_values("id")
    grouped = grouped[grouped.duplicated("group", keep=False)]
    groups = grouped["group"].nunique()
    shown: list[tuple[Path, str]] = []
    for kind, column in KINDS.items():
        pairs = grouped.drop_duplicates(["group", column]).groupby("group").head(2).sort_values(["group", "id"])
        pairs = pairs[pairs.duplicated("group", keep=False)]
        for row in pairs.head(2 * GROUPS_SHOWN).to_dict("records"):
            place = row["split"] or row["status"]
            shown.append((AUDITED / row["class"] / f"{row['id']}.jpg", f"{row['id']}\n{kind}, {place}"))
        grouped = grouped[~grouped["group"].isin(pairs["group"])]
    title = f"Groups of duplicates among {len(manifest):,} files: {groups:,}; at most {GROUPS_SHOWN} of a kind are shown"
    contact_sheet(shown, PLOTS / "duplicates.png", title=title)
