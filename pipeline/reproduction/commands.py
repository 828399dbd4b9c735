"""What the commands `reproduce`, `report-result` and `leaderboard` do in the present folder."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.progress import say
from pipeline.reproduction.leaderboard import entries_of, leaderboard, picture, shown_experiments, spread_table, spreads_of
from pipeline.reproduction.record import present_row, refuse_stale
from pipeline.reproduction.reported import BEGIN, END, FILE, Row, read_rows, results_table, update_readme, write_rows
from pipeline.reproduction.rerun import Outcome, exit_status, reproduce, told
from pipeline.reproduction.table import aligned

HERE, README = Path(), Path("README.md")


def report_result(name: str | None, *, replace: bool) -> None:
    """Add the present run to the reported results, and bring the README's table up to date.

    Raises:
        PipelineError: the outputs are stale, or there is a row of this name and it is measured.
    """
    rows = read_rows(FILE)
    if name is not None:
        present = {row.name: row for row in rows}
        if name in present and present[name].measured and not replace:
            raise PipelineError(f"{FILE} has a row named {name}. Choose another name, or replace it with --replace.")
        refuse_stale(HERE)
        row = present_row(HERE, name)
        rows = [row if old.name == name else old for old in rows] if name in present else [*rows, row]
        write_rows(FILE, rows)
        say(f"{name}: accuracy {row.accuracy:.2%} on {row.n_test:,} test photos, now in {FILE}")
    if not update_readme(README, rows):
        say(f"{README} has no place for the table; to make one, put in these lines:\n{BEGIN}\n{results_table(rows)}\n{END}")


def reproduce_reported(name: str | None, *, every: bool, archives: Sequence[Path], weights: Sequence[Path]) -> int:
    """Run one row, or all of them, again; returns the exit status.

    Raises:
        PipelineError: no row has this name, or neither a name nor all were asked for.
    """
    rows = read_rows(FILE)
    if every == (name is not None):
        raise PipelineError("Say which result to reproduce: a NAME, or --all; --list shows them.")
    chosen = rows if every else [row for row in rows if row.name == name]
    if not chosen:
        known = ", ".join(row.name for row in rows) or "none"
        raise PipelineError(f"{FILE} has no row named {name}. Known: {known}.")
    outcomes: list[Outcome] = []
    for row in chosen:
        outcomes.append(reproduce(row, HERE, archives=archives, weights=weights))
        say(told(outcomes[-1]))
    if len(outcomes) > 1:
        counts = {outcome.verdict: sum(other.verdict == outcome.verdict for other in outcomes) for outcome in outcomes}
        say(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    return exit_status(outcomes)


def list_reported() -> None:
    """Print every reported result in a line."""
    rows = read_rows(FILE)
    lines = [("name", "photos", "backbone", "seed", "fine-tuned", "test photos")]
    say(aligned(lines + [_listed(row) for row in rows]) if rows else f"{FILE} holds no results yet.")


def show_leaderboard(figure: Path) -> None:
    """Print the experiments, and draw what they are worth against what they cost."""
    entries = entries_of(shown_experiments(HERE))
    if not entries:
        raise PipelineError("There is no experiment with a result yet. Make one with: dvc exp run")
    say(leaderboard(entries))
    if spreads := spreads_of(entries):
        say(f"\n{spread_table(spreads)}\n")
    picture(entries, figure)
    say(f"accuracy against cost: {figure}")


def _listed(row: Row) -> tuple[str, ...]:
    accuracy = f"{row.accuracy:.2%}" if row.accuracy is not None else "not yet measured"
    return row.name, row.dataset, row.backbone, row.seed, accuracy, f"{row.n_test:,}" if row.n_test else ""
