"""What passes between stages: a folder that holds a model and everything needed to use it and to trust it.

    outputs/frozen/
      model.safetensors    parameters and buffers
      checkpoint.json      how to rebuild, feed and trust the model: a `CheckpointInfo`
      training_state.pt    the general checkpoint: epoch, model_state_dict, optimizer_state_dict, loss, random state

    info = read_info(Path("outputs/frozen"))
    model.load_state_dict(read_model_state(Path("outputs/frozen"), device="cuda"))

The folder is written whole to a temporary sibling, flushed to the disk, then renamed, so a reader sees the old one or the
new one and never half of one. Nothing is unpickled: weights are safetensors, and the training state holds tensors and
primitives only and is loaded with `weights_only=True`. Every file's hash stands in checkpoint.json and is checked on load.

In plain torch this is `torch.save(model.state_dict(), "model.pt")` and
`model.load_state_dict(torch.load("model.pt", weights_only=True, map_location=device))`. What it adds: no torn file after a
kill, no weights without the class names and the preprocessing that they were trained with, no silent use on other data.
"""

import pickle
import platform
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.errors import PipelineError
from pipeline.files import fsync, recover_folder, replace_folder, sha256_of

MODEL_FILE = "model.safetensors"
INFO_FILE = "checkpoint.json"
TRAINING_STATE_FILE = "training_state.pt"
FORMAT_VERSION = 1


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BackboneInfo(_Record):
    """Which network: timm's name, the arguments that build it, and where its weights came from."""

    name: str
    kwargs: dict[str, Any]
    weights: str
    weights_sha256: str | None  # of the weights file; None for random weights


class Preprocessing(_Record):
    """How a photo becomes the network's input, in timm's terms.

    `input_size` is (channels, height, width); mean and std are of channels in [0, 1]; `crop_pct` is the share of the
    resized photo that the centre crop keeps.
    """

    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float
    crop_mode: str


class HeadInfo(_Record):
    """The classifier: its dotted path in the network, its outputs, and how its weights were set."""

    path: str
    num_outputs: int
    initialisation: str


class DataFingerprints(_Record):
    """Hashes of the manifest's kept rows (id, pixels, class, split), whole and of the training and validation split."""

    manifest: str
    train: str
    val: str


class CheckpointInfo(_Record):
    """What checkpoint.json says; `files` maps each other file of the folder to its sha256."""

    format_version: int = FORMAT_VERSION
    stage: str
    backbone: BackboneInfo
    head: HeadInfo
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    data: DataFingerprints
    engine: str  # what was asked to run the network forward: auto, onnxruntime or torch
    params: dict[str, Any]
    epoch: int
    metrics: dict[str, float]
    note: str = ""
    versions: dict[str, str]
    files: dict[str, str] = {}


def library_versions() -> dict[str, str]:
    """The versions of what decides a result."""
    libraries = ("torch", "torchvision", "timm", "albumentations", "onnxruntime", "numpy", "pillow", "scikit-learn")
    return {"python": platform.python_version()} | {name: version(name) for name in libraries}


def save_checkpoint(
    folder: Path, info: CheckpointInfo, model_state: Mapping[str, Tensor], training_state: Mapping[str, Any]
) -> None:
    """Write a checkpoint folder atomically; a checkpoint that was there before is replaced only by a whole new one.

    Args:
        folder: where it shall stand.
        info: all but `files`, which is filled in here.
        model_state: `model.state_dict()`, on any device.
        training_state: the general checkpoint; tensors, numbers, strings, None, and dicts, lists and tuples of them.
    """
    recover_folder(folder)
    temporary = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    # A fresh contiguous copy a tensor: safetensors refuses shared memory and cannot keep a memory format.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model_state.items()}
    save_file(tensors, temporary / MODEL_FILE)
    torch.save(dict(training_state), temporary / TRAINING_STATE_FILE)
    files = {name: sha256_of(temporary / name) for name in (MODEL_FILE, TRAINING_STATE_FILE)}
    text = info.model_copy(update={"files": files}).model_dump_json(indent=2)
    (temporary / INFO_FILE).write_text(text + "\n", encoding="utf-8")
    for file in temporary.iterdir():
        fsync(file)
    fsync(temporary)
    replace_folder(temporary, folder)


def read_info(folder: Path) -> CheckpointInfo:
    """Read checkpoint.json.

    Raises:
        PipelineError: there is no checkpoint, or its description is broken or of another version of this format.
    """
    recover_folder(folder)
    try:
        info = CheckpointInfo.model_validate_json((folder / INFO_FILE).read_bytes())
    except FileNotFoundError:
        raise PipelineError(f"There is no checkpoint in {folder}: {INFO_FILE} is missing. {_AGAIN}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise PipelineError(f"{folder / INFO_FILE} is broken: {where}: {first['msg']}. {_AGAIN}") from None
    if info.format_version != FORMAT_VERSION:
        raise PipelineError(
            f"{folder} is a checkpoint of format {info.format_version}; this version reads {FORMAT_VERSION}. {_AGAIN}"
        )
    return info


def read_model_state(folder: Path, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """Read the parameters and buffers onto a device, checked against their hash."""
    path = _checked(folder, MODEL_FILE)
    try:
        return load_file(path, device=str(device))
    except SafetensorError as error:
        raise PipelineError(f"{path} cannot be read: {error}. {_AGAIN}") from None


def read_training_state(folder: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Read the general checkpoint onto a device, checked against its hash, without unpickling code."""
    path = _checked(folder, TRAINING_STATE_FILE)
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise PipelineError(f"{path} holds more than tensors and primitives, and is not loaded: {error}. {_AGAIN}") from None


def refuse_other_data(info: CheckpointInfo, folder: Path, classes: tuple[str, ...], data: DataFingerprints) -> None:
    """Stop where a checkpoint was made for other classes, another order of them, or other photos than those at hand."""
    if info.classes != classes:
        raise PipelineError(
            f"{folder} was trained for the classes {', '.join(info.classes)} in this order, but the data has "
            f"{', '.join(classes)}. {_AGAIN}"
        )
    if info.data != data:
        parts = [name for name in DataFingerprints.model_fields if getattr(info.data, name) != getattr(data, name)]
        raise PipelineError(
            f"{folder} was trained on other photos or another split than data/processed holds now "
            f"(differing: {', '.join(parts)}). {_AGAIN}"
        )


_AGAIN = "Make it again with: dvc repro"


def _checked(folder: Path, name: str) -> Path:
    path, expected = folder / name, read_info(folder).files.get(name)
    if not path.is_file():
        raise PipelineError(f"{path} is missing. {_AGAIN}")
    if sha256_of(path) != expected:
        raise PipelineError(f"{path} is not what was saved: its sha256 differs from the one in {INFO_FILE}. {_AGAIN}")
    return path
