"""Stage 2, preprocess: every photo decoded, the broken ones refused with a reason, the rest split and stored.

Run it with `dvc repro preprocess`, or bare with `python -m pipeline preprocess`. Settings: `preprocess` in params.yaml.
Out come data/processed/manifest.csv, a row a file, and data/processed/images/{train,val,test}/CLASS/ID.jpg, an ordinary image
folder that any other tool reads. Killed, it goes on where it stopped: a photo that was audited is not decoded again.
"""

import os
import shutil
import time
from pathlib import Path

import pandas as pd

from pipeline.data.audit import audit
from pipeline.data.duplicates import group_duplicates
from pipeline.data.manifest import classes_of, write_manifest
from pipeline.data.split import assign_splits
from pipeline.data.store import place, summary
from pipeline.evaluation.contact_sheet import contact_sheet
from pipeline.files import replace_folder
from pipeline.params import Params
from pipeline.paths import AUDITED, METRICS, PLOTS, PROCESSED, RAW
from pipeline.progress import say
from pipeline.results import write_csv, write_json

SHOWN_PER_CLASS = 12


def run(params: Params) -> None:
    """Make data/processed, whole or not at all."""
    started = time.monotonic()
    settings = params.preprocess
    workers = (os.cpu_count() or 1) if params.runtime.workers == "auto" else max(params.runtime.workers, 1)
    manifest = audit(RAW, AUDITED, stored_size=settings.stored_size, workers=workers)
    manifest = group_duplicates(manifest, AUDITED)
    manifest["split"] = assign_splits(manifest, settings.fractions, settings.seed)

    fresh = PROCESSED.with_name(f".{PROCESSED.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    place(manifest, AUDITED, fresh / "images")
    write_manifest(manifest, fresh)
    facts = summary(manifest)
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
        {"kept": kept, "refused": refused, **sizes, "seconds": time.monotonic() - started},
    )


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
