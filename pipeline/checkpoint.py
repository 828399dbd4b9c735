"""What passes between stages: a folder that holds a model and everything needed to use it and to trust it.

    outputs/frozen/
      model.safetensors    parameters and buffers
      checkpoint.json      how to rebuild, feed and trust the model: a `CheckpointInfo`
      ood.safetensors      the out-of-distribution (OOD) detector

    info = read_info(Path("outputs/frozen"))
    model.load_state_dict(read_model_state(Path("outputs/frozen"), device="cuda"))

The folder is written whole to a temporary sibling, flushed to the disk, then renamed, so a reader sees the old one or the
new one and never half of one. Nothing is unpickled: weights are safetensors, and a general checkpoint (`save_general`: epoch,
models, optimizer, loss) holds tensors and primitives only. Every file's hash stands in checkpoint.json and is checked on load.
"""

import hashlib
import io
import platform
import shutil
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import load_file, save
from torch import Tensor

from pipeline.errors import PipelineError
from pipeline.files import recover_folder, replace_folder, sha256_of, write_atomically
from pipeline.params import PARAMS_FILE

MODEL_FILE = "model.safetensors"
INFO_FILE = "checkpoint.json"
OOD_FILE = "ood.safetensors"
SEVERAL = " + "
_AGAIN = "Make it again with: dvc repro"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BackboneInfo(_Record):
    """Which network: timm's name, the arguments that build it, and where its weights came from.

    Of several backbones together, the names are joined by `SEVERAL`, and `parts` says it of each.
    """

    name: str
    kwargs: dict[str, Any]
    weights: str
    weights_sha256: str | None  # of the weights file; None for random weights
    code_sha256: str | None = None  # of the module, or the package, that builds a network of one's own
    parts: tuple["BackboneInfo", ...] = ()


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
    """The classifier: its dotted path in the network, its outputs, how its weights were set, and any hidden layers."""

    path: str
    type: str = "linear"  # a key of pipeline.models.head.HEADS
    num_outputs: int
    initialisation: str
    hidden: tuple[int, ...] = ()  # widths; activation, norm and dropout are of these layers
    activation: str = "gelu"
    norm: Literal["none", "batch", "layer"] = "none"
    dropout: float = 0.0


class SolvedBlock(_Record):
    """Columns of the features whose logits were solved together, with an L2 strength, and how much they count in the sum.

    One block is all columns. Of several backbones it may be one of each: a log-linear blend.
    """

    width: int
    l2: float
    factor: float = 1.0


class DataFingerprints(_Record):
    """Hashes of the manifest's kept rows (id, pixels, class, split), whole and of the training and validation split."""

    manifest: str
    train: str
    val: str


class CheckpointInfo(_Record):
    """What checkpoint.json says; `files` maps each other file of the folder to its sha256."""

    format_version: Literal[3] = 3
    stage: str
    backbone: BackboneInfo
    head: HeadInfo
    classes: tuple[str, ...]
    solved: tuple[SolvedBlock, ...] = ()  # how a linear head was solved; none for another head
    preprocessing: Preprocessing
    data: DataFingerprints
    stored_size: int  # photos were stored with their shorter side at most this many pixels before they were transformed
    params: dict[str, Any]
    epoch: int
    metrics: dict[str, float]
    ood_blocks: int | None = None  # OOD is scored on activations below so many topmost blocks; None: on the classifier's input
    heads_tried: dict[str, float] = {}  # of several backbones: each alone and together -> out-of-fold log-loss
    note: str = ""
    versions: dict[str, str]
    files: dict[str, str] = {}


def library_versions() -> dict[str, str]:
    """The versions of what decides a result, from the packages' own records, without importing any."""
    libraries = ["torch", "torchvision", "timm", "albumentations", "opencv-python-headless", "openvino", "numpy"]
    versions = {"python": platform.python_version()}
    for library in [*libraries, "scipy", "scikit-learn", "pillow", "accelerate"]:
        versions[library] = "not installed"
        with suppress(PackageNotFoundError):
            versions[library] = version(library)
    return versions


