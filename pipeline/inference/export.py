"""Hand a trained network over: one folder with the network in every form that people use, each form checked on photos.

    python -m pipeline export
    python -m pipeline export --checkpoint outputs/frozen --output outputs/export-frozen --quantised
    python -m pipeline export --push hf-hub:OWNER/NAME

A form is read again from its files and its logits are compared with the checkpoint's on validation photos. The folder is put in
place only if all agree. `export.json` says what was compared, and holds the sha256 of every other file.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from safetensors import SafetensorError

from pipeline.checkpoint import MODEL_FILE, CheckpointInfo, read_info, read_model_state, refuse_other_data
from pipeline.cores import worker_count
from pipeline.data.dataset import Photos, data_fingerprints
from pipeline.data.manifest import classes_of, read_manifest
from pipeline.data.transforms import evaluation_transform
from pipeline.errors import PipelineError
from pipeline.files import check_room, fsync, megabytes, recover_folder, replace_folder, sha256_of
from pipeline.inference.card import Card, licence_of, measured_on_test, write_card
from pipeline.inference.forms import FORMS, ONNX_QUANTISED, Form, Sample, Trained, Unsupported, first_line
from pipeline.inference.push import push, refuse_unpushable
from pipeline.inference.quantised import Cost, measure, write_quantised
from pipeline.models.backbone import rebuild
from pipeline.models.head import class_probabilities
from pipeline.progress import say

DESCRIPTION, CLASSES = "export.json", "classes.json"
SAMPLE = 64  # photos that the forms are compared on
FORMAT_COPIES = 6  # room to ask for, in sizes of the checkpoint's weights


@dataclass(frozen=True)
class Checked:
    """A form that agreed: `deviation` of its logits relative to the largest one, and how many photos it decides otherwise."""

    form: str
    files: tuple[str, ...]
    deviation: float
    tolerance: float
    decided_otherwise: int


def export(
    checkpoint: Path,
    output: Path,
    *,
    processed: Path,
    evaluation: Path,
    quantised: bool = False,
    push_to: str | None = None,
) -> None:
    """Write the folder, compare every form, and say how far each lies from the checkpoint.

    Args:
        checkpoint: what a training stage wrote.
        output: an earlier export there is replaced.
        processed: the photos, stored and split; those of validation are compared on.
        evaluation: where `evaluate` wrote what the checkpoint is worth.
        quantised: whether to add the ONNX form in 8 bits, and to measure it.
        push_to: "hf-hub:OWNER/NAME", to upload the folder too.

    Raises:
        PipelineError: there is no checkpoint or no photos, a form deviates, or the folder cannot be written or uploaded.
    """
    info = read_info(checkpoint)
    if push_to:
        refuse_unpushable(push_to)
    _refuse_foreign(output)
    manifest = read_manifest(processed)
    classes = classes_of(manifest)
    refuse_other_data(info, checkpoint, classes, data_fingerprints(manifest))
    validation = Photos.of_split(manifest, processed, "val", classes)
    model = rebuild(info, read_model_state(checkpoint)).eval().requires_grad_(False)
    trained, sample = Trained(info, model, licence_of(info.backbone)), _sample(validation, info)
    with _written_whole(output, room=FORMAT_COPIES * (checkpoint / MODEL_FILE).stat().st_size) as folder:
        checked, left_out = _write_forms(trained, folder, sample)
        costs = _quantise(folder, validation, info, left_out) if quantised else ()
        (folder / CLASSES).write_text(json.dumps(info.classes) + "\n", encoding="utf-8")
        card = Card(info, trained.licence, len(sample.photos), checked, left_out, costs, measured_on_test(info, evaluation))
        write_card(card, manifest, folder)
        _describe(folder, info, checked, len(sample.photos))
    _tell(checked, left_out, costs, len(sample.photos))
    say(f"every form agrees with {checkpoint}; they lie in {output}")
    if push_to:
        push(output, push_to)


def _sample(validation: Photos, info: CheckpointInfo) -> Sample:
    """Photos from all over the split, so of all classes."""
    if not len(validation):
        raise PipelineError("There are no validation photos to compare on. Store the photos anew with: dvc repro preprocess")
    transform, photos = evaluation_transform(info.preprocessing), []
    for path in validation.paths[:: -(-len(validation) // SAMPLE)]:
        with Image.open(path) as image:
            photos.append(image.convert("RGB"))
    return Sample(tuple(photos), torch.stack([transform(photo) for photo in photos]))


def _write_forms(trained: Trained, folder: Path, sample: Sample) -> tuple[list[Checked], dict[str, str]]:
    """The forms that were written and agree, and why others were not written."""
    with torch.inference_mode():
        expected = trained.model(sample.inputs)
    checked, left_out = [], {}
    for form in FORMS:
        say(f"writing and reading again: {form.name}")
        try:
            form.write(trained, folder)
            logits = _read_again(form, folder, sample)
        except Unsupported as reason:
            left_out[form.name] = str(reason)
            for name in form.files:
                (folder / name).unlink(missing_ok=True)
            continue
        checked.append(_compared(form, logits, expected))
    return checked, left_out


def _read_again(form: Form, folder: Path, sample: Sample) -> torch.Tensor:
    try:
        return form.logits(folder, sample)
    except Exception as error:  # runtimes raise many kinds for an operator or a layer that they do not know
        raise Unsupported(f"what was written cannot be run again: {first_line(error)}") from None


def _compared(form: Form, logits: torch.Tensor, expected: torch.Tensor) -> Checked:
    scale = expected.abs().max().clamp(min=1e-6)
    deviation = ((logits - expected).abs().max() / scale).item()
    if not deviation <= form.tolerance:
        raise PipelineError(
            f"The form {form.name!r} ({', '.join(form.files)}) says something else than the checkpoint: on {len(expected)} "
            f"validation photos its logits differ by up to {deviation:.2g} of the largest (allowed: {form.tolerance:.2g}). "
            "Nothing was exported. Another version of torch, onnx or onnxruntime may write it rightly; please report it."
        )
    otherwise = class_probabilities(logits).argmax(1) != class_probabilities(expected).argmax(1)
    return Checked(form.name, form.files, deviation, form.tolerance, int(otherwise.sum()))


def _quantise(folder: Path, validation: Photos, info: CheckpointInfo, left_out: dict[str, str]) -> tuple[Cost, ...]:
    if "ONNX" in left_out:
        left_out["ONNX in 8 bits"] = "there is no ONNX form to quantise"
        return ()
    try:
        write_quantised(folder)
        return measure(folder, validation, info.preprocessing, workers=worker_count("auto"))
    except Unsupported as reason:
        left_out["ONNX in 8 bits"] = str(reason)
        (folder / ONNX_QUANTISED).unlink(missing_ok=True)
        return ()


def _describe(folder: Path, info: CheckpointInfo, checked: list[Checked], photos: int) -> None:
    files = {path.name: sha256_of(path) for path in sorted(folder.iterdir())}
    content = {"checkpoint": info.model_dump(mode="json"), "compared_on": photos, "forms": [asdict(one) for one in checked]}
    (folder / DESCRIPTION).write_text(json.dumps(content | {"files": files}, indent=2) + "\n", encoding="utf-8")


def _refuse_foreign(output: Path) -> None:
    """Never replace a folder that holds something else than an export."""
    recover_folder(output)
    if output.exists() and not (output / DESCRIPTION).is_file() and not (output.is_dir() and not any(output.iterdir())):
        raise PipelineError(f"{output} is there already and is no earlier export. Name another folder with --output.")


@contextmanager
def _written_whole(output: Path, *, room: int) -> Iterator[Path]:
    """A fresh folder that takes the place of `output` if all goes well, and leaves nothing behind if not."""
    fresh = output.with_name(f".{output.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        check_room(fresh, room, "export the network")
        yield fresh
        for path in (*fresh.iterdir(), fresh):
            fsync(path)
        replace_folder(fresh, output)
    except SafetensorError as error:  # what its writer, which is no Python, makes of an OSError
        raise PipelineError(f"{output} cannot be written: {error}. Free some room on its disk.") from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _tell(checked: list[Checked], left_out: dict[str, str], costs: tuple[Cost, ...], photos: int) -> None:
    table = Table("form", "files", "largest deviation", "allowed", "decided otherwise")
    for one in checked:
        otherwise = f"{one.decided_otherwise} of {photos}"
        table.add_row(one.form, ", ".join(one.files), f"{one.deviation:.1e}", f"{one.tolerance:.0e}", otherwise)
    console = Console(width=None if Console().is_terminal else 110)
    console.print(table)
    say(f"Deviations are of logits on {photos} validation photos, relative to the largest logit.")
    for name, reason in left_out.items():
        say(f"left out: {name}: {reason}")
    if costs:
        table = Table("file", "accuracy", "log-loss", "photos/s", "size")
        for cost in costs:
            speed, size = f"{cost.photos_per_second:,.0f}", megabytes(cost.size)
            table.add_row(cost.file, f"{cost.accuracy:.2%}", f"{cost.log_loss:.4f}", speed, size)
        console.print(table)
        ratio = costs[1].photos_per_second / costs[0].photos_per_second
        say(f"On all validation photos. In 8 bits the network runs {ratio:.2f} times as fast on this processor.")
