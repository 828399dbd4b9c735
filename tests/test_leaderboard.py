"""The leaderboard of what `dvc exp show --json` gives: ranked on validation, and honest about looks at the test split."""

import json
import subprocess
from typing import Any

import pytest

from pipeline import leaderboard as module
from pipeline.leaderboard import experiments_of, leaderboard, over_seeds, show
from pipeline.params import Params, settings_sha256
from tests.refusals import refused


def state(
    name: str | None, val: float, accuracy: float = 0.95, *, seed: int = 0, rate: float = 1e-3, photos: str = "ef", **other: Any
) -> dict[str, Any]:
    params = {
        "backbone": {"name": other.get("backbone", "resnet18"), "weights": "none"},
        "head": {"class_weight": other.get("class_weight", "none")},
        "unfreeze_finetune": {"learning_rate": rate, "seed": seed},
        "runtime": {"workers": other.get("workers", 2)},
    }
    finetuned = {"accuracy": accuracy, "accuracy_low": accuracy - 0.02, "accuracy_high": accuracy + 0.01}
    finetuned |= {"log_loss": val + 0.1, "val_log_loss": val}
    metrics = {"num_test": 352, "num_parameters": 11_177_538, "test_fingerprint": photos * 32}
    metrics |= {"val_fingerprint": other.get("validated_on", "cd") * 32, "settings_sha256": settings_sha256(Params(**params))}
    files = {
        "outputs/evaluation/metrics.json": metrics | {"frozen": {"accuracy": 0.9}, "finetuned": finetuned},
        "outputs/seconds/train-frozen-backbone.json": {"seconds": 10.0},
        "outputs/seconds/unfreeze-finetune.json": {"seconds": other.get("seconds", 90.0)},
    }
    data = {"params": {"params.yaml": {"data": params}}, "metrics": {file: {"data": of} for file, of in files.items()}}
    return {"rev": "0123456789", "name": name, "data": data}


def shown(*experiments: dict[str, Any]) -> list[dict[str, Any]]:
    base = state("main", 0.4)
    return [state("workspace", 0.4), base | {"experiments": [{"revs": [one], "name": one["name"]} for one in experiments]}]


def test_the_lowest_validation_log_loss_is_first_whatever_the_test_photos_say() -> None:
    [table] = experiments_of(shown(state("lucky", 0.3, accuracy=0.99), state("best", 0.1, accuracy=0.9), state("next", 0.2)))
    assert table["name"].tolist() == ["best", "next", "lucky", "main"]


def test_failed_queued_and_repeated_experiments_are_left_out() -> None:
    failed = state("failed", 0.1) | {"error": {"msg": "Experiment run failed"}}
    broken = state("broken", 0.1)
    del broken["data"]["metrics"]["outputs/evaluation/metrics.json"]
    queued = {"rev": "abc", "name": "queued", "data": None}
    again = state("again", 0.4, seconds=70.0, workers=8)  # as main, at another time on another machine
    [table] = experiments_of(shown(failed, broken, queued, again))
    assert table["name"].tolist() == ["again"]
    [table] = experiments_of(shown(state("same", 0.4, seed=1)))
    assert len(table) == 2, "another seed is another experiment, whatever it scores"


def test_scores_of_other_settings_than_params_yaml_has_are_left_out() -> None:
    """As in a workspace where a preset was chosen and nothing was run since."""
    edited = state("edited", 0.1)
    edited["data"]["params"]["params.yaml"]["data"]["backbone"]["name"] = "resnet50"
    [table] = experiments_of(shown(edited))
    assert table["name"].tolist() == ["main"]


@pytest.mark.parametrize("other", [{"validated_on": "ab"}, {"class_weight": "balanced"}])
def test_validation_losses_that_cannot_be_compared_are_no_ranking_and_yet_looks(other: dict[str, str]) -> None:
    groups = experiments_of(shown(state("a", 0.2), state("other", 0.1, **other)))
    assert [group["name"].tolist() for group in groups] == [["a", "main"], ["other"]]
    table = leaderboard(groups[1])
    assert "3 different experiments have looked" in table
    assert all(value in table for value in other.values())


def test_looks_at_the_test_split_are_counted_by_test_split() -> None:
    others = [state(f"other-{seed}", 0.01, seed=seed, photos="ab") for seed in range(2)]
    groups = experiments_of(shown(*others, state("a", 0.2, backbone=["vgg11", "vgg13"]), state("b", 0.3)))
    assert [group["name"].tolist() for group in groups] == [["a", "b", "main"], ["other-0", "other-1"]]
    table = leaderboard(groups[0])
    assert "3 different experiments have looked at the test split (352 photos, fingerprint efefefefefef)" in table
    assert "1 different experiment has looked" in leaderboard(experiments_of(shown())[0])
    for text in ("1  a", "vgg11 + vgg13", "11.18 M", "0.2000", "0.3000", "95.00% (93.00% to 96.00%)", "90.00%", "10 + 90"):
        assert text in table.splitlines()[1], text


def test_experiments_that_differ_in_a_seed_alone_have_a_mean_and_a_deviation() -> None:
    """0.1, 0.2 and 0.3 have the mean 0.2 and the standard deviation 0.1; main has another learning rate."""
    seeds = [state(f"seed-{seed}", 0.1 + seed / 10, 0.95 + seed / 100, seed=seed, rate=1e-2) for seed in range(3)]
    seeds.append(state("seed-0-again", 0.05, rate=1e-2))  # on another machine, say
    lines = over_seeds(experiments_of(shown(*seeds))[0]).splitlines()
    assert len(lines) == 2
    for text in ("3  ", "0.2000 ± 0.1000", "0.3000 ± 0.1000", "96.00% ± 1.00%", "90.00% ± 0.00%", "seed-0, seed-1, seed-2"):
        assert text in lines[1], text
    assert over_seeds(experiments_of(shown(state("again", 0.5)))[0]) == ""


def test_the_command_prints(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def dvc(answer: Any, status: int = 0) -> None:
        done = subprocess.CompletedProcess([], status, json.dumps(answer), "no repository")
        monkeypatch.setattr(module, "dvc", lambda *_: done)

    dvc(shown(state("a", 0.1), state("b", 0.2, seed=1)))
    show()
    printed = capsys.readouterr().out
    assert "3 different experiments" in printed
    assert "over seeds" in printed
    for answer, status, message in (([], 0, "no experiment"), ([], 1, "no repository")):
        dvc(answer, status)
        refused(message, show)
