"""Leaderboard of DVC experiments, ranked by validation log-loss, with the test scores shown and the looks at them counted.

show_leaderboard(Path("outputs/leaderboard.svg"))
"""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.progress import say
from pipeline.reproduce import aligned, dvc

METRICS = "outputs/evaluation/metrics.json"
SECONDS = ("outputs/seconds/train-frozen-backbone.json", "outputs/seconds/unfreeze-finetune.json")
FROZEN_COLOUR, FINETUNED_COLOUR = "#2f77a3", "#cf5a22"


@dataclass(frozen=True)
class Entry:
    """One experiment: accuracies in [0, 1], log-losses in nats, seconds of the two training stages."""

    name: str
    backbone: str
    num_parameters: int
    val_log_loss: float
    frozen_accuracy: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    log_loss: float
    num_test: int
    test_fingerprint: str
    frozen_seconds: float
    finetune_seconds: float
    settings: str  # all that decide the result but seeds, as JSON
    identity: str  # all settings that decide the result, and the scores: equal where DVC shows one experiment several times


def show_leaderboard(figure: Path) -> None:
    """Print the experiments, those on the same test photos in one table, and draw what those in the first are worth and cost.

    Raises:
        PipelineError: DVC fails, or no experiment has a result.
    """
    done = dvc(Path(), "exp", "show", "--all-commits", "--json")
    if done.returncode:
        raise PipelineError(f"dvc exp show failed: {done.stderr.strip()}")
    tables = on_same_photos(entries_of(json.loads(done.stdout)))
    if not tables:
        raise PipelineError("There is no experiment with a result yet. Make one with: dvc exp run")
    for entries in tables:
        say(f"{leaderboard(entries)}\n\n{over_seeds(entries)}")
    draw(tables[0], figure)
    say(f"test accuracy by seconds of training: {figure}")


def entries_of(shown: Sequence[dict[str, Any]]) -> list[Entry]:
    """Experiments with a result, each once, from what `dvc exp show --json` printed, the lowest validation log-loss first."""
    experiments = [state for base in shown for group in base.get("experiments") or [] for state in group["revs"]]
    found: dict[str, Entry] = {}
    for state in [*experiments, *reversed(shown)]:  # experiments first, because they have names
        if entry := _entry(state):
            found.setdefault(entry.identity, entry)
    return sorted(found.values(), key=lambda entry: entry.val_log_loss)


def on_same_photos(entries: Sequence[Entry]) -> list[list[Entry]]:
    """The experiments in groups of equal test photos, the largest group first: nothing else can be ranked."""
    return sorted(_groups(entries, "test_fingerprint"), key=len, reverse=True)


def leaderboard(entries: Sequence[Entry]) -> str:
    """The table of experiments on the same photos, and how many have looked at the test split."""
    head = ("", "experiment", "backbone", "parameters", "val log-loss", "test log-loss", "test accuracy", "frozen", "seconds")
    lines = [head]
    for place, one in enumerate(entries, 1):
        accuracy = f"{one.accuracy:.2%} ({one.accuracy_low:.2%} to {one.accuracy_high:.2%})"
        losses = f"{one.val_log_loss:.4f}", f"{one.log_loss:.4f}"
        seconds = f"{one.frozen_seconds:,.0f} + {one.finetune_seconds:,.0f}"
        parameters = f"{one.num_parameters / 1e6:,.2f} M"
        lines.append((f"{place}", one.name, one.backbone, parameters, *losses, accuracy, f"{one.frozen_accuracy:.2%}", seconds))
    looks = f"{len(entries)} different experiment{'s have' if len(entries) > 1 else ' has'} looked at the test split"
    photos = f"{entries[0].num_test:,} photos, fingerprint {entries[0].test_fingerprint[:12]}"
    return f"{aligned(lines)}\n{looks} ({photos}): choose by validation, and report the test score of the first."


