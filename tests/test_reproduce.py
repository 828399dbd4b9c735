"""Reported results: rows, the README's table, what reproducing passes and fails, and what is said of other data."""

import json
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline import reproduce as module
from pipeline import runtime
from pipeline.checkpoint import library_versions
from pipeline.cores import usable_cores
from pipeline.files import sha256_of, write_json
from pipeline.params import PARAMS_FILE, Params, change_params
from pipeline.paths import EVALUATION, FINETUNED, METRICS, PROCESSED, SECONDS
from pipeline.reproduce import BEGIN, END, README, REPORTED, STAGES, Outcome, Row, compare, read_rows, reproduce, write_rows
from tests.clones import ROOT
from tests.refusals import refused


def row(name: str, **changes: Any) -> Row:
    values: dict[str, Any] = {"name": name, "dataset": "photos.zip", "dataset_sha256": "ab" * 32, "photos": 2000, "seed": "0"}
    values |= {"backbone": "mobilenetv2_100", "weights": "mobilenetv2.safetensors", "weights_sha256": "cd" * 32}
    values |= {"params": 'unfreeze_finetune.epochs=2; unfreeze_finetune.augmentation="light"', "test_fingerprint": "ef" * 32}
    values |= {"n_test": 300, "accuracy": 0.98, "log_loss": 0.05, "log_loss_low": 0.02, "log_loss_high": 0.09}
    values |= {"frozen_accuracy": 0.97, "frozen_log_loss": 0.08, "predictions_sha256": "01" * 32, "processor": "23" * 32}
    values |= {"seconds": json.dumps({"download": 1.0, "evaluate": 2.5}), "machine": "A processor, 2 threads"}
    values |= {"versions": json.dumps({"torch": "2.15.0"})}
    return Row(**(values | changes))


def announced(name: str) -> Row:
    return Row(name=name, dataset="microsoft", backbone="mobilenetv2_100", weights="pretrained", params=row(name).params)


# The file and the table.


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    rows = [row("one"), announced("two")]
    for some in (rows, []):
        write_rows(tmp_path / "reported.csv", some)
        assert read_rows(tmp_path / "reported.csv") == some
    assert rows[0].settings == {"unfreeze_finetune.epochs": 2, "unfreeze_finetune.augmentation": "light"}


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "reported.csv"
    refused("git checkout", read_rows, file)
    write_rows(file, [row("one"), row("one")])
    refused("2 rows named one", read_rows, file)
    file.write_text(file.read_text().replace("0.98", "much"))
    refused(r"(?s)cannot be read.*accuracy", read_rows, file)
    file.write_text("")
    refused(r"cannot be read.*git checkout", read_rows, file)


def test_runs_that_differ_by_seed_alone_are_one_line() -> None:
    seeds = [
        row(f"s{n}", params=f"preprocess.seed={n}", seed=f"{n}/0", accuracy=0.97 + n / 100, n_test=300 + n) for n in range(3)
    ]
    seeds.append(row("again", params="preprocess.seed=2", seed="2/0", accuracy=0.5))  # which is no further seed
    others = [row("other", params="", seed="3/0"), row("more", params="unfreeze_finetune.epochs=9"), announced("later")]
    lines = module.results_table([*seeds, *others]).splitlines()[2:]
    assert len(lines) == 2  # what is only announced is not among the results
    assert "`s0` and 3 more seeds" in lines[0]
    assert "| epochs=9 |" in lines[1]
    for text in ("98.00% ± 1.00%", "0.0500 ± 0.0000", "`abababab…`", "`cdcdcdcd…`", "| 300 or 301 or 302 |", "| 4 s |"):
        assert text in module.results_table(seeds), text
    assert "| 98.00% | 0.0500 | 300 |" in module.results_table([row("one")])


def test_the_table_goes_between_the_markers_and_nowhere_else(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    for _ in range(2):
        module.update_readme(readme, [row("one")])
        assert readme.read_text() == f"before\n{BEGIN}\n{module.results_table([row('one')])}\n{END}\nafter\n"
    readme.write_text("no place")
    refused("no place for the table", module.update_readme, readme, [row("one")])


def test_readme_shows_what_is_reported_and_its_settings_exist() -> None:
    """To make the table anew: python -m pipeline report-result."""
    rows = read_rows(ROOT / REPORTED)
    assert (ROOT / README).read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0].strip() == module.results_table(rows)
    known = {f"{section}.{key}" for section, settings in Params().model_dump().items() for key in settings}
    for one in rows:
        assert one.settings.keys() <= known
        assert (one.accuracy is not None) == bool(one.predictions_sha256 and one.processor and one.log_loss_high)


