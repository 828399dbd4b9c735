"""Progress of long work: a bar with rate and remaining time on a terminal, a plain line now and then anywhere else.

with progress("decoding photos", total=len(paths)) as advance:
    for path in paths:
        decode(path)
        advance(1)
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[..., None]
SECONDS_BETWEEN_LINES = 10.0


def _seconds(seconds: float) -> str:
    """94 -> '1:34'."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def _amount(value: float, unit: str) -> str:
    return f"{value / 1e6:,.1f} MB" if unit == "bytes" else f"{value:,.0f} {unit}"


def _of(done: float, total: float | None, unit: str) -> str:
    """1,248 of 1,434 photos; 3.0 of 12.5 MB."""
    if not total:
        return _amount(done, unit)
    return f"{_amount(done, unit).rsplit(' ', len(unit.split()))[0]} of {_amount(total, unit)}"


def say(text: str) -> None:
    """Print one line at once; stages tell what they found and did with it."""
    print(text, flush=True)


@contextmanager
def progress(description: str, total: int | None, unit: str = "photos", done: int = 0) -> Iterator[Advance]:
    """Show how far a piece of work is; yields `advance(amount, note="")`.

    Args:
        description: what is being done, in the present participle.
        total: how many units there are, or None where that is not known.
        unit: what is counted; "bytes" is shown in megabytes.
        done: how many of them an earlier run did.
    """
    show = _bar if sys.stdout.isatty() else _lines
    with show(description, total, unit, done) as advance:
        yield advance


@contextmanager
def _bar(description: str, total: int | None, unit: str, done: int) -> Iterator[Advance]:
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{_amount(task.speed or 0, unit)}/s", style="cyan")

    class Done(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(_of(task.completed, task.total, unit))

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        Done(),
        Rate(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns) as bar:
        task = bar.add_task(description, total=total, completed=done, note="")

        def advance(amount: float = 1, note: str | None = None) -> None:
            bar.update(task, advance=amount)
            if note is not None:
                bar.update(task, note=note)

        yield advance


@contextmanager
def _lines(description: str, total: int | None, unit: str, done: int) -> Iterator[Advance]:
    started = last_line = time.monotonic()
    now: float = done
    latest_note = ""

    def line() -> None:
        elapsed, fresh = max(time.monotonic() - started, 1e-9), now - done
        text = f"{description}: {_of(now, total, unit)}, {_amount(fresh / elapsed, unit)}/s"
        if total and fresh and now < total:
            text += f", {_seconds(elapsed / fresh * (total - now))} left"
        elif elapsed >= 1:
            text += f", took {_seconds(elapsed)}"
        say(f"{text} {latest_note}".rstrip())

    def advance(amount: float = 1, note: str | None = None) -> None:
        nonlocal now, last_line, latest_note
        now += amount
        latest_note = latest_note if note is None else note
        if time.monotonic() - last_line >= SECONDS_BETWEEN_LINES:
            last_line = time.monotonic()
            line()

    yield advance
    line()