def save_checkpoint(folder: Path, info: CheckpointInfo, model_state: Mapping[str, Tensor], ood: Mapping[str, Tensor]) -> None:
    """Write a checkpoint folder atomically: an OSError, of a full disk say, leaves the old one as it was.

    `info.files` is filled in here; `model_state`, of any device, is a state dict, and `ood` has the fields of an `OodDetector`.
    """
    temporary = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    # A fresh contiguous copy a tensor: safetensors refuses shared memory and cannot keep a memory format.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model_state.items()}
    contents = {MODEL_FILE: save(tensors), OOD_FILE: save(dict(ood))}
    files = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    contents[INFO_FILE] = info.model_copy(update={"files": files}).model_dump_json(indent=2).encode() + b"\n"
    try:
        for name, content in contents.items():
            write_atomically(temporary / name, content)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)  # on a full disk it would only take the room that is missing
        raise
    replace_folder(temporary, folder)


def save_general(file: Path, content: Mapping[str, Any]) -> None:
    """Write a general checkpoint, of one model or of several, to one file, atomically; its folder is made if need be.

    `content` holds tensors, numbers, strings, None, and dicts, lists and tuples of them, such as state dicts.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp(), "two.pt")
    >>> teacher, student = torch.nn.Linear(2, 2), torch.nn.Linear(2, 1)
    >>> save_general(file, {"epoch": 1, "teacher": teacher.state_dict(), "student": student.state_dict()})
    >>> student.load_state_dict(read_general(file)["student"])
    <All keys matched successfully>
    """
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    write_atomically(file, buffer.getbuffer())


def read_general(file: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Read what `save_general` wrote onto a device ("cpu", "cuda:1", "meta" ...), without unpickling code.

    A PipelineError tells that the file is missing or broken, or holds more than tensors and primitives.
    """
    try:
        return torch.load(file, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise PipelineError(f"{file}: there is no such file.") from None
    except Exception:  # a torn or foreign file raises many kinds
        raise PipelineError(
            f"{file} is no general checkpoint: its writing was cut short, or it holds more than tensors and primitives."
        ) from None


def read_info(folder: Path) -> CheckpointInfo:
    """Read checkpoint.json; a PipelineError tells that it is missing, broken or of another version."""
    recover_folder(folder)
    try:
        return CheckpointInfo.model_validate_json((folder / INFO_FILE).read_bytes())
    except FileNotFoundError:
        elsewhere = "Run this from the project's top folder, or name the folder of a checkpoint."
        again = _AGAIN if PARAMS_FILE.exists() else elsewhere
        raise PipelineError(f"There is no checkpoint in {folder.absolute()}: {INFO_FILE} is missing. {again}") from None
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise PipelineError(f"{folder / INFO_FILE} is broken or of another version: {reason}. {_AGAIN}") from None


def read_model_state(folder: Path, device: str | torch.device = "cpu", info: CheckpointInfo | None = None) -> dict[str, Tensor]:
    """Read parameters and buffers onto a device ("cpu", "cuda:1", "meta" ...).

    `info` is what `read_info` gave before, where several files are read that must be of one save. A PipelineError tells that
    the file is missing, broken, or not the one that was saved.
    """
    return _read_tensors(folder, MODEL_FILE, device, info)


def read_ood(folder: Path, info: CheckpointInfo | None = None) -> dict[str, Tensor]:
    """Read the tensors of the OOD detector, checked likewise."""
    return _read_tensors(folder, OOD_FILE, "cpu", info)


def _read_tensors(folder: Path, name: str, device: str | torch.device, info: CheckpointInfo | None) -> dict[str, Tensor]:
    path, expected = folder / name, (info or read_info(folder)).files.get(name)
    if not path.is_file():
        raise PipelineError(f"{path} is missing. {_AGAIN}")
    if sha256_of(path) != expected:
        raise PipelineError(f"{path} is not what was saved: its sha256 differs from the one in {INFO_FILE}. {_AGAIN}")
    # The file is mapped, not read, until a tensor is touched; safetensors itself knows no meta device.
    return {name: tensor.to(device) for name, tensor in load_file(path).items()}


def refuse_other_data(info: CheckpointInfo, folder: Path, classes: tuple[str, ...], data: DataFingerprints) -> None:
    """Raise a PipelineError where a checkpoint was made for other classes, another order of them, or other photos."""
    if info.classes != classes:
        own, others = ", ".join(info.classes), ", ".join(classes)
        raise PipelineError(f"{folder} was trained for the classes {own} in this order, but the data has {others}. {_AGAIN}")
    if differing := [name for name, value in info.data if value != getattr(data, name)]:
        raise PipelineError(
            f"{folder} was trained on other photos or another split than data/processed holds now "
            f"(differing: {', '.join(differing)}). {_AGAIN}"
        )
