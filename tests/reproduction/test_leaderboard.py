"""The leaderboard of what `dvc exp show --json` tells."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.reproduction.leaderboard import entries_of, leaderboard, picture, spread_table, spreads_of


def state(
    name: str | None, accuracy: float, log_loss: float = 0.1, backbone: str = "resnet18", seed: int = 0, rate: float = 1e-3
) -> dict[str, Any]:
    finetuning = {"learning_rate": rate, "seed": seed}
    params = {"backbone": {"name": backbone}, "unfreeze_finetune": finetuning, "runtime": {"workers": seed}}
    scores = {"accuracy": accuracy, "accuracy_low": accuracy - 0.02, "accuracy_high": accuracy + 0.01, "log_loss": log_loss}
    files = {
        "outputs/evaluation/metrics.json": {"num_test": 352, "frozen": {"accuracy": 0.9}, "finetuned": scores},
        "outputs/metrics/evaluate.json": {"num_parameters": 11_177_538, "seconds": 5.0},
        "outputs/metrics/train-frozen-backbone.json": {"seconds": 10.0},
        "outputs/metrics/unfreeze-finetune.json": {"seconds": 90.0},
    }
    return {
        "rev": "0123456789",
        "name": name,
        "data": {
            "params": {"params.yaml": {"data": params}},
            "metrics": {file: {"data": content} for file, content in files.items()},
        },
    }


def shown(*experiments: dict[str, Any]) -> list[dict[str, Any]]:
    base = state("main", 0.94)
    return [state("workspace", 0.94), base | {"experiments": [{"revs": [one], "name": one["name"]} for one in experiments]}]


def test_the_most_accurate_is_first_and_ties_go_to_the_lower_log_loss() -> None:
    entries = entries_of(shown(state("a", 0.95), state("b", 0.97, 0.2), state("c", 0.97, 0.1)))
    assert [entry.name for entry in entries] == ["c", "b", "a", "main"]


def test_failed_and_queued_experiments_are_left_out() -> None:
    broken = state("broken", 0.9)
    del broken["data"]["metrics"]["outputs/evaluation/metrics.json"]
    queued = {"rev": "abc", "name": "queued", "data": None}
    assert [entry.name for entry in entries_of(shown(broken, queued))] == ["main"]


def test_the_table_and_the_picture(tmp_path: Path) -> None:
    entries = entries_of(shown(state("a", 0.9512, backbone="mobilenetv2_100")))
    lines = leaderboard(entries).splitlines()
    for text in ("mobilenetv2_100", "11.18 M", "95.12% (93.12% to 96.12%)", "90.00%", "10 s", "90 s"):
        assert text in lines[1], text
    picture(entries, tmp_path / "folder/board.svg")
    drawn = (tmp_path / "folder/board.svg").read_text()
    assert drawn.startswith("<?xml")


def test_experiments_that_differ_in_a_seed_alone_are_summed_up() -> None:
    """0.95, 0.96 and 0.97 have the mean 0.96 and the standard deviation 0.01."""
    seeds = [state(f"seed-{seed}", 0.95 + seed / 100, 0.1 + seed / 10, "test_vit", seed) for seed in range(3)]
    entries = entries_of(shown(*seeds, state("rate", 0.9, backbone="test_vit", rate=1e-2), state("other", 0.99, seed=5)))
    first, second = spreads_of(entries)  # "main" and "other" differ in the seed too
    assert (first.backbone, set(first.names)) == ("resnet18", {"other", "main"})
    assert set(second.names) == {"seed-0", "seed-1", "seed-2"}
    assert second.accuracy == pytest.approx((0.96, 0.01))
    assert second.log_loss == pytest.approx((0.2, 0.1))
    assert second.frozen_accuracy == (0.9, 0.0)
    line = spread_table([first, second]).splitlines()[2]
    for text in ("3  ", "test_vit", "96.00% ± 1.00%", "90.00% ± 0.00%", "0.2000 ± 0.1000", "seed-2, seed-1, seed-0"):
        assert text in line, text
    assert spreads_of(entries_of(shown())) == []
