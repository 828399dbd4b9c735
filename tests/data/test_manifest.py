"""The manifest's summary, and what is said where there is no manifest."""

import json
from pathlib import Path

import pandas as pd
import pytest

from pipeline.data.manifest import INTEGERS, read_manifest, summary
from tests.refusals import refused

COLUMNS = ["id", "class", "status", "reason", "width", "height", "stored_bytes", "pixel_hash", "group", "split"]
ROWS = [
    ["cat.0", "cat", "kept", "", 60, 40, 100, "p", "a", "train"],
    ["cat.1", "cat", "kept", "", 60, 50, 200, "p", "a", "train"],
    ["cat.2", "cat", "repaired", "CMYK converted; decoder warning: odd", 70, 90, 300, "q", "b", "val"],
    ["dog.0", "dog", "repaired", "CMYK converted", 80, 80, 400, "r", "b", "val"],
    ["dog.1", "dog", "refused", "truncated: here", 0, 0, 0, "", "", ""],
    ["dog.2", "dog", "refused", "truncated: there", 0, 0, 0, "", "", ""],
    ["dog.3", "dog", "refused", "label contradicts its duplicate: cat.3", 80, 80, 500, "s", "d", ""],
    ["cat.3", "cat", "refused", "label contradicts its duplicate: dog.3", 80, 80, 500, "t", "d", ""],
]


def test_the_summary_counts_what_there_is() -> None:
    photos = {"train": {"cat": 2, "dog": 0}, "val": {"cat": 1, "dog": 1}, "test": {"cat": 0, "dog": 0}}
    expected = {"files": 8, "status": {"kept": 2, "refused": 4, "repaired": 2}, "photos": photos}
    expected |= {"refused": {"label contradicts its duplicate": 2, "truncated": 2}}
    expected |= {"repaired": {"CMYK converted": 2, "decoder warning": 1}, "stored_size": 64, "stored_bytes": 1000}
    duplicates = {"groups": 3, "exact_groups": 1, "near_groups": 2, "mixed_groups": 1}
    expected["duplicates"] = duplicates | {"photos": 6, "contradicting": 2, "across_splits": 0}
    expected["shorter_side"] = {"min": 40, "median": 60.0, "max": 80}
    assert json.loads(json.dumps(summary(pd.DataFrame(ROWS, columns=COLUMNS), 64))) == expected


@pytest.mark.parametrize("content", [None, "", "id,class\n"])
def test_a_manifest_that_cannot_be_read_can_be_made_again(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "manifest.csv").write_text(content)
    refused(r"manifest.csv cannot be used .* Make it again with: dvc repro preprocess", read_manifest, tmp_path)


def test_a_manifest_whose_replacement_was_killed_is_there_again(tmp_path: Path) -> None:
    (tmp_path / ".processed.old").mkdir()
    (tmp_path / ".processed.old/manifest.csv").write_text(",".join(INTEGERS))
    assert list(read_manifest(tmp_path / "processed").columns) == list(INTEGERS)
