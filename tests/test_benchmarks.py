"""Every benchmark starts, and the comparison with peers samples, chooses and reports as it says."""

import importlib
import json
import re
import subprocess
import sys
import tomllib
from argparse import Namespace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from pipeline.data.manifest import INTEGERS, write_manifest
from pipeline.errors import PipelineError
from tests.clones import ROOT
from tests.refusals import refused

PEERS = sorted((ROOT / "benchmarks/peers").glob("*_peer.py"))
METADATA = re.compile(r"(?m)^# /// script$\s(?P<content>(^#(| .*)$\s)+)^# ///$")  # as PEP 723 defines it
COMMANDS = [path for path in sorted((ROOT / "benchmarks").glob("*.py")) if path.stem != "common"]


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("benchmarks", "benchmarks/peers"):
        monkeypatch.syspath_prepend(ROOT / folder)
    for name in ("common", "peer", *(path.stem for path in COMMANDS)):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_every_benchmark_finds_what_it_imports_and_says_how_to_run_it() -> None:
    for path in COMMANDS:
        assert f"python benchmarks/{path.name}" in (importlib.import_module(path.stem).__doc__ or "")


@pytest.mark.parametrize("script", PEERS, ids=lambda path: path.stem)
def test_a_peer_has_an_environment_of_its_own(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    [described] = METADATA.finditer(text)
    metadata = tomllib.loads("".join(line[2:] for line in described["content"].splitlines(keepends=True)))
    assert any(one.startswith("torch>=") for one in metadata["dependencies"])
    assert metadata["tool"]["uv"]["exclude-newer"]
    assert "from pipeline" not in text


def test_a_peer_tries_further_rates_while_the_best_lies_at_an_end() -> None:
    from peer import next_rates

    assert next_rates(1e-3, [1e-4, 1e-3]) == pytest.approx([3e-3])
    assert next_rates(1e-4, [1e-4, 1e-3]) == pytest.approx([1e-4 / 3])
    assert next_rates(1e-3, [1e-4, 1e-3, 3e-3]) == []
    assert next_rates(None, [None]) == []  # a stage without rates


def test_a_sample_has_the_fraction_of_each_class_and_the_other_splits_whole() -> None:
    from compare_peers import sample

    splits = ["train"] * 100 + ["val"] * 10 + ["test"] * 10
    classes = [["cat", "dog", "dog", "dog"][number % 4] for number in range(120)]
    manifest = pd.DataFrame({"id": [f"{number:03d}" for number in range(120)], "class": classes, "split": splits})
    fewer = sample(manifest, 20, seed=0)
    assert fewer[fewer["split"] == "train"]["class"].value_counts().to_dict() == {"dog": 15, "cat": 5}
    assert (fewer["split"] == "val").sum() == (fewer["split"] == "test").sum() == 10
    assert sample(manifest.sample(frac=1, random_state=0), 20, seed=0).sort_index().equals(fewer)
    assert sample(manifest, 100, seed=0).equals(manifest)


def test_the_blocks_that_learn_follow_from_all_training_photos_where_no_sample_is_asked_for(tmp_path: Path) -> None:
    from compare_peers import describe_blocks

    weights = tmp_path / "test_resnet.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), weights)
    rows = pd.DataFrame({"id": list("abcd"), "class": ["cat", "dog"] * 2, "split": "train", **dict.fromkeys(INTEGERS, 0)})
    (tmp_path / "data/processed").mkdir(parents=True)
    write_manifest(rows, tmp_path / "data/processed")
    describe_blocks(Namespace(backbone="test_resnet", weights=str(weights), photos=None), tmp_path)
    counts = json.loads((tmp_path / "counts.json").read_text())
    assert 0 < counts["frozen"] < counts["finetuned"] < counts["all"]


def a_run(seconds: tuple[float, float], accuracy: float, rate: float | None = None) -> dict[str, Any]:
    scores = {"accuracy": accuracy, "log_loss": 1 - accuracy, "val_log_loss": 0.5, "learnt": 5, "parameters": 100, "rate": rate}
    stages = {name: {"seconds": one} | scores for name, one in zip(("frozen", "finetuned"), seconds, strict=True)}
    return {"stages": stages, "peak": 1000.0, "settings": {"head": "zeros"}, "versions": {"torch": "2.15.0"}}


def test_the_report_has_ratios_of_the_same_repeat_and_says_where_ours_is_not_the_best() -> None:
    """A machine twice as slow in the second repeat slows both sides, and leaves the ratio as it is."""
    from compare_peers import OURS, report

    peer = [a_run((10, 20), 0.8, 0.001), a_run((20, 40), 0.9, 0.001)]
    text = report({OURS: [a_run((1, 4), 0.9), a_run((2, 8), 1.0)], "peer": peer, "slow": [a_run((90, 90), 0.99)] * 2})
    line = next(line for line in text.splitlines() if line.startswith("| peer"))
    for cell in ("15 s (10.00)", "30 s (5.00)", "45 s (6.00)", "5 (5.0%)", "0.001 / 0.001", "85.00%", "0.1500", "1,000 MB"):
        assert f" {cell} |" in line, cell
    assert "slow is better in test accuracy; slow is better in log_loss." in text
    assert "- peer: head: zeros; torch 2.15.0" in text


def test_variants_are_ranked_by_validation_and_paired_by_seed() -> None:
    from common import RECIPE, table_of_variants

    def runs(*scores: tuple[float, float]) -> list[dict[str, float]]:
        return [{"val": val, "test": test} for val, test in scores]

    scores = {RECIPE: runs((0.3, 0.1), (0.3, 0.2)), "a": runs((0.1, 0.4), (0.1, 0.5)), "b": runs((0.2, 0.0), (0.2, 0.1))}
    lines = table_of_variants(scores, {"val": ".4f", "test": ".2%"}, "test").splitlines()[2:]
    assert [line.split(" | ")[0] for line in lines] == ["| a", "| b", f"| {RECIPE}"]
    assert "| 0.1000 ± 0.0000 | 45.00% ± 7.07% | +0.3000 ± 0.0000 |" in lines[0]
    assert "-0.1000 ± 0.0000" in lines[1]


def test_the_rate_with_the_lowest_validation_log_loss_is_chosen_and_the_next_stage_starts_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer whose network is one weight, which learns a tenth of the rate from where it starts."""
    import peer

    class OneWeight(nn.Linear):
        def __init__(self) -> None:
            super().__init__(1, 1, bias=False)
            nn.init.zeros_(self.weight)

    def prepare(model: Any, stage: str, rate: Any, given: Any) -> Any:
        def train() -> nn.Module:
            with torch.no_grad():
                model.weight += rate
            return model

        return train

    monkeypatch.setattr(peer, "evaluation_batches", lambda given, split: split)
    score = {"accuracy": 0.5, "n": 4}  # the nearer the weight is to 3, the better
    monkeypatch.setattr(peer, "score", lambda model, _: score | {"log_loss": abs(model.weight.item() - 3)})
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    options = {"images": tmp_path, "backbone": "net", "weights": "net.safetensors", "epochs-frozen": 1, "epochs-unfrozen": 1}
    options |= {"seed": 0, "threads": 1, "same-blocks": "blocks.json", "output": tmp_path / "out.json"}
    command = ["peer", *(text for name, value in options.items() for text in (f"--{name}", str(value)))]

    def stages(*more: str) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", [*command, *more])
        rates = {"frozen": (0.5, 2.0, 9.0), "finetuned": (0.5, 1.0, 2.0)}
        peer.main("A peer.", prepare, rates=rates, settings={}, build=lambda given: OneWeight())
        return json.loads((tmp_path / "out.json").read_text())["stages"]

    found = stages()
    assert (found["frozen"]["rate"], found["finetuned"]["rate"]) == (2.0, 1.0)
    assert found["frozen"]["tried"] == {"0.5": 2.5, "2.0": 1.0, "9.0": 6.0}
    assert found["finetuned"]["val_log_loss"] == 0
    assert (found["finetuned"]["learnt"], found["finetuned"]["parameters"]) == (1, 1)
    assert list(stages("--rates", '{"frozen": 9.0}')["frozen"]["tried"]) == ["9.0"]


@pytest.mark.parametrize("setting", ["unfreeze_finetune.layer_decoy=1.0", "head.type=mlp", "unfreeze_finetune.patience=none"])
def test_a_variant_that_is_no_setting_of_fine_tuning_is_refused_at_once(setting: str) -> None:
    recipes = importlib.import_module("recipes")
    assert recipes.settings_of("unfreeze_finetune.layer_decay=1.0", seed=3).layer_decay == 1.0
    refused(f"--set {re.escape(setting)}: .*Only settings of unfreeze_finetune", recipes.settings_of, setting, seed=0)


@pytest.mark.parametrize("text", ["epochs=0", "unfreeze_finetune.epochs", "head.type=[", "unfreeze_finetune.seed=1"])
def test_what_is_no_setting_or_the_seed_is_refused_in_one_message(text: str) -> None:
    common, recipes = (importlib.import_module(name) for name in ("common", "recipes"))
    assert common.setting("unfreeze_finetune.learning_rate=1e-3") == {"unfreeze_finetune.learning_rate": 0.001}
    for refuse in (common.setting, lambda text: recipes.settings_of(text, seed=0)):
        refused(f"--set {re.escape(text)}: ", refuse, text)


def test_a_variant_finds_no_augmented_copies_of_the_one_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ablation = importlib.import_module("ablation")
    cache = tmp_path / "outputs/.features"
    monkeypatch.setattr(ablation.common, "run_stage", lambda stage, *_: (cache / stage).mkdir(parents=True))
    ablation.run_stages(tmp_path, tmp_path / "log.txt")
    assert sorted(path.name for path in cache.iterdir()) == ["evaluate", "train-frozen-backbone"]


def test_a_sample_of_photos_ordered_by_class_has_the_classes_of_all() -> None:
    shapes = importlib.import_module("shapes")
    ids = tuple(f"{name}.{number:03d}" for name in ("cat", "dog") for number in range(75))
    photos = shapes.Photos(ids, tuple(map(Path, ids)), torch.arange(150) // 75, ids)
    left = frozenset(ids[:10] + ids[-10:])
    for count, without, expected in ((100, frozenset[str](), 100), (100, left, 100), (500, frozenset[str](), 150)):
        chosen = shapes.some(photos, count, without)
        assert (len(chosen), chosen.labels.sum()) == (expected, expected / 2)
        assert len(set(chosen.ids) - without) == expected


def test_only_biases_norms_and_the_head_learn_whatever_that_is_called() -> None:
    model = timm.create_model("test_resnet")
    importlib.import_module("recipes").freeze_matrices(model)
    assert [name for name, one in model.named_parameters() if one.requires_grad and one.ndim > 1] == ["fc.weight"]


@pytest.mark.parametrize("name", ["ablation", "shapes", "speedrun"])
def test_the_log_that_a_failure_names_is_still_there(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    common, benchmark = (importlib.import_module(one) for one in ("common", name))

    def clone_project(_: Path, clone: Path) -> Path:
        clone.mkdir(parents=True)
        (clone / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
        return clone

    monkeypatch.setattr(benchmark, "clone_project", clone_project)
    monkeypatch.setattr(common, "lend_photos", lambda *_: None)
    monkeypatch.setattr(common, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(common, "SECONDS_BETWEEN_LOOKS", 0.01)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    given = Namespace(source="drawn", target="accuracy=0.98", preset="fast", set=[], runs=1, seeds=1, first="a", second="b")
    with pytest.raises(PipelineError, match="status 1") as failure:
        benchmark.measure(given)
    assert Path(str(failure.value).split("The whole log: ")[1].split(". Its end")[0]).is_file()


def test_a_record_names_commit_and_archive_and_a_mistake_is_said_before_any_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ablation, speedrun = (importlib.import_module(name) for name in ("ablation", "speedrun"))
    monkeypatch.setattr(speedrun, "run", lambda *_: (0.99, 60.0, "ab" * 32))
    given = Namespace(source="photos.zip", target="accuracy=0.98", preset="fast", set=[], runs=3, seeds=1)
    speedrun.measure(given)
    head = ["git", "rev-parse", "HEAD"]
    commit = subprocess.run(head, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    *_, named, _, _, row = capsys.readouterr().out.splitlines()
    assert named == f"commit {commit}, SHA-256 of the archive: {'ab' * 32}"
    assert "| photos.zip (`abababab…`) |" in row
    assert row.endswith(f"| `{commit[:12]}` |")
    given.set = ["unfreeze_finetune.epochz=0"]
    monkeypatch.setattr(ablation.common, "lend_photos", lambda *_: None)
    monkeypatch.setattr(ablation.common, "RUNS", tmp_path)
    for benchmark in (ablation, speedrun):
        refused("epochz: there is no such setting", benchmark.measure, given)