# Comparing.


def test_bits_must_agree_on_the_same_processor_threads_and_libraries() -> None:
    assert compare(row("one"), row("one")).verdict == "PASS"
    found = compare(row("one"), row("one", predictions_sha256="99" * 32))
    assert found.verdict == "FAIL"
    assert [line[0] for line in found.lines if line[3] == "FAIL"] == ["predictions"]


@pytest.mark.parametrize("column", ["processor", "machine", "versions"])
def test_elsewhere_scores_may_differ_by_chance_alone(column: str) -> None:
    """At 98% of 300 photos that is by 2.5 points; the log-loss must lie in the row's interval."""
    near = compare(row("one"), row("one", **{column: "other"}, predictions_sha256="99" * 32, accuracy=0.96, log_loss=0.085))
    assert (near.verdict, len(near.lines)) == ("PASS", 6)
    assert f"bits are not compared: another {column}" in str(near)
    for name, value, line in (
        ("accuracy", 0.95, "accuracy, fine-tuned"),
        ("frozen_accuracy", 1.0, "accuracy, frozen"),
        ("log_loss", 0.095, "log-loss, fine-tuned"),
        ("frozen_log_loss", 0.0881, "log-loss, frozen"),
    ):
        far = compare(row("one"), row("one", **{column: "other", name: value}))
        assert [what for what, _, _, word in far.lines if word == "FAIL"] == [line]
    assert compare(row("one", frozen_log_loss=None), row("one", **{column: "other"})).verdict == "PASS"


@pytest.mark.parametrize("column", ["test_fingerprint", "n_test", "weights_sha256", "dataset_sha256"])
def test_other_photos_are_other_data_and_no_failed_accuracy(column: str) -> None:
    found = compare(row("one"), row("one", **{column: 301 if column == "n_test" else "00" * 32}, accuracy=0.5))
    assert found.verdict == "OTHER DATA"
    assert column in found.reason
    assert not {line[3] for line in found.lines} & {"PASS", "FAIL"}
    assert any("98.00%" in line[1] and line[2] == "50.00%" for line in found.lines), "both numbers are shown"


def test_two_fair_runs_pass_in_about_nineteen_of_twenty_cases() -> None:
    assert 0 < module.accuracy_tolerance(1.0, 500) < module.accuracy_tolerance(1.0, 100)
    random = np.random.default_rng(0)
    first, second = random.binomial(500, 0.97, (2, 4000)) / 500
    passed = [abs(a - b) <= module.accuracy_tolerance(a, 500) for a, b in zip(first, second, strict=True)]
    assert 0.94 < np.mean(passed) < 0.98


def test_the_interval_of_log_loss_holds_another_run_of_other_photos() -> None:
    """Two samples of one distribution: the mean of one lies in the widened interval of the other 19 times of 20."""
    random, inside = np.random.default_rng(0), []
    for _ in range(100):
        first, second = random.beta(8, 2, (2, 300))
        table = pd.DataFrame({"actual": "Cat", "finetuned_Cat": first, "finetuned_Dog": 1 - first})
        low, high = module.log_loss_interval(table)
        inside.append(low <= -np.log(second).mean() <= high)
    assert 0.88 < np.mean(inside) <= 1
    certain = pd.DataFrame({"actual": ["Cat", "Dog"], "finetuned_Cat": [1.0, 0.0], "finetuned_Dog": [0.0, 1.0]})
    assert module.log_loss_interval(certain) == pytest.approx((0, 0), abs=1e-12)


