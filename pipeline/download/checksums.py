"""The SHA-256 of each archive that was downloaded, recorded on first use and checked ever after.

The record is a text file in the format of `sha256sum`, a line an address. It is no stage's output, because DVC removes those
before it runs a stage again, and it is meant to be committed: a clone then checks against what the first download brought.
"""

from pathlib import Path

from pipeline.errors import PipelineError


def recorded_sha256(record: Path, address: str) -> str | None:
    """What was recorded of an address, or None where nothing was.

    Raises:
        PipelineError: the record is damaged.
    """
    return _read(record).get(address)


def record_sha256(record: Path, address: str, sha256: str) -> None:
    """Record an address's SHA-256, in the place of an earlier one."""
    entries = _read(record)
    if entries.get(address) == sha256:
        return
    lines = [f"{value}  {key}\n" for key, value in sorted((entries | {address: sha256}).items())]
    unfinished = record.with_name(f"{record.name}.part")
    unfinished.write_text("".join(lines), encoding="utf-8")
    unfinished.replace(record)


def _read(record: Path) -> dict[str, str]:
    if not record.exists():
        return {}
    entries = {}
    for line in filter(None, record.read_text(encoding="utf-8").splitlines()):
        sha256, _, address = line.partition("  ")
        if len(sha256) != 64 or not address:
            raise PipelineError(f"{record} has a line that is no SHA-256 and an address: {line!r}. Remove the line.")
        entries[address] = sha256
    return entries
