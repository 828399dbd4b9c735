"""The ledger of doubtful labels: only about the photos that it means, and only training loses any."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from ruamel.yaml import YAML

from pipeline.data.manifest import INTEGERS, fingerprint, read_manifest, write_manifest
from pipeline.download.drawn.petimages import draw_photo
from pipeline.preprocess.doubts import LEDGER, drop_doubted, mark_doubts, read_ledger
from pipeline.preprocess.photo import perceptual_hash

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def published() -> pd.DataFrame:
    """Rows such as the published set gives: the ledger's photos and some that nobody doubts, in all three splits."""
    ledger = read_ledger().drop_duplicates("id")
    ids = [*ledger["id"], "cat.1", "dog.1"]
    rows = pd.DataFrame({"id": ids, "class": [photo.split(".")[0] for photo in ids]})
    rows["perceptual_hash"] = [*ledger["perceptual_hash"].where(ledger["perceptual_hash"] != "", "0" * 16), *["ab" * 8] * 2]
    rows["pixel_hash"] = [f"{index:064x}" for index in range(len(rows))]
    rows["split"] = [("train", "val", "test")[index % 3] for index in range(len(rows))]
    return rows.assign(status="kept", reason="")


def flipped(text: str, bits: int) -> str:
    """A hash with the lowest bits the other way round."""
    return f"{int(text, 16) ^ (2**bits - 1):016x}"


def test_the_ledger_is_what_it_says() -> None:
    ledger = read_ledger()
    assert set(ledger["kind"]) == {"reversed", "unusable", "both"}
    assert not ledger.duplicated(["id", "kind"]).any()
    assert (ledger["id"].str.split(".").str[0] == ledger["class"]).all()
    assert ledger["id"].str.fullmatch(r"(cat|dog)\.(0|[1-9]\d{0,4})").all()
    assert ledger["lists"].between(1, 9).all()
    assert ledger["perceptual_hash"].str.fullmatch("([0-9a-f]{16})?").all()


def test_preprocess_runs_again_when_the_ledger_changes() -> None:
    stages = YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text())["stages"]
    assert LEDGER.relative_to(ROOT).as_posix() in stages["preprocess"]["deps"]


def test_doubts_are_marked_with_what_most_lists_say(published: pd.DataFrame) -> None:
    marked = mark_doubts(published).set_index("id")
    assert marked.loc["dog.11731", ["doubt", "doubt_lists"]].tolist() == ["reversed", 1]
    assert marked.loc["cat.4688", ["doubt", "doubt_lists"]].tolist() == ["unusable", 3]  # one list says "both"
    assert marked.loc[["cat.1", "dog.1"], "doubt"].tolist() == ["", ""]
    assert marked.loc[["cat.1", "dog.1"], "doubt_lists"].tolist() == [0, 0]
    assert (marked["doubt"] != "").sum() == len(published) - 2


def test_the_same_photos_in_another_size_are_recognised(published: pd.DataFrame) -> None:
    published["perceptual_hash"] = [flipped(text, 4) for text in published["perceptual_hash"]]
    assert (mark_doubts(published)["doubt"] != "").any()


def test_a_part_of_the_set_is_enough(published: pd.DataFrame) -> None:
    part = published[published["id"].isin(["cat.724", "cat.1"])]
    assert mark_doubts(part)["doubt"].tolist() == ["both", ""]


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_other_photos_under_the_same_ids_are_not_meant(published: pd.DataFrame, share: float) -> None:
    other = published.sample(frac=share, random_state=0).index
    published.loc[other, "perceptual_hash"] = [flipped(text, 30) for text in published.loc[other, "perceptual_hash"]]
    marked = mark_doubts(published)
    assert (marked["doubt"] == "").all()
    assert (marked["doubt_lists"] == 0).all()


def test_drawn_photos_are_never_doubted() -> None:
    """They lie where the published ones do, under ids that the ledger has."""
    ids = read_ledger().drop_duplicates("id").set_index("id")["class"]
    photos = {
        photo: Image.fromarray(draw_photo(label, np.random.default_rng(n))) for n, (photo, label) in enumerate(ids.items())
    }
    rows = pd.DataFrame({"id": list(photos), "class": ids.to_list()})
    rows["perceptual_hash"] = [perceptual_hash(np.asarray(image)) for image in photos.values()]
    assert (mark_doubts(rows)["doubt"] == "").all()


def test_no_photo_to_recognise_the_set_by_is_no_doubt(published: pd.DataFrame) -> None:
    for ids in (["cat.1"], ["cat.4085", "dog.1"], []):  # cat.4085 has no hash in the ledger
        marked = mark_doubts(published[published["id"].isin(ids)])
        assert marked["doubt"].tolist() == [""] * len(ids)
        assert marked["doubt_lists"].tolist() == [0] * len(ids)


def test_a_refused_file_without_pixels_does_not_matter(published: pd.DataFrame) -> None:
    published.loc[3, "perceptual_hash"] = ""
    assert (mark_doubts(published)["doubt"] != "").sum() == len(published) - 2


def test_dropping_touches_training_alone(published: pd.DataFrame) -> None:
    marked = mark_doubts(published)
    dropped = drop_doubted(marked)
    doubtful = marked["doubt"] != ""
    gone = dropped["split"] != marked["split"]
    assert (gone == (doubtful & (marked["split"] == "train"))).all()
    assert gone.any()
    assert (dropped.loc[gone, "status"] == "refused").all()
    assert dropped.loc[gone, "reason"].str.fullmatch("label doubted: (reversed|unusable|both)").all()
    pd.testing.assert_frame_equal(dropped[~gone], marked[~gone])
    assert (marked["status"] == "kept").all()  # the argument is as it was


def test_the_columns_come_back_from_disk_and_keep_the_fingerprint(published: pd.DataFrame, tmp_path: Path) -> None:
    marked = mark_doubts(published)
    assert fingerprint(marked) == fingerprint(published)
    for column in INTEGERS:
        marked[column] = marked.get(column, 0)
    write_manifest(marked, tmp_path)
    back = read_manifest(tmp_path).set_index("id")
    assert back["doubt_lists"].dtype == "int64"
    assert back["doubt"].to_dict() == marked.set_index("id")["doubt"].to_dict()
