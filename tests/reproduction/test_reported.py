"""The file of reported results, and the table that README makes of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import PipelineError
from pipeline.params import Params
from pipeline.reproduction.reported import BEGIN, END, FILE, Row, read_rows, results_table, update_readme, write_rows
from tests.clones import ROOT


def row(name: str, **changes: Any) -> Row:
    values: dict[str, Any] = {
        "name": name,
        "dataset": "photos.zip",
        "dataset_sha256": "ab" * 32,
        "photos": 2000,
        "backbone": "mobilenetv2_100",
        "weights": "mobilenetv2.safetensors",
        "weights_sha256": "cd" * 32,
        "params": 'unfreeze_finetune.epochs=2; unfreeze_finetune.augmentation="light"',
        "seed": "0",
        "n_test": 300,
        "test_fingerprint": "ef" * 32,
        "accuracy": 0.98,
        "accuracy_low": 0.957,
        "accuracy_high": 0.991,
        "log_loss": 0.05,
        "frozen_accuracy": 0.97,
        "frozen_accuracy_low": 0.944,
        "frozen_accuracy_high": 0.984,
        "frozen_log_loss": 0.08,
        "note": "",
        "predictions_sha256": "01" * 32,
        "seconds": json.dumps({"download": 1.0, "evaluate": 2.5}),
        "machine": "A processor, 2 threads",
        "versions": json.dumps({"torch": "2.15.0"}),
    }
    return Row(**(values | changes))


def announced(name: str) -> Row:
    unmeasured = dict.fromkeys(("photos", "n_test", "accuracy", "accuracy_low", "accuracy_high", "log_loss"))
    unmeasured |= dict.fromkeys(("frozen_accuracy", "frozen_accuracy_low", "frozen_accuracy_high", "frozen_log_loss"))
    return row(name, dataset="microsoft", weights="pretrained", weights_sha256="", seconds="", **unmeasured)


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    rows = [row("one"), announced("two")]
    write_rows(tmp_path / "reported.csv", rows)
    assert read_rows(tmp_path / "reported.csv") == rows
    assert [one.measured for one in rows] == [True, False]
    assert rows[0].settings == {"unfreeze_finetune.epochs": 2, "unfreeze_finetune.augmentation": "light"}
    assert read_rows(tmp_path / "missing.csv") == []


def test_a_broken_file_is_told(tmp_path: Path) -> None:
    file = tmp_path / "reported.csv"
    write_rows(file, [row("one"), row("one")])
    with pytest.raises(PipelineError, match="2 rows named one"):
        read_rows(file)
    file.write_text(file.read_text().replace("0.98", "much"))
    with pytest.raises(PipelineError, match="cannot be read"):
        read_rows(file)


def test_runs_that_differ_by_seed_alone_are_one_line() -> None:
    seeds = [
        row(f"s{seed}", params=f"preprocess.seed={seed}", accuracy=accuracy) for seed, accuracy in enumerate((0.97, 0.98, 0.99))
    ]
    table = results_table(
        [*seeds, row("other", params=""), row("more", params="unfreeze_finetune.epochs=9"), announced("later")]
    )
    lines = table.splitlines()[2:]
    assert len(lines) == 3
    assert "`s0`, `s1`, `s2`, `other`" in lines[0]
    assert "unfreeze_finetune.epochs=9" in lines[1]
    assert "not yet measured" in lines[2]
    three = results_table(seeds).splitlines()[2]
    assert "98.00 ± 1.00%" in three


def test_one_run_shows_its_interval() -> None:
    line = results_table([row("one")]).splitlines()[2]
    for text in ("98.00% (95.70 to 99.10)", "97.00% (94.40 to 98.40)", "`abababab…`", "`cdcdcdcd…`", "| 300 |", "| 4 s |"):
        assert text in line, text


def test_the_table_goes_between_the_markers_and_nowhere_else(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    assert update_readme(readme, [row("one")])
    text = readme.read_text()
    assert text.startswith(f"before\n{BEGIN}\n| photos")
    assert text.endswith(f"\n{END}\nafter\n")
    assert "old" not in text
    update_readme(readme, [row("one")])
    assert readme.read_text() == text
    readme.write_text("no place")
    assert not update_readme(readme, [row("one")])
    assert readme.read_text() == "no place"


def test_readme_shows_what_is_reported() -> None:
    """README's table is made of the file; to make it anew: python -m pipeline report-result."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = text.split(BEGIN)[1].split(END)[0].strip()
    assert shown == results_table(read_rows(ROOT / FILE))


def test_what_is_published_can_be_read_and_its_settings_exist() -> None:
    rows = read_rows(ROOT / FILE)
    assert rows
    known = {f"{section}.{key}" for section, field in Params.model_fields.items() for key in field.annotation.model_fields}
    for one in rows:
        assert one.settings.keys() <= known
        assert one.measured == bool(one.predictions_sha256)
