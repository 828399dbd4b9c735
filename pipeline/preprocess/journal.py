"""The audit's journal: one JSON line for every finished file, so that a killed audit is not repeated from the start.

The first line holds the rules under which the rows were made. Rows made under other rules (another stored size, another
version of the decoder) are not taken over, nor is the row of a file that has changed or whose stored photo is missing.
"""

import json
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import PIL

from pipeline.preprocess.photo import Row, Task

NAME = "journal.jsonl"
RULES = 2  # raise it when decoding, hashing or storing changes
ROWS_AT_A_TIME = 500
ROW_BYTES = 1024  # about what a row takes
NOWHERE = -1


class Journal:
    """A context manager around `store`/journal.jsonl, where alone its rows lie; memory holds where each of them starts."""

    def __init__(self, store: Path, tasks: Sequence[Task], stored_size: int) -> None:
        """`tasks` are all files of this audit, `stored_size` is in pixels."""
        self._path = store / NAME
        self._header = {"rules": RULES, "pillow": PIL.__version__, "stored_size": stored_size}
        self._tasks = tasks
        self._places = {task.id: place for place, task in enumerate(tasks)}
        self._offsets = array("q", [NOWHERE]) * len(tasks)
        self._end = 0

    def __enter__(self) -> "Journal":
        """Rewrite the journal without what is of no use, such as a line that was cut off, and keep it open."""
        unfinished = self._path.with_name(f"{NAME}.part")
        self._file = unfinished.open("wb")
        self._write(self._header)
        for entry in self._entries():
            if self._valid(entry):
                self.append([entry["row"]])
        self._file.flush()
        os.replace(unfinished, self._path)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the file."""
        self._file.close()

    def append(self, rows: Iterable[Row]) -> None:
        """Record finished rows; they outlive this process once the call returns."""
        for row in rows:
            place = self._places[str(row["id"])]
            self._offsets[place] = self._end
            self._write({"modified_ns": self._tasks[place].modified_ns, "row": row})
        self._file.flush()

    def remaining(self) -> list[int]:
        """The places, among all tasks, of those whose rows are not there yet."""
        return [place for place, offset in enumerate(self._offsets) if offset == NOWHERE]

    def rows(self) -> Iterator[list[Row]]:
        """All rows in the order of the tasks, some hundred at a time."""
        with self._path.open("rb", buffering=ROW_BYTES) as file:
            for start in range(0, len(self._offsets), ROWS_AT_A_TIME):
                yield [_row_at(file, offset) for offset in self._offsets[start : start + ROWS_AT_A_TIME]]

    def _write(self, entry: dict) -> None:
        self._end += self._file.write(json.dumps(entry).encode() + b"\n")

    def _entries(self) -> Iterator[dict]:
        if not self._path.exists():
            return
        with self._path.open("rb") as lines:
            if _parsed(next(lines, b"")) == self._header:
                yield from map(_parsed, lines)

    def _valid(self, entry: dict) -> bool:
        row = entry.get("row", {})
        place = self._places.get(row.get("id", ""))
        if place is None or self._offsets[place] != NOWHERE:
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


def _row_at(file: BinaryIO, offset: int) -> Row:
    file.seek(offset)
    return json.loads(file.readline())["row"]


def _parsed(line: bytes) -> dict:
    """One line; empty where the process was killed while writing it."""
    try:
        return json.loads(line)
    except ValueError:  # no JSON, or no UTF-8
        return {}
