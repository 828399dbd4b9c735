"""Reproducing: what passes, what fails, and what is said where something is not at hand."""

from pathlib import Path

import pytest

from pipeline.files import sha256_of
from pipeline.reproduction.rerun import Outcome, compare, exit_status, reproduce, told
from tests.clones import ROOT
from tests.reproduction.test_reported import announced, row


def verdicts(reported: dict, measured: dict) -> dict[str, bool]:
    return {check.what: check.passed for check in compare(row("one", **reported), row("one", **measured))}


def test_on_the_same_machine_bits_must_agree() -> None:
    assert all(verdicts({}, {}).values())
    found = verdicts({}, {"predictions_sha256": "99" * 32})
    assert [what for what, passed in found.items() if not passed] == ["predictions, bit for bit"]


@pytest.mark.parametrize("change", [{"machine": "Another, 4 threads"}, {"versions": '{"torch": "2.16.0"}'}])
def test_on_another_machine_the_accuracy_must_lie_in_the_interval(change: dict) -> None:
    near = verdicts({}, {**change, "predictions_sha256": "99" * 32, "accuracy": 0.96})
    assert all(near.values())
    assert "predictions, bit for bit" not in near
    far = verdicts({}, {**change, "accuracy": 0.95})
    assert [what for what, passed in far.items() if not passed] == ["accuracy, fine-tuned"]
    frozen = verdicts({}, {**change, "frozen_accuracy": 0.99})
    assert [what for what, passed in frozen.items() if not passed] == ["accuracy, frozen"]


def test_other_test_photos_fail() -> None:
    assert not verdicts({}, {"test_fingerprint": "00" * 32})["their fingerprint"]
    assert not verdicts({}, {"n_test": 301})["test photos"]


def test_what_is_not_at_hand_is_named_with_its_hash(tmp_path: Path) -> None:
    (tmp_path / "photos.zip").write_bytes(b"another archive of the same name")
    outcome = reproduce(row("one"), ROOT, archives=[tmp_path], weights=[])
    assert outcome.verdict == "NOT AT HAND"
    assert "photos.zip" in outcome.reason
    assert "ab" * 32 in outcome.reason
    assert "--archive" in outcome.reason
    (tmp_path / "photos.zip").write_bytes(b"the archive")
    here = row("one", dataset_sha256=sha256_of(tmp_path / "photos.zip"))
    (tmp_path / "renamed.zip").write_bytes((tmp_path / "photos.zip").read_bytes())
    outcome = reproduce(here, ROOT, archives=[tmp_path / "renamed.zip"], weights=[])
    assert outcome.verdict == "NOT AT HAND"
    assert "mobilenetv2.safetensors" in outcome.reason
    assert "--weights" in outcome.reason


def test_what_nobody_measured_is_said_to_be_so() -> None:
    assert reproduce(announced("later"), ROOT, archives=[], weights=[]).verdict == "NOT MEASURED"


def test_the_exit_status_tells_failure_from_absence() -> None:
    def status(*verdicts: str) -> int:
        return exit_status([Outcome("one", verdict) for verdict in verdicts])

    assert status("PASS", "NOT MEASURED") == 0
    assert status("PASS", "NOT AT HAND") == 3
    assert status("NOT AT HAND", "FAIL", "PASS") == 1


def test_the_table_says_it_all() -> None:
    checks = compare(row("one"), row("one", machine="another", accuracy=0.5))
    shown = told(Outcome("one", "FAIL", checks))
    assert shown.startswith("one: FAIL\n")
    line = next(line for line in shown.splitlines() if "fine-tuned" in line)
    assert line.split() == ["accuracy,", "fine-tuned", "98.00%", "(95.70%", "to", "99.10%)", "50.00%", "FAIL"]
    assert "bits are not compared" in shown
