"""What the comparison came to: a CSV with a row a run and stage, a table in Markdown, and a figure.

report(results, heading, Path("benchmarks/results"))     # results: side -> one result a repeat, in the same order
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot
from sides import OURS

from pipeline.evaluation.metrics import wilson
from pipeline.files import write_csv

STAGES = {"frozen": "frozen", "finetuned": "fine-tuned"}
CONFIDENCE = 0.95
Results = Mapping[str, Sequence[Mapping[str, Any]]]
# Read on white and on black alike.
TEXT, FIRST, SECOND = "#808890", "#3f8fd2", "#e08a2b"


@dataclass(frozen=True)
class Summary:
    """One side over its repeats; `ratio` is its seconds over ours, median of the repeats; accuracy is the repeats' mean."""

    seconds: dict[str, float]
    rate: dict[str, float]
    ratio: dict[str, float]
    total_ratio: float
    accuracy: dict[str, tuple[float, float, float]]  # with the Wilson interval at one repeat's number of test photos
    memory: float


def summarise(side: str, results: Results) -> Summary:
    """Medians of times, of ratios within a repeat, and mean accuracies."""
    own, ours = [run["stages"] for run in results[side]], [run["stages"] for run in results[OURS]]
    pairs = list(zip(own, ours, strict=True))
    return Summary(
        seconds={stage: statistics.median(run[stage]["seconds"] for run in own) for stage in STAGES},
        rate={stage: statistics.median(run[stage]["photos"] / run[stage]["seconds"] for run in own) for stage in STAGES},
        ratio={stage: statistics.median(a[stage]["seconds"] / b[stage]["seconds"] for a, b in pairs) for stage in STAGES},
        total_ratio=statistics.median(_total(a) / _total(b) for a, b in pairs),
        accuracy={stage: _accuracy([run[stage] for run in own]) for stage in STAGES},
        memory=statistics.median(run["peak_memory_mb"] for run in results[side]),
    )


def report(results: Results, heading: str, folder: Path) -> str:
    """Write peers.csv, peers.md and peers.svg into `folder`; returns the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    summaries = {side: summarise(side, results) for side in results}
    write_csv(folder / "peers.csv", _rows(results))
    text = f"{heading}\n\n{_table(summaries)}\n\n{_settings(results)}\n"
    (folder / "peers.md").write_text(text, encoding="utf-8")
    _figure(summaries, folder / "peers.svg")
    return text


def _total(stages: Mapping[str, Any]) -> float:
    return sum(stages[stage]["seconds"] for stage in STAGES)


def _accuracy(runs: Sequence[Mapping[str, Any]]) -> tuple[float, float, float]:
    correct, n = statistics.mean(run["correct"] for run in runs), runs[0]["n"]
    return correct / n, *wilson(round(correct), n, CONFIDENCE)


def _rows(results: Results) -> list[dict[str, Any]]:
    return [
        {"side": side, "repeat": repeat, "stage": stage, **run["stages"][stage], "peak_memory_mb": run["peak_memory_mb"]}
        for side, runs in results.items()
        for repeat, run in enumerate(runs)
        for stage in STAGES
    ]


def _table(summaries: Mapping[str, Summary]) -> str:
    head = ["", "frozen", "fine-tuning", "both, ratio to ours", "peak memory", "accuracy, frozen", "accuracy, fine-tuned"]
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for side, one in summaries.items():
        cells = [side]
        cells += [f"{one.seconds[s]:,.0f} s ({one.rate[s]:.0f} images/s; {one.ratio[s]:.2f})" for s in STAGES]
        cells += [f"{one.total_ratio:.2f}", f"{one.memory:,.0f} MB"]
        for stage in STAGES:
            value, low, high = one.accuracy[stage]
            cells.append(f"{value:.2%} ({low:.2%} to {high:.2%})")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _settings(results: Results) -> str:
    """How each side was set up, and the libraries of its environment."""
    names = list(results[OURS][0]["settings"])
    lines = [f"| | {' | '.join(names)} | versions |", "|" + " --- |" * (len(names) + 2)]
    for side, (first, *_) in results.items():
        versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
        lines.append(f"| {side} | {' | '.join(first['settings'][name] for name in names)} | {versions} |")
    return "\n".join(lines)


def _figure(summaries: Mapping[str, Summary], file: Path) -> None:
    """Bars of time and points of accuracy, a line a side, on no background."""
    coloured = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    style: Any = dict.fromkeys(coloured, TEXT) | {"svg.hashsalt": "peers", "svg.fonttype": "none", "font.family": "sans-serif"}
    with pyplot.rc_context(style):
        figure, (left, right) = pyplot.subplots(
            1, 2, figsize=(9, 0.6 * len(summaries) + 1.2), sharey=True, layout="constrained"
        )
        _draw_times(left, summaries)
        _draw_accuracies(right, summaries)
        left.set_yticks(range(len(summaries)), list(summaries))
        left.invert_yaxis()
        for axes in (left, right):
            axes.spines[["top", "right"]].set_visible(False)
        figure.legend(*right.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
        figure.savefig(file, transparent=True, metadata={"Date": None})
        pyplot.close(figure)


def _draw_times(axes: Any, summaries: Mapping[str, Summary]) -> None:
    frozen, finetuned = ([one.seconds[stage] for one in summaries.values()] for stage in STAGES)
    axes.barh(range(len(frozen)), frozen, height=0.6, color=FIRST)
    axes.barh(range(len(frozen)), finetuned, left=frozen, height=0.6, color=SECOND)
    axes.set_xlabel("seconds of training")


def _draw_accuracies(axes: Any, summaries: Mapping[str, Summary]) -> None:
    for (stage, name), colour, shift in zip(STAGES.items(), (FIRST, SECOND), (-0.13, 0.13), strict=True):
        for row, one in enumerate(summaries.values()):
            value, low, high = (100 * number for number in one.accuracy[stage])
            axes.plot([low, high], [row + shift] * 2, color=colour, linewidth=2)
            axes.plot(value, row + shift, "o", color=colour, label=name if row == 0 else None)
    axes.set_xlabel("test accuracy in %, with 95% intervals")
