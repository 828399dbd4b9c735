"""The forms in which a trained network is handed over: each writes itself, and runs again from nothing but its files.

for form in FORMS:
    form.write(trained, folder)
    form.logits(folder, sample)        # (n, outputs), to be compared with those of `trained.model`
"""

import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from timm.models import save_for_hf
from torch import Tensor, nn

from pipeline.checkpoint import CheckpointInfo
from pipeline.inference.pixels import Unsupported, with_preprocessing
from pipeline.models.backends import export_onnx

ONNX, ONNX_PIXELS, ONNX_QUANTISED = "model.onnx", "model_with_preprocessing.onnx", "model_int8.onnx"
TIMM, TIMM_CONFIG, PROGRAM = "model.safetensors", "config.json", "model.pt2"
OUTPUT = "logits"
UNEVEN = 24  # photos a batch; the last one of a sample is smaller, which shows that n is open


@dataclass(frozen=True)
class Trained:
    """A network in eval mode, on the CPU, what its checkpoint says of it, and the licence of its weights ("" if unknown)."""

    info: CheckpointInfo
    model: nn.Module
    licence: str


@dataclass(frozen=True)
class Sample:
    """Photos to compare forms on: mode RGB of any size, and the same as the network's input (n, channels, height, width)."""

    photos: tuple[Image.Image, ...]
    inputs: Tensor


@dataclass(frozen=True)
class Form:
    """One form of a network.

    Attributes:
        name: for people.
        files: what it consists of.
        tolerance: how far its logits may lie from the original's, relative to the largest logit.
        write: puts the files into a folder; raises `Unsupported` where this network has no such form.
        logits: runs the files of a folder on a sample: (n, outputs).
    """

    name: str
    files: tuple[str, ...]
    tolerance: float
    write: Callable[[Trained, Path], None]
    logits: Callable[[Path, Sample], Tensor]


def open_session(file: Path) -> onnxruntime.InferenceSession:
    """An ONNX model ready to run on a processor."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def in_batches(run: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """Outputs of a network for many inputs (n, ...), a few at a time."""
    with torch.inference_mode():
        return torch.cat([run(batch) for batch in inputs.split(UNEVEN)])


def _write_onnx(trained: Trained, folder: Path) -> None:
    (folder / ONNX).write_bytes(_described(trained, _exported(trained), "float32, normalised").SerializeToString())


def _write_onnx_pixels(trained: Trained, folder: Path) -> None:
    whole = with_preprocessing(_exported(trained), trained.info.preprocessing)
    (folder / ONNX_PIXELS).write_bytes(_described(trained, whole, "uint8 RGB pixels of any size").SerializeToString())


def _exported(trained: Trained) -> onnx.ModelProto:
    example = torch.zeros(2, *trained.info.preprocessing.input_size)
    try:
        return onnx.load_from_string(export_onnx(trained.model, example, output=OUTPUT))
    except Exception as error:  # the exporter raises many kinds for what it does not know
        raise Unsupported(f"torch cannot write it as ONNX: {first_line(error)}") from None


def _described(trained: Trained, model: onnx.ModelProto, expects: str) -> onnx.ModelProto:
    """With what one needs to know to feed it and to read its answer, in the model's own metadata."""
    info = trained.info
    onnx.helper.set_model_props(
        model,
        {
            "classes": json.dumps(info.classes),
            "input": expects,
            "preprocessing": info.preprocessing.model_dump_json(),
            "temperature": str(info.metrics.get("temperature", 1.0)),
            "backbone": info.backbone.name,
        },
    )
    return model


def _run_onnx(folder: Path, sample: Sample) -> Tensor:
    session = open_session(folder / ONNX)
    return in_batches(lambda batch: torch.from_numpy(session.run([OUTPUT], {"images": batch.numpy()})[0]), sample.inputs)


def _run_onnx_pixels(folder: Path, sample: Sample) -> Tensor:
    session = open_session(folder / ONNX_PIXELS)
    rows = [session.run([OUTPUT], {"photos": np.asarray(photo)[None]})[0] for photo in sample.photos]
    return torch.from_numpy(np.concatenate(rows))


def _write_timm(trained: Trained, folder: Path) -> None:
    info = trained.info
    if info.head.hidden:
        raise Unsupported("timm builds linear heads only, and this one has hidden layers")
    save_for_hf(
        trained.model,
        str(folder),
        # What timm knows of its own weights of this architecture does not hold of these.
        model_config={"label_names": list(info.classes), "pretrained_cfg": {"tag": "", "license": trained.licence}},
        model_args=info.backbone.kwargs,
        safe_serialization=True,
        data_config=info.preprocessing.model_dump(),
    )


def _run_timm(folder: Path, sample: Sample) -> Tensor:
    # As a user would: the preprocessing too comes from config.json.
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = create_transform(**resolve_data_config({}, model=model), is_training=False)
    return in_batches(model, torch.stack([transform(photo) for photo in sample.photos]))


def _write_program(trained: Trained, folder: Path) -> None:
    example = torch.zeros(2, *trained.info.preprocessing.input_size)
    buffer = io.BytesIO()
    try:
        with _quiet():
            program = torch.export.export(trained.model, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
            torch.export.save(program, buffer)
    except Exception as error:  # as many kinds as networks have ways to depend on their input
        raise Unsupported(f"torch.export cannot trace it: {first_line(error)}") from None
    (folder / PROGRAM).write_bytes(buffer.getvalue())


def _run_program(folder: Path, sample: Sample) -> Tensor:
    with _quiet():
        module = torch.export.load(os.fspath(folder / PROGRAM)).module()
    return in_batches(module, sample.inputs)


@contextmanager
def _quiet() -> Iterator[None]:
    """torch's export warns of its own parts; whether the result is right is measured."""
    logging.getLogger("torch.export").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return [*str(error).strip().splitlines(), type(error).__name__][0]


FORMS = (
    Form("timm", (TIMM, TIMM_CONFIG), 1e-4, _write_timm, _run_timm),
    Form("ONNX", (ONNX,), 1e-3, _write_onnx, _run_onnx),
    # Pixels may be a level or two of 255 off, and so is what follows from them.
    Form("ONNX with preprocessing", (ONNX_PIXELS,), 5e-2, _write_onnx_pixels, _run_onnx_pixels),
    Form("torch.export", (PROGRAM,), 1e-3, _write_program, _run_program),
)