def test_a_processor_is_known_by_its_flags_and_not_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second core and the clock change nothing, nor does the order of flags."""
    text = (
        "vendor_id : AuthenticAMD\nmodel\t: 1\nmodel name : EPYC\nstepping : 1\ncpu MHz : {}\nflags : {}\n\nvendor_id: second\n"
    )
    monkeypatch.setattr(runtime, "CPU_INFO", tmp_path / "cpuinfo")

    def fingerprint(clock: int, flags: str) -> str:
        (tmp_path / "cpuinfo").write_text(text.format(clock, flags))
        return runtime.processor_fingerprint()

    assert fingerprint(2000, "avx avx2") == fingerprint(3000, "avx2 avx")
    assert fingerprint(2000, "avx avx2") != fingerprint(2000, "avx avx2 avx512f")
    assert {"opencv-python-headless", "scipy", "openvino", "accelerate"} <= library_versions().keys()


# Running again, and recording.


def test_what_is_not_at_hand_is_named_with_its_hash(tmp_path: Path) -> None:
    (tmp_path / "photos.zip").write_bytes(b"another archive of the same name")
    outcome = reproduce(row("one"), ROOT, archives=[tmp_path], weights=[])
    assert outcome.verdict == "NOT AT HAND"
    for text in ("photos.zip", "ab" * 32, "--archive"):
        assert text in outcome.reason
    (tmp_path / "renamed.zip").write_bytes(b"the archive")
    here = row("one", dataset_sha256=sha256_of(tmp_path / "renamed.zip"))
    outcome = reproduce(here, ROOT, archives=[tmp_path / "renamed.zip"], weights=[])
    assert outcome.verdict == "NOT AT HAND"
    for text in ("mobilenetv2.safetensors", "cd" * 32, "--weights"):
        assert text in outcome.reason
    assert reproduce(announced("later"), ROOT, archives=[], weights=[]).verdict == "NOT MEASURED"
    assert not any(map(module.is_file_name, ("none", "package", "pretrained", "hf-hub:timm/resnet50.a1_in1k")))
    assert not module.is_file_name("ResNet50_Weights.IMAGENET1K_V2")


def test_each_of_several_weights_files_is_looked_for(tmp_path: Path) -> None:
    (tmp_path / "renamed.pth").write_bytes(b"the first")
    first = sha256_of(tmp_path / "renamed.pth")
    for weights, missing in (("a.pth + b.pth", "b.pth"), ("none + b.pth", "b.pth"), ("a.pth", "a.pth")):
        hashes = f"{first} + {'ee' * 32}"
        both = row("one", dataset="drawn", dataset_sha256="", weights=weights, weights_sha256=hashes)
        outcome = reproduce(both, ROOT, archives=[], weights=[tmp_path])
        assert outcome.verdict == "NOT AT HAND"
        assert f"needs {missing} with sha256 {'ee' * 32}" in outcome.reason


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder, with two rows reported and a place for the table."""
    (tmp_path / REPORTED).parent.mkdir(parents=True)
    write_rows(tmp_path / REPORTED, [row("one"), announced("later")])
    (tmp_path / README).write_text(f"{BEGIN}\n{END}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_stages_compute_though_a_shared_cache_holds_their_outputs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC would take them by its lock or its run cache; the command counts how often it ran."""
    shutil.copy(ROOT / PARAMS_FILE, folder)
    (folder / ".dvc").mkdir()
    (folder / ".dvc/config").write_text(f"[core]\n    analytics = false\n[cache]\n    dir = {folder / 'shared'}\n")
    stage = {"cmd": f"echo ran >> {folder / 'ran'} && echo > out", "deps": [README.name], "outs": ["out"]}
    (folder / "dvc.yaml").write_text(json.dumps({"stages": {"only": stage}}))
    git = ["git", "-c", "user.name=Test", "-c", "user.email=test@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    assert module.dvc(folder, "repro").returncode == 0
    subprocess.run([*git, "add", ".dvc/config", "dvc.yaml", "dvc.lock", README, PARAMS_FILE], check=True)
    subprocess.run([*git, "commit", "-qm", "computed"], check=True)
    drawn = row("one", dataset="drawn", dataset_sha256="", weights="none", weights_sha256="")
    monkeypatch.setattr(module, "row_of_outputs", lambda *_: drawn)
    assert reproduce(drawn, folder, archives=[], weights=[]).verdict == "PASS"
    assert (folder / "ran").read_text() == "ran\nran\n"


STATUS = {("PASS", "NOT MEASURED"): 0, ("PASS", "NOT AT HAND"): 3, ("NOT AT HAND", "OTHER DATA"): 4, ("OTHER DATA", "FAIL"): 1}


@pytest.mark.parametrize(("verdicts", "status"), STATUS.items())
@pytest.mark.usefixtures("folder")
def test_the_exit_status(verdicts: tuple[str, ...], status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = iter(verdicts)
    monkeypatch.setattr(module, "reproduce", lambda row, *_, **__: Outcome(row.name, next(outcomes)))
    assert module.reproduce_reported(None, every=True, archives=[], weights=[]) == status


@pytest.mark.usefixtures("folder")
def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    refused(
        r"no row named nothing\. Known: one, later", module.reproduce_reported, "nothing", every=False, archives=[], weights=[]
    )
    for name, every in ((None, False), ("one", True)):
        refused("--all", module.reproduce_reported, name, every=every, archives=[], weights=[])
    write_rows(REPORTED, [])
    refused("no rows to reproduce", module.reproduce_reported, None, every=True, archives=[], weights=[])


def test_the_commands_list_rows_keep_measured_ones_and_make_the_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module.list_reported()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["name", "one", "later"]
    assert "98.00%" in lines[1]
    assert "not yet measured" in lines[2]
    before = (folder / REPORTED).read_bytes()
    refused("has a row named one", module.report_result, "one", replace=False)
    assert (folder / REPORTED).read_bytes() == before
    module.report_result(None, replace=False)
    assert "98.00%" in (folder / README).read_text()


@pytest.mark.parametrize(
    ("changes", "differing"),
    [
        ({}, ""),
        ({"params": "unfreeze_finetune.patience=3"}, ""),  # the default
        ({"dataset_sha256": "ab" * 32}, "dataset_sha256"),
        ({"backbone": "resnet18"}, "backbone"),
        ({"weights": "pretrained"}, "weights"),
        ({"params": "unfreeze_finetune.epochs=0"}, "unfreeze_finetune.epochs"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_an_announced_row_is_filled_by_the_run_that_it_announces_alone(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], differing: str
) -> None:
    run = row("later", dataset_sha256="cd" * 32, params="")
    values = {"name": "later", "dataset": "photos.zip", "backbone": run.backbone, "weights": run.weights}
    write_rows(REPORTED, [Row(**(values | changes))])
    monkeypatch.setattr(module, "dvc", lambda *_: SimpleNamespace(returncode=0, stdout=""))
    monkeypatch.setattr(module, "row_of_outputs", lambda *_: run)
    if differing:
        refused(f"announces later, .* another {differing}[.] .*--replace", module.report_result, "later", replace=False)
    module.report_result("later", replace=bool(differing))
    assert read_rows(REPORTED) == [run]


@pytest.fixture
def outputs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder, with what the stages leave, of four test photos."""
    shutil.copy(ROOT / PARAMS_FILE, folder)
    change_params(folder / PARAMS_FILE, {"unfreeze_finetune.seed": 3, "backbone.weights": "../net.safetensors"})
    backbone = SimpleNamespace(parts=(), name="test_resnet", weights="../net.safetensors", weights_sha256="cd" * 32)
    info = SimpleNamespace(backbone=backbone, versions=library_versions())
    manifest = pd.DataFrame({"split": ["train", "val", "test", "test", ""]})
    monkeypatch.setattr(module, "read_info", {folder / FINETUNED: info}.__getitem__)
    monkeypatch.setattr(module, "read_manifest", {folder / PROCESSED: manifest}.__getitem__)
    scores = {"accuracy": 0.75, "log_loss": 0.6}
    metrics = {"num_test": 4, "test_fingerprint": "ef" * 32, "frozen": scores, "finetuned": scores}
    write_json(EVALUATION / "metrics.json", metrics)
    write_json(METRICS / "download.json", {"files": 7})
    device = runtime.resolve_device("auto")
    here = {"machine": runtime.machine_name(device, usable_cores()), "processor": runtime.processor_fingerprint()}
    for stage in STAGES:
        write_json(SECONDS / f"{stage}.json", {"seconds": 1.25, **here})
    predictions = pd.DataFrame({"actual": ["Cat", "Cat", "Dog", "Dog"], "finetuned_Cat": [0.9, 0.4, 0.2, 0.1]})
    predictions.assign(finetuned_Dog=1 - predictions["finetuned_Cat"]).to_csv(EVALUATION / "predictions.csv")
    return folder


def test_a_row_is_what_the_stages_wrote(outputs: Path) -> None:
    made = module.row_of_outputs(outputs, "here")
    assert (made.photos, made.n_test, made.accuracy, made.weights, made.seed) == (4, 4, 0.75, "net.safetensors", "0/0/3")
    assert made.settings == {"unfreeze_finetune.seed": 3}
    assert json.loads(made.seconds) == dict.fromkeys(STAGES, 1.2)
    assert made.log_loss_low is not None
    assert made.log_loss_low < -np.log([0.9, 0.4, 0.8, 0.9]).mean() < (made.log_loss_high or 0)
    assert compare(made, made).verdict == "PASS"
    change_params(outputs / PARAMS_FILE, {"download.source": "photos"})
    refused("is a folder", module.row_of_outputs, outputs, "here")


@pytest.mark.parametrize("function", ["library_versions", "machine_name", "processor_fingerprint"])
def test_a_row_is_not_made_of_what_was_computed_elsewhere(
    outputs: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    monkeypatch.setattr(module, function, lambda *_: "another")
    refused("another machine or by other versions", module.row_of_outputs, outputs, "here")
