"""The experiments of `dvc exp` side by side: what each is worth, what it cost, and how much of it is the luck of a seed.

entries = entries_of(shown)          # what `dvc exp show --json` printed
print(leaderboard(entries))
print(spread_table(spreads_of(entries)))
picture(entries, Path("outputs/leaderboard.svg"))
"""

import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.reproduction.record import dvc
from pipeline.reproduction.table import aligned

SCORES = "outputs/evaluation/metrics.json"
OF_EVALUATION = "outputs/metrics/evaluate.json"
TRAINING = ("outputs/metrics/train-frozen-backbone.json", "outputs/metrics/unfreeze-finetune.json")
INKS = {"frozen": "#2f77a3", "finetuned": "#cf5a22"}


@dataclass(frozen=True)
class Entry:
    """One experiment: accuracies in [0, 1], log-loss in nats, times in seconds."""

    name: str
    backbone: str
    num_parameters: int
    frozen_accuracy: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    log_loss: float
    num_test: int
    probe_seconds: float
    finetune_seconds: float
    settings: str  # all that decide the result but seeds, as JSON

    @property
    def seconds(self) -> float:
        """Of both training stages."""
        return self.probe_seconds + self.finetune_seconds


@dataclass(frozen=True)
class Spread:
    """Experiments that differ in a seed alone: of each figure the mean and the standard deviation (of n - 1)."""

    names: tuple[str, ...]
    backbone: str
    frozen_accuracy: tuple[float, float]
    accuracy: tuple[float, float]
    log_loss: tuple[float, float]


def shown_experiments(project: Path) -> list[dict[str, Any]]:
    """What DVC knows of all experiments of all branches and commits.

    Raises:
        PipelineError: DVC cannot tell.
    """
    done = dvc(project, "exp", "show", "--all-commits", "--json")
    if done.returncode:
        raise PipelineError(f"dvc exp show failed: {done.stderr.strip()}")
    return json.loads(done.stdout)


def entries_of(shown: Sequence[dict[str, Any]]) -> list[Entry]:
    """The experiments that were evaluated, the most accurate first; of equals the one with the lower log-loss.

    A result that stands several times, in the workspace and in the commit that it was made in, say, is listed once.
    """
    found: dict[tuple[Any, ...], Entry] = {}
    for state in _states(shown):
        entry = _entry(state)
        if entry is not None:
            found.setdefault(tuple(value for key, value in vars(entry).items() if key != "name"), entry)
    return sorted(found.values(), key=lambda entry: (-entry.accuracy, entry.log_loss))


def leaderboard(entries: Sequence[Entry]) -> str:
    """The table."""
    rows = [
        ("", "experiment", "backbone", "parameters", "frozen", "fine-tuned", "log-loss", "test photos", "probe", "fine-tuning")
    ]
    rows += [
        (
            f"{place}",
            entry.name,
            entry.backbone,
            f"{entry.num_parameters / 1e6:,.2f} M",
            f"{entry.frozen_accuracy:.2%}",
            f"{entry.accuracy:.2%} ({entry.accuracy_low:.2%} to {entry.accuracy_high:.2%})",
            f"{entry.log_loss:.4f}",
            f"{entry.num_test:,}",
            f"{entry.probe_seconds:,.0f} s",
            f"{entry.finetune_seconds:,.0f} s",
        )
        for place, entry in enumerate(entries, 1)
    ]
    return aligned(rows)


def spreads_of(entries: Sequence[Entry]) -> list[Spread]:
    """Groups of at least two experiments with equal settings but for seeds, the most accurate on average first."""
    spreads = [_spread(group) for group in _but_for_seeds(entries) if len(group) > 1]
    return sorted(spreads, key=lambda spread: (-spread.accuracy[0], spread.log_loss[0]))


def spread_table(spreads: Sequence[Spread]) -> str:
    """The table of what seeds do."""
    rows = [("over seeds", "backbone", "frozen", "fine-tuned", "log-loss", "experiments")]
    rows += [
        (
            f"{len(spread.names)}",
            spread.backbone,
            "{:.2%} ± {:.2%}".format(*spread.frozen_accuracy),
            "{:.2%} ± {:.2%}".format(*spread.accuracy),
            "{:.4f} ± {:.4f}".format(*spread.log_loss),
            ", ".join(spread.names),
        )
        for spread in spreads
    ]
    return aligned(rows)


