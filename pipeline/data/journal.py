"""The audit's journal: one JSON line for every finished file, so that a killed audit is not repeated from the start.

The first line holds the rules under which the rows were made. Rows made under other rules (another stored size, another
version of the decoder) are not taken over, nor is the row of a file that has changed or whose stored photo is missing.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType

import PIL

from pipeline.data.photo import Row, Task

NAME = "journal.jsonl"
RULES = 2  # raise it when decoding, hashing or storing changes
ROWS_AT_A_TIME = 1000


class Journal:
    """A context manager around `store`/journal.jsonl, where alone its rows lie.

    Attributes:
        places: each task's place among all, by its id.
        finished: the ids of the rows.
    """

    def __init__(self, store: Path, tasks: Sequence[Task], stored_size: int) -> None:
        """`tasks` are all files of this audit, `stored_size` is in pixels."""
        self._path = store / NAME
        self._header = {"rules": RULES, "pillow": PIL.__version__, "stored_size": stored_size}
        self._tasks = tasks
        self.places = {task.id: place for place, task in enumerate(tasks)}
        self.finished: set[str] = set()

    def __enter__(self) -> "Journal":
        """Rewrite the journal without what is of no use, such as a line that was cut off, and keep it open."""
        unfinished = self._path.with_name(f"{NAME}.part")
        self._file = unfinished.open("w", encoding="utf-8")
        self._file.write(json.dumps(self._header) + "\n")
        for entry in self._entries():
            if self._valid(entry):
                self.append([entry["row"]])
        os.replace(unfinished, self._path)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the file."""
        self._file.close()

    def append(self, rows: Iterable[Row]) -> None:
        """Record finished rows; they outlive this process once the call returns."""
        for row in rows:
            task = self._tasks[self.places[str(row["id"])]]
            self._file.write(json.dumps({"modified_ns": task.modified_ns, "row": row}) + "\n")
            self.finished.add(task.id)
        self._file.flush()

    def rows(self) -> Iterator[list[Row]]:
        """All that were recorded, some thousand at a time."""
        entries = self._entries()
        while part := [entry["row"] for entry in islice(entries, ROWS_AT_A_TIME)]:
            yield part

    def _entries(self) -> Iterator[dict]:
        if not self._path.exists():
            return
        with self._path.open(encoding="utf-8") as lines:
            if _parsed(next(lines, "")) == self._header:
                yield from map(_parsed, lines)

    def _valid(self, entry: dict) -> bool:
        row = entry.get("row", {})
        place = self.places.get(row.get("id", ""))
        if place is None or row["id"] in self.finished:
            return False
        task = self._tasks[place]
        if (row["path"], row["bytes"], entry["modified_ns"]) != (task.path, task.size, task.modified_ns):
            return False
        return row["status"] == "refused" or _size(task.stored) == row["stored_bytes"]


def _size(file: str | os.PathLike[str]) -> int | None:
    try:
        return os.stat(file).st_size
    except OSError:
        return None


def _parsed(line: str) -> dict:
    """One line; empty where the process was killed while writing it."""
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return {}
