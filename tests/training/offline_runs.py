"""Read back the offline runs of Weights & Biases: what `wandb sync` would send.

A .wandb file is LevelDB's log format (blocks of 32 KiB; records in parts, each with checksum, length and kind) of protocol
buffers, which wandb brings; its own reader is compiled into its sync command.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, FILE_HEADER, PART_HEADER = 32768, 7, 7


@dataclass
class Records:
    """What all runs of a folder logged, in the order of time."""

    ids: list[str] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[tuple[str, str], list[str]] = field(default_factory=dict)


def records(folder: Path) -> Records:
    found = Records()
    for file in sorted(folder.rglob("run-*.wandb"), key=lambda path: path.stat().st_mtime):
        for content in _logged(file.read_bytes()):
            record = Record.FromString(content)
            if record.HasField("run"):
                found.ids.append(record.run.run_id)
                found.config |= _values(record.run.config.update)
            found.config |= _values(record.config.update) if record.HasField("config") else {}
            found.history.extend([_values(record.history.item)] if record.HasField("history") else [])
            found.summary |= _values(record.summary.update) if record.HasField("summary") else {}
            artifact = record.artifact if record.HasField("artifact") else record.request.log_artifact.artifact
            if artifact.name:
                found.artifacts[artifact.type, artifact.name] = [entry.path for entry in artifact.manifest.contents]
    return found


def _values(items: Any) -> dict[str, Any]:
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


def _logged(content: bytes) -> list[bytes]:
    position, whole, part = FILE_HEADER, [], b""
    while position + PART_HEADER <= len(content):
        if BLOCK - position % BLOCK < PART_HEADER:
            position += BLOCK - position % BLOCK
            continue
        length, kind = int.from_bytes(content[position + 4 : position + 6], "little"), content[position + 6]
        part += content[position + PART_HEADER : position + PART_HEADER + length]
        position += PART_HEADER + length
        if kind in (1, 4):  # whole, or the last part
            whole.append(part)
            part = b""
    return whole