def picture(entries: Sequence[Entry], file: Path) -> None:
    """Accuracy against the seconds that training took, both stages of each experiment, as SVG or PNG by the file's name."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter, StrMethodFormatter

    figure, axes = pyplot.subplots(figsize=(9, 5), layout="constrained")
    for entry in entries:
        path = [(entry.probe_seconds, entry.frozen_accuracy), (entry.seconds, entry.accuracy)]
        axes.plot(*zip(*path, strict=True), color="#a9a59b", linewidth=1, zorder=1)
        axes.scatter(*path[0], color=INKS["frozen"], zorder=3)
        bounds = [[entry.accuracy - entry.accuracy_low], [entry.accuracy_high - entry.accuracy]]
        axes.errorbar(*path[1], yerr=bounds, color=INKS["finetuned"], marker="o", capsize=3, linestyle="", zorder=2)
    axes.scatter([], [], color=INKS["frozen"], label="frozen: a solved head")
    axes.scatter([], [], color=INKS["finetuned"], label="fine-tuned, with its interval")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.1)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set(xlabel="seconds of training", ylabel="accuracy on the test photos")
    axes.grid(color="#e2ddd2")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=2, frameon=False)
    _name(entries, figure, axes)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)
    pyplot.close(figure)


def _name(entries: Sequence[Entry], figure: Any, axes: Any) -> None:
    """Number the experiments as the table does, and name them beside the picture: names within it would overlap."""
    names: list[str] = []
    for group in _but_for_seeds(entries):
        best, place = group[0], entries.index(group[0]) + 1
        names.append(f"{place}  {best.backbone} ({best.name if len(group) == 1 else f'{len(group)} seeds'})")
        point = (best.seconds, best.accuracy)
        axes.annotate(f"{place}", point, xytext=(6, 5), textcoords="offset points", fontsize=9, weight="bold")
    no_marks = [axes.plot([], [], linestyle="")[0] for _ in names]
    figure.legend(no_marks, names, loc="outside right upper", handlelength=0, frameon=False, fontsize=9)


def _but_for_seeds(entries: Sequence[Entry]) -> list[list[Entry]]:
    """The experiments in groups of equal settings but for seeds, in the order that they have."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.settings, []).append(entry)
    return list(groups.values())


def _spread(group: Sequence[Entry]) -> Spread:
    def of(figure: str) -> tuple[float, float]:
        values = [getattr(entry, figure) for entry in group]
        return statistics.mean(values), statistics.stdev(values)

    return Spread(
        names=tuple(entry.name for entry in group),
        backbone=group[0].backbone,
        frozen_accuracy=of("frozen_accuracy"),
        accuracy=of("accuracy"),
        log_loss=of("log_loss"),
    )


def _settings(params: dict[str, Any]) -> str:
    """All settings that decide a result, but the seeds."""
    sections = {name: section for name, section in params.items() if name != "runtime"}
    kept = {name: {key: value for key, value in section.items() if key != "seed"} for name, section in sections.items()}
    return json.dumps(kept, sort_keys=True)


def _states(shown: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Experiments first, because they have names, then commits, then the workspace."""
    experiments = [state for base in shown for group in base.get("experiments") or [] for state in group["revs"]]
    yield from experiments
    yield from reversed(shown)


def _entry(state: dict[str, Any]) -> Entry | None:
    """None where an experiment failed, is still running, or was made before all these numbers were written."""
    data = state.get("data") or {}
    metrics = {file: content.get("data") or {} for file, content in (data.get("metrics") or {}).items()}
    params = (data.get("params") or {}).get("params.yaml", {}).get("data") or {}
    try:
        scores = metrics[SCORES]
        probe, finetune = (metrics[file]["seconds"] for file in TRAINING)
        tuned = scores["finetuned"]
        return Entry(
            name=state.get("name") or (state["rev"] if state["rev"] == "workspace" else state["rev"][:7]),
            backbone=params["backbone"]["name"],
            num_parameters=metrics[OF_EVALUATION]["num_parameters"],
            frozen_accuracy=scores["frozen"]["accuracy"],
            accuracy=tuned["accuracy"],
            accuracy_low=tuned["accuracy_low"],
            accuracy_high=tuned["accuracy_high"],
            log_loss=tuned["log_loss"],
            num_test=scores["num_test"],
            probe_seconds=probe,
            finetune_seconds=finetune,
            settings=_settings(params),
        )
    except KeyError:
        return None