def over_seeds(entries: Sequence[Entry]) -> str:
    """The table of experiments that differ in seeds alone, mean ± standard deviation (of n - 1); empty where there are none."""
    head = ("over seeds", "backbone", "val log-loss", "test log-loss", "test accuracy", "frozen", "experiments")
    lines: list[tuple[str, ...]] = [head]
    for group in _groups(entries, "settings"):
        if len(group) > 1:
            names, forms = ("val_log_loss", "log_loss", "accuracy", "frozen_accuracy"), (".4f", ".4f", ".2%", ".2%")
            columns = [[getattr(one, name) for one in group] for name in names]
            cells = [f"{statistics.mean(c):{f}} ± {statistics.stdev(c):{f}}" for c, f in zip(columns, forms, strict=True)]
            lines.append((str(len(group)), group[0].backbone, *cells, ", ".join(one.name for one in group)))
    return aligned(lines) + "\n" if len(lines) > 1 else ""


def draw(entries: Sequence[Entry], file: Path) -> None:
    """Test accuracy by seconds of training, frozen and fine-tuned, as SVG or PNG; numbers are places in the table."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot
    from matplotlib.ticker import PercentFormatter

    figure, axes = pyplot.subplots(figsize=(9, 5), layout="constrained")
    for place, one in enumerate(entries, 1):
        seconds = [one.frozen_seconds, one.frozen_seconds + one.finetune_seconds]
        accuracies = [one.frozen_accuracy, one.accuracy]
        axes.plot(seconds, accuracies, color="#a9a59b", linewidth=1)
        axes.plot(seconds[0], accuracies[0], "o", color=FROZEN_COLOUR, label="frozen" if place == 1 else None)
        interval = [[one.accuracy - one.accuracy_low], [one.accuracy_high - one.accuracy]]
        label = "fine-tuned, with its interval" if place == 1 else None
        axes.errorbar(seconds[1], accuracies[1], interval, fmt="o", color=FINETUNED_COLOUR, capsize=3, label=label)
        axes.annotate(f"{place}", (seconds[1], accuracies[1]), xytext=(6, 5), textcoords="offset points", weight="bold")
    axes.set(xscale="log", xlabel="seconds of training", ylabel="accuracy on the test photos")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(color="#e2ddd2")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=2, frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)
    pyplot.close(figure)


def _groups(entries: Sequence[Entry], name: str) -> list[list[Entry]]:
    """The experiments in groups of an equal attribute, in their order."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(getattr(entry, name), []).append(entry)
    return list(groups.values())


def _entry(state: dict[str, Any]) -> Entry | None:
    """None where an experiment failed, is still running, or was made before all these numbers were written."""
    data = state.get("data") or {}
    metrics = {file: content.get("data") or {} for file, content in (data.get("metrics") or {}).items()}
    params = (data.get("params") or {}).get("params.yaml", {}).get("data") or {}
    sections = {name: section for name, section in params.items() if name != "runtime"}
    settings = {name: {key: value for key, value in section.items() if key != "seed"} for name, section in sections.items()}
    try:
        frozen, finetuned = metrics[METRICS]["frozen"], metrics[METRICS]["finetuned"]
        return Entry(
            name=state.get("name") or (state["rev"] if state["rev"] == "workspace" else state["rev"][:7]),
            backbone=params["backbone"]["name"],
            frozen_accuracy=frozen["accuracy"],
            **{name: finetuned[name] for name in ("val_log_loss", "accuracy", "accuracy_low", "accuracy_high", "log_loss")},
            **{name: metrics[METRICS][name] for name in ("num_test", "num_parameters", "test_fingerprint")},
            frozen_seconds=metrics[SECONDS[0]]["seconds"],
            finetune_seconds=metrics[SECONDS[1]]["seconds"],
            settings=json.dumps(settings, sort_keys=True),
            identity=json.dumps([sections, metrics[METRICS]], sort_keys=True),
        )
    except KeyError:
        return None
