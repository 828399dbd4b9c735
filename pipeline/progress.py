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
from datetime import timedelta

SECONDS_BETWEEN_LINES = 10.0


def say(text: str) -> None:
    """Print one line at once; stages tell what they found and did with it."""
    print(text, flush=True)


@contextmanager
def progress(description: str, total: int | None, unit: str = "photos", done: int = 0) -> Iterator[Callable[..., None]]:
    """Show how far a piece of work is; yields `advance(amount=1, note=None)`.

    `total` is None where it is not known, `done` is what an earlier run did, and a `unit` of "bytes" is shown in megabytes.
    """
    from rich.progress import BarColumn, Progress, TimeRemainingColumn

    on_terminal = sys.stdout.isatty()
    started = last_line = time.monotonic()
    now, latest_note = float(done), ""
    scale, unit, digits = (1e6, "MB", 1) if unit == "bytes" else (1, unit, 0)

    def text() -> str:
        of_total = f" of {total / scale:,.{digits}f}" if total else ""
        rate = (now - done) / max(time.monotonic() - started, 1e-9) / scale
        speed = f", {rate:,.{digits if rate >= 10 else 1}f} {unit}/s" if now > done or not done else ", all done before"
        return f"{now / scale:,.{digits}f}{of_total} {unit}{speed}"

    def say_line() -> None:
        elapsed, end = time.monotonic() - started, ""
        if total and done < now < total:
            end = f", {timedelta(seconds=round(elapsed / (now - done) * (total - now)))} left"
        elif elapsed >= 1:
            end = f", took {timedelta(seconds=round(elapsed))}"
        say(f"{description}: {text()}{end} {latest_note}".rstrip())

    with Progress(
        "{task.description}", BarColumn(), "{task.fields[text]}", TimeRemainingColumn(), disable=not on_terminal
    ) as bar:
        task = bar.add_task(description, total=total, completed=done, text="")

        def advance(amount: float = 1, note: str | None = None) -> None:
            nonlocal now, last_line, latest_note
            now += amount
            latest_note = latest_note if note is None else note
            if on_terminal:
                bar.update(task, completed=now, text=f"{text()} {latest_note}")
            elif time.monotonic() - last_line >= SECONDS_BETWEEN_LINES:
                last_line = time.monotonic()
                say_line()

        yield advance
    if not on_terminal:
        say_line()
