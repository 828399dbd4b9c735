"""Leaderboard of DVC experiments, ranked by validation log-loss, with the test scores shown and the looks at them counted."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.checkpoint import SEVERAL
from pipeline.errors import PipelineError
from pipeline.params import PARAMS_FILE, Params, settings_sha256
from pipeline.progress import say
from pipeline.reproduce import aligned, dvc, mean_and_deviation

METRICS = "outputs/evaluation/metrics.json"
SECONDS = ("outputs/seconds/train-frozen-backbone.json", "outputs/seconds/unfreeze-finetune.json")
FACTS = ("num_test", "num_parameters", "test_fingerprint", "val_fingerprint")
FINETUNED = ("val_log_loss", "accuracy", "accuracy_low", "accuracy_high", "log_loss")
HEAD = ("", "experiment", "backbone", "parameters", "val log-loss", "test log-loss", "test accuracy", "frozen", "seconds")
COMPARABLE = ["test_fingerprint", "val_fingerprint", "class_weight"]


def show() -> None:
    """Print the experiments, those that can be compared in one table.

    A PipelineError says that DVC fails, or no experiment has a result.
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

    A table for each set of test photos, of validation photos, and class weight, the largest first: nothing else can be ranked.
    Columns: see `_experiment`; `looks` counts the experiments on the same test photos, in whichever table.
    """
    named = [state for base in shown for group in base.get("experiments") or [] for state in group["revs"]]
    found = [one for state in [*named, *reversed(shown)] if (one := _experiment(state))]
    if not found:
        return []
    table = pd.DataFrame(found).drop_duplicates("identity").sort_values("val_log_loss", kind="stable")
    table["looks"] = table.groupby("test_fingerprint")["identity"].transform("count")
    return sorted((part for _, part in table.groupby(COMPARABLE, sort=False)), key=len, reverse=True)


def leaderboard(table: pd.DataFrame) -> str:
    """A table of experiments, by what they are ranked, and how many have looked at the test split."""
    lines = [HEAD]
    experiments: Any = table.itertuples()
    for place, one in enumerate(experiments, 1):
        accuracy = f"{one.accuracy:.2%} ({one.accuracy_low:.2%} to {one.accuracy_high:.2%})"
        sizes = f"{one.num_parameters / 1e6:,.2f} M", f"{one.val_log_loss:.4f}", f"{one.log_loss:.4f}"
        seconds = f"{one.frozen_seconds:,.0f} + {one.finetune_seconds:,.0f}"
        lines.append((f"{place}", one.name, one.backbone, *sizes, accuracy, f"{one.frozen_accuracy:.2%}", seconds))
    first = table.iloc[0]
    test, validation = first["test_fingerprint"][:12], first["val_fingerprint"][:12]
    ranked = f"Ranked on validation photos of fingerprint {validation}, head.class_weight {first['class_weight']}."
    looks = f"{first['looks']} different experiment{'s have' if first['looks'] > 1 else ' has'} looked at the test split"
    photos = f"{first['num_test']:,} photos, fingerprint {test}"
    return f"{aligned(lines)}\n{ranked}\n{looks} ({photos}): choose by validation, and report the test score of the first."


def over_seeds(table: pd.DataFrame) -> str:
    """The table of experiments that differ in seeds alone, mean ± standard deviation (of n - 1); empty where there are none.

    Runs of the same seeds, by other code or on another machine, count once: the first that DVC lists, not the best.
    """
    lines = [("over seeds", "backbone", "val log-loss", "test log-loss", "test accuracy", "frozen", "experiments")]
    forms = {"val_log_loss": ".4f", "log_loss": ".4f", "accuracy": ".2%", "frozen_accuracy": ".2%"}
    once = table.sort_index().drop_duplicates(["settings", "seeds"]).sort_values("val_log_loss", kind="stable")
    for _, group in once.groupby("settings", sort=False):
        if len(group) > 1:
            cells = [mean_and_deviation(group[name].tolist(), form) for name, form in forms.items()]
            lines.append((f"{len(group)}", group["backbone"].iloc[0], *cells, ", ".join(group["name"])))
    return aligned(lines) + "\n" if len(lines) > 1 else ""


def _experiment(state: dict[str, Any]) -> dict[str, Any] | None:
    """Names, scores, seconds and settings; None where it failed or still runs, or has scores of other settings or versions."""
    if state.get("error"):  # a failed one shows the scores that it started from
        return None
    data = state.get("data") or {}
    metrics = {file: content.get("data") or {} for file, content in (data.get("metrics") or {}).items()}
    try:
        scores = metrics[METRICS]
        params = Params.model_validate(data["params"][str(PARAMS_FILE)]["data"])
        if settings_sha256(params) != scores["settings_sha256"]:  # params.yaml was changed, and nothing was run since
            return None
        sections = params.model_dump(mode="json", exclude={"runtime"})
        seeds = {name: section.pop("seed") for name, section in sections.items() if "seed" in section}
        return {
            "name": state.get("name") or (state["rev"] if state["rev"] == "workspace" else state["rev"][:7]),
            "backbone": SEVERAL.join(part.name for part in params.backbone.parts),
            **{name: scores[name] for name in FACTS},
            "frozen_accuracy": scores["frozen"]["accuracy"],
            **{name: scores["finetuned"][name] for name in FINETUNED},
            "frozen_seconds": metrics[SECONDS[0]]["seconds"],
            "finetune_seconds": metrics[SECONDS[1]]["seconds"],
            "class_weight": params.head.class_weight,
            "settings": json.dumps(sections, sort_keys=True),  # all that decide the result but seeds
            "seeds": json.dumps(seeds, sort_keys=True),
            "identity": json.dumps(scores, sort_keys=True),  # equal where DVC shows one several times
        }
    except (KeyError, ValueError):  # of an earlier version
        return None
