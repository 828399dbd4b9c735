"""Stage 2, preprocess: every photo decoded, the broken ones refused with a reason, the rest split and stored.

Run it with `dvc repro preprocess`, or bare with `python -m pipeline preprocess`. Settings: `preprocess` in params.yaml, and the
backbone's name and weights, which decide the stored size. It writes data/processed/manifest.csv, a row a file;
data/processed/summary.json, counts; and data/processed/images/{train,val,test}/CLASS/ID.jpg, an ordinary image folder.
"""

import shutil
import time
from pathlib import Path

import pandas as pd

from pipeline.cores import worker_count
from pipeline.data.contact_sheet import contact_sheet
from pipeline.data.manifest import SUMMARY_FILE, classes_of, write_manifest
from pipeline.files import replace_folder, write_csv, write_json
from pipeline.params import Params, Preprocess
from pipeline.paths import AUDITED, METRICS, PLOTS, PROCESSED, RAW, SECONDS, user_path
from pipeline.preprocess.audit import audit
from pipeline.preprocess.duplicates import group_duplicates
from pipeline.preprocess.split import assign_splits, read_splits, refuse_copies_across
from pipeline.preprocess.store import place, summary
from pipeline.preprocess.stored_size import choose_stored_size
from pipeline.progress import say

SHOWN_PER_CLASS = 12
KINDS = ("contradicting", "across splits", "near", "exact")  # of duplicates, in the order in which they are pictured
GROUPS_SHOWN = 6  # of each kind


def run(params: Params) -> None:
    """Make data/processed, whole or not at all."""
    started = time.monotonic()
    settings, backbone = params.preprocess, params.backbone
    stored_size = choose_stored_size(settings.stored_size, backbone.name, backbone.weights, locate=user_path)
    fresh = PROCESSED.with_name(f".{PROCESSED.name}.new")
    for folder in (AUDITED, fresh):
        shutil.rmtree(folder, ignore_errors=True)
    workers = max(worker_count(params.runtime.workers), 1)
    manifest = _split(group_duplicates(audit(RAW, AUDITED, stored_size=stored_size, workers=workers)), settings)
    facts = summary(manifest, stored_size)
    _picture_duplicates(manifest, AUDITED)

    place(manifest, AUDITED, fresh / "images")
    write_manifest(manifest, fresh)
    write_json(fresh / SUMMARY_FILE, facts)
    replace_folder(fresh, PROCESSED)
    shutil.rmtree(AUDITED)

    _picture(manifest)
    counts = (manifest["class"] + ", " + manifest["split"].replace("", "refused")).value_counts().sort_index()
    write_csv(PLOTS / "splits.csv", [{"class and split": name, "photos": int(count)} for name, count in counts.items()])
    sizes = {split: int((manifest["split"] == split).sum()) for split in settings.fractions}
    kept, refused = sum(sizes.values()), facts["status"].get("refused", 0)
    say(f"{kept:,} photos kept, {refused:,} files refused; {PROCESSED / 'manifest.csv'} says why")
    duplicate_groups = facts["duplicates"]["groups"]
    metrics = {"kept": kept, "refused": refused, **sizes, "duplicate_groups": duplicate_groups, "stored_size": stored_size}
    write_json(METRICS / "preprocess.json", metrics)
    write_json(SECONDS / "preprocess.json", {"seconds": time.monotonic() - started})


def _split(manifest: pd.DataFrame, settings: Preprocess) -> pd.DataFrame:
    """Grouped rows with their split."""
    predefined = read_splits(RAW)
    if predefined:
        manifest = refuse_copies_across(manifest, predefined)
        copies = int(manifest["reason"].str.startswith("duplicate of").sum())
        say(f"splits come with the photos; {copies:,} photos with a duplicate in a better one are left out")
    return manifest.assign(split=assign_splits(manifest, settings.fractions, settings.seed, predefined))


def _picture(manifest: pd.DataFrame) -> None:
    """Some training photos of each class as they are stored."""
    shown: list[tuple[Path, str]] = []
    for name in classes_of(manifest):
        ids = manifest.loc[(manifest["split"] == "train") & (manifest["class"] == name), "id"].sort_values()
        some = ids.iloc[:: max(len(ids) // SHOWN_PER_CLASS, 1)][:SHOWN_PER_CLASS]
        shown += [(PROCESSED / "images" / "train" / name / f"{photo}.jpg", photo) for photo in some]
    contact_sheet(shown, PLOTS / "photos.png", title="Some training photos")


def _picture_duplicates(manifest: pd.DataFrame, store: Path) -> None:
    """Some groups of duplicates, two photos of each: first those whose labels contradict each other."""
    grouped = manifest[manifest["group"] != ""].sort_values("id")
    grouped = grouped[grouped.duplicated("group", keep=False)]
    pairs = [_pair(photos) for _, photos in grouped.groupby("group", sort=False)]
    shown: list[tuple[Path, str]] = []
    for kind in KINDS:
        for rows in [rows for found, rows in pairs if found == kind][:GROUPS_SHOWN]:
            shown += [
                (store / row["class"] / f"{row['id']}.jpg", f"{row['id']}\n{kind}, {row['split'] or 'refused'}") for row in rows
            ]
    groups = "1 group" if len(pairs) == 1 else f"{len(pairs):,} groups"
    title = f"Duplicates among {len(manifest):,} files: {groups}; two photos of each, at most {GROUPS_SHOWN} groups of a kind"
    contact_sheet(shown, PLOTS / "duplicates.png", title=title if pairs else f"No duplicates among {len(manifest):,} files")


def _pair(photos: pd.DataFrame) -> tuple[str, list[pd.Series]]:
    """What kind of duplicates a group holds, and the two of its photos that show it best."""
    copies = photos["reason"].str.startswith("duplicate of")
    for kind, distinguished_by in (
        ("contradicting", photos["class"]),
        ("across splits", copies),
        ("near", photos["pixel_hash"]),
    ):
        others = photos[distinguished_by != distinguished_by.iloc[0]]
        if len(others):
            return kind, [photos.iloc[0], others.iloc[0]]
    return "exact", [photos.iloc[0], photos.iloc[1]]
