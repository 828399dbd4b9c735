"""Leaderboard of DVC experiments, ranked by validation log-loss, with the test scores shown and the looks at them counted.

show_leaderboard()
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.checkpoint import SEVERAL
from pipeline.errors import PipelineError
from pipeline.progress import say
from pipeline.reproduce import aligned, dvc, mean_and_deviation

METRICS = "outputs/evaluation/metrics.json"
SECONDS = ("outputs/seconds/train-frozen-backbone.json", "outputs/seconds/unfreeze-finetune.json")
FINETUNED = ("val_log_loss", "accuracy", "accuracy_low", "accuracy_high", "log_loss")
HEAD = ("", "experiment", "backbone", "parameters", "val log-loss", "test log-loss", "test accuracy", "frozen", "seconds")


def show_leaderboard() -> None:
    """Print the experiments, those on the same test photos in one table.

    Raises:
        PipelineError: DVC fails, or no experiment has a result.
    """
    done = dvc(Path(), "exp", "show", "--all-commits", "--json")
    if done.returncode:
        raise PipelineError(f"dvc exp show failed: {done.stderr.strip()}")
    tables = experiments_of(json.loads(done.stdout))
    if not tables:
        raise PipelineError("There is no experiment with a result yet. Make one with: dvc exp run")
    for table in tables:
        say(f"{leaderboard(table)}\n\n{over_seeds(table)}")


def experiments_of(shown: Sequence[dict[str, Any]]) -> list[pd.DataFrame]:
    """Experiments with a result, each once, from what `dvc exp show --json` printed, the lowest validation log-loss first.

    A table for each set of test photos, the largest first: nothing else can be ranked. Columns: see `_experiment`.
    """
    named = [state for base in shown for group in base.get("experiments") or [] for state in group["revs"]]
    found = [one for state in [*named, *reversed(shown)] if (one := _experiment(state))]
    if not found:
        return []
    table = pd.DataFrame(found).drop_duplicates("identity").sort_values("val_log_loss", kind="stable")
    groups = [group for _, group in table.groupby("test_fingerprint", sort=False)]
    return sorted(groups, key=len, reverse=True)


def leaderboard(table: pd.DataFrame) -> str:
    """The table of experiments on the same photos, and how many have looked at the test split."""
    lines = [HEAD]
    experiments: Any = table.itertuples()
    for place, one in enumerate(experiments, 1):
        accuracy = f"{one.accuracy:.2%} ({one.accuracy_low:.2%} to {one.accuracy_high:.2%})"
        sizes = f"{one.num_parameters / 1e6:,.2f} M", f"{one.val_log_loss:.4f}", f"{one.log_loss:.4f}"
        seconds = f"{one.frozen_seconds:,.0f} + {one.finetune_seconds:,.0f}"
        lines.append((f"{place}", one.name, one.backbone, *sizes, accuracy, f"{one.frozen_accuracy:.2%}", seconds))
    looks = f"{len(table)} different experiment{'s have' if len(table) > 1 else ' has'} looked at the test split"
    photos = f"{table['num_test'].iloc[0]:,} photos, fingerprint {table['test_fingerprint'].iloc[0][:12]}"
    return f"{aligned(lines)}\n{looks} ({photos}): choose by validation, and report the test score of the first."


def over_seeds(table: pd.DataFrame) -> str:
    """The table of experiments that differ in seeds alone, mean ± standard deviation (of n - 1); empty where there are none."""
    lines = [("over seeds", "backbone", "val log-loss", "test log-loss", "test accuracy", "frozen", "experiments")]
    forms = {"val_log_loss": ".4f", "log_loss": ".4f", "accuracy": ".2%", "frozen_accuracy": ".2%"}
    for _, group in table.groupby("settings", sort=False):
        if len(group) > 1:
            cells = [mean_and_deviation(group[name].tolist(), form) for name, form in forms.items()]
            lines.append((f"{len(group)}", group["backbone"].iloc[0], *cells, ", ".join(group["name"])))
    return aligned(lines) + "\n" if len(lines) > 1 else ""


def _experiment(state: dict[str, Any]) -> dict[str, Any] | None:
    """Names, scores, seconds and settings; None where it failed, is still running, or was made before these were written."""
    data = state.get("data") or {}
    metrics = {file: content.get("data") or {} for file, content in (data.get("metrics") or {}).items()}
    params = (data.get("params") or {}).get("params.yaml", {}).get("data") or {}
    sections = {name: section for name, section in params.items() if name != "runtime"}
    settings = {name: {key: value for key, value in section.items() if key != "seed"} for name, section in sections.items()}
    try:
        scores, names = metrics[METRICS], params["backbone"]["name"]
        return {
            "name": state.get("name") or (state["rev"] if state["rev"] == "workspace" else state["rev"][:7]),
            "backbone": names if isinstance(names, str) else SEVERAL.join(names),
            "frozen_accuracy": scores["frozen"]["accuracy"],
            **{name: scores["finetuned"][name] for name in FINETUNED},
            **{name: scores[name] for name in ("num_test", "num_parameters", "test_fingerprint")},
            "frozen_seconds": metrics[SECONDS[0]]["seconds"],
            "finetune_seconds": metrics[SECONDS[1]]["seconds"],
            "settings": json.dumps(settings, sort_keys=True),  # all that decide the result but seeds
            "identity": json.dumps([sections, scores], sort_keys=True),  # equal where DVC shows one several times
        }
    except KeyError:
        return None
