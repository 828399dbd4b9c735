"""outputs/reported.csv: every published result, a row each, with all that is needed to get it again.

rows = read_rows(Path("outputs/reported.csv"))
print(results_table(rows))                     # the README's table

A row without accuracy is announced and not yet measured. Weights and archives are known by their sha256, never by
where they lie.
"""

import csv
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from pipeline.errors import PipelineError

FILE = Path("outputs/reported.csv")
BEGIN, END = "<!-- reported results: begin -->", "<!-- reported results: end -->"
SEEDS = ("download.seed", "preprocess.seed", "unfreeze_finetune.seed")


class Row(BaseModel):
    """One reported result; texts are empty and numbers None where a result is not yet measured.

    Attributes:
        name: by which `reproduce` calls it.
        dataset: "drawn", "microsoft", or the archive's file name or address.
        dataset_sha256: of the archive; empty for drawn photos, which come from no archive.
        photos: how many were kept.
        backbone: timm's name.
        weights: "none", "pretrained", a path inside the project, or a file name.
        weights_sha256: of the weights file.
        params: settings that differ from the default, "section.key=value; ...", values in JSON.
        seed: what the draws start from; several, joined by "/", where they differ.
        n_test: number of test photos.
        test_fingerprint: sha256 over the test photos' ids, pixels and classes.
        accuracy, accuracy_low, accuracy_high, log_loss: of the fine-tuned checkpoint.
        frozen_accuracy, frozen_accuracy_low, frozen_accuracy_high, frozen_log_loss: of the frozen one.
        note: what fine-tuning said of itself.
        predictions_sha256: of predictions.csv.
        seconds: stage -> how long it took, as JSON.
        machine: processor and threads.
        versions: library -> version, as JSON.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    dataset: str
    dataset_sha256: str
    photos: int | None
    backbone: str
    weights: str
    weights_sha256: str
    params: str
    seed: str
    n_test: int | None
    test_fingerprint: str
    accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None
    log_loss: float | None
    frozen_accuracy: float | None
    frozen_accuracy_low: float | None
    frozen_accuracy_high: float | None
    frozen_log_loss: float | None
    note: str
    predictions_sha256: str
    seconds: str
    machine: str
    versions: str

    @field_validator("*", mode="before")
    @classmethod
    def _empty_is_none(cls, value: str, info: object) -> str | None:
        field = cls.model_fields[getattr(info, "field_name", "")]
        return None if value == "" and field.annotation is not str else value

    @property
    def measured(self) -> bool:
        """Whether there is a result yet."""
        return self.accuracy is not None

    @property
    def settings(self) -> dict[str, object]:
        """Settings, section.key -> value, those that differ from the default."""
        pairs = (part.split("=", 1) for part in self.params.split("; ") if part)
        return {key: json.loads(value) for key, value in pairs}

    @property
    def family(self) -> tuple[str, ...]:
        """What results have in common that differ by seed alone."""
        settings = (f"{key}={value}" for key, value in self.settings.items() if key not in SEEDS)
        return self.dataset_sha256 or self.dataset, self.backbone, self.weights_sha256 or self.weights, *settings


def read_rows(file: Path) -> list[Row]:
    """All rows, in the order of the file; none where there is no file.

    Raises:
        PipelineError: a row is broken, or two have one name.
    """
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as lines:
        try:
            rows = [Row.model_validate(line) for line in csv.DictReader(lines)]
        except (ValidationError, TypeError) as error:
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
            raise PipelineError(f"{file} cannot be read: {reason}. Restore it with: git checkout {file}") from None
    names = [row.name for row in rows]
    for name in names:
        if names.count(name) > 1:
            raise PipelineError(f"{file} has {names.count(name)} rows named {name}; a name stands for one result.")
    return rows


def write_rows(file: Path, rows: Sequence[Row]) -> None:
    """Replace the file atomically."""
    fresh = file.with_name(f".{file.name}.new")
    with fresh.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, list(Row.model_fields), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: "" if value is None else value for key, value in row.model_dump().items()} for row in rows)
    fresh.replace(file)


def results_table(rows: Sequence[Row]) -> str:
    """Markdown: a line for each family of results that differ by seed alone, in the order of the rows."""
    families: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        families.setdefault(row.family, []).append(row)
    lines = [
        "| photos | backbone and weights | settings | runs | frozen | fine-tuned | log-loss | test photos | time |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [_line(family) for family in families.values()]
    return "\n".join(lines)


def update_readme(readme: Path, rows: Sequence[Row]) -> bool:
    """Put the table between the markers; False where the page has none.

    Raises:
        PipelineError: there is no such page.
    """
    try:
        text = readme.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise PipelineError(f"There is no {readme} in {Path.cwd()}. Run this from the project's top folder.") from None
    if BEGIN not in text or END not in text:
        return False
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    readme.write_text(f"{before}{BEGIN}\n{results_table(rows)}\n{END}{after}", encoding="utf-8")
    return True


def _line(family: list[Row]) -> str:
    first, measured = family[0], [row for row in family if row.measured]
    settings = ", ".join(f"{key}={json.dumps(value)}" for key, value in first.settings.items() if key not in SEEDS)
    dataset = _hashed(f"{first.photos:,} of {first.dataset}" if first.photos else first.dataset, first.dataset_sha256)
    cells = [dataset, _hashed(f"{first.backbone}, {first.weights}", first.weights_sha256), settings or "default"]
    if not measured:
        return "| " + " | ".join([*cells, "", "not yet measured", "not yet measured", "", "", ""]) + " |"
    cells += [
        ", ".join(f"`{row.name}`" for row in measured),
        _accuracy(measured, "frozen_accuracy"),
        _accuracy(measured, "accuracy"),
        _mean([row.log_loss or 0.0 for row in measured], ".4f"),
        _span([row.n_test or 0 for row in measured]),
        f"{statistics.mean(sum(json.loads(row.seconds).values()) for row in measured):,.0f} s",
    ]
    return "| " + " | ".join(cells) + " |"


def _accuracy(rows: list[Row], name: str) -> str:
    """One run with its interval, several as mean and standard deviation."""
    values = [100 * getattr(row, name) for row in rows]
    if len(values) == 1:
        return f"{values[0]:.2f}% ({100 * getattr(rows[0], name + '_low'):.2f} to {100 * getattr(rows[0], name + '_high'):.2f})"
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}%"


def _mean(values: list[float], form: str) -> str:
    spread = f" ± {format(statistics.stdev(values), form)}" if len(values) > 1 else ""
    return f"{format(statistics.mean(values), form)}{spread}"


def _span(values: list[int]) -> str:
    return f"{min(values):,}" if min(values) == max(values) else f"{min(values):,} to {max(values):,}"


def _hashed(text: str, sha256: str) -> str:
    return f"{text} (`{sha256[:8]}…`)" if sha256 else text
