"""Export a network: timm's Hugging Face layout, ONNX (also with preprocessing), OpenVINO, torch.export, ExecuTorch.

Each export format is loaded again from its files and its logits are compared with the checkpoint's on validation photos. The
folder is put in place only if all agree. `export.json` holds what was compared, each format's megabytes and milliseconds a
photo, and the sha256 of every other file.
"""

import io
import json
import logging
import math
import shutil
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import timm
import torch
from PIL import Image
from safetensors import SafetensorError
from timm.data import create_transform, resolve_data_config
from timm.models import save_for_hf
from torch import Tensor, nn

from pipeline.checkpoint import CheckpointInfo, Preprocessing, read_info, read_model_state, refuse_other_data
from pipeline.data.dataset import Photos, data_fingerprints
from pipeline.data.manifest import SUMMARY_FILE, classes_of, read_manifest
from pipeline.data.transforms import evaluation_transform
from pipeline.errors import PipelineError
from pipeline.files import megabytes, read_json, replace_folder, sha256_of
from pipeline.inference.hub import licence_of, metrics_of, published, push, refuse_unpushable, write_card
from pipeline.models.backbone import rebuild
from pipeline.models.backends import export_onnx, openvino_core
from pipeline.progress import say
from pipeline.runtime import machine_name

DESCRIPTION = "export.json"
SAMPLE = 64  # photos that the formats are compared on
BATCH = 24  # of them at a time; the last batch is smaller, which shows that n is open
# Pillow's bicubic filter is Keys' with a = -0.5; ONNX's default is another.
ONNX_INTERPOLATION = {"bicubic": 'mode = "cubic", cubic_coeff_a = -0.5', "bilinear": 'mode = "linear"'}
# What timm's evaluation transform does with Pillow: resize with antialiasing in 8-bit arithmetic, crop the centre (Pillow
# rounds half a pixel of its offset to the even number, and so does Round) or add borders, scale to [0, 1], normalise.
ONNX_PREPROCESSING = """
<ir_version: {ir_version}, opset_import: ["": {opset}]>
preprocessing (uint8[n, height, width, 3] photos) => (float[n, 3, {side}, {side}] prepared)
<int64[1] resized_side = {{{resized_side}}}, int64[2] crop = {{{side}, {side}}}, float top = {{255.0}},
 float[1, 3, 1, 1] mean = {{{mean}}}, float[1, 3, 1, 1] std = {{{std}}}>
{{
  maps = Transpose <perm = [0, 3, 1, 2]> (photos)
  count_and_channels = Shape <end = 2> (maps)
  size = Shape <start = 2> (maps)
  {resized_size}
  resized_shape = Concat <axis = 0> (count_and_channels, resized_size)
  resized = Resize <antialias = 1, coordinate_transformation_mode = "half_pixel", {mode}> (maps, , , resized_shape)
  {levels}
  unit = Div (levels, top)
  centred = Sub (unit, mean)
  prepared = Div (centred, std)
}}
"""
CROPPED = """spatial = Constant <value_ints = [2, 3]> ()
  half = Constant <value_float = 0.5> ()
  spare = Sub (resized_size, crop)
  spare_float = Cast <to = 1> (spare)
  offset_float = Mul (spare_float, half)
  offset_rounded = Round (offset_float)
  offset = Cast <to = 7> (offset_rounded)
  end = Add (offset, crop)
  cropped = Slice (resized, offset, end, spatial)
  levels = Cast <to = 1> (cropped)"""
# timm's crop mode -> the size to which a photo is resized, and its levels in a square.
ONNX_CROPS = {
    "center": (
        """shorter = ReduceMin <keepdims = 1> (size)
  enlarged = Mul (size, resized_side)
  resized_size = Div (enlarged, shorter)""",
        CROPPED,
    ),
    "squash": ("resized_size = Concat <axis = 0> (resized_side, resized_side)", CROPPED),
    "border": (
        """size_double = Cast <to = 11> (size)
  side_double = Cast <to = 11> (resized_side)
  longest = ReduceMax <keepdims = 1> (size_double)
  ratio = Div (longest, side_double)
  size_wanted = Div (size_double, ratio)
  size_rounded = Round (size_wanted)
  resized_size = Cast <to = 7> (size_rounded)""",
        """fill = Constant <value = float[3, 1, 1] {{{fill}}}> ()
  inner = Cast <to = 1> (resized)
  inner_above = Sub (inner, fill)
  padded_above = CenterCropPad <axes = [2, 3]> (inner_above, crop)
  levels = Add (padded_above, fill)""",
    ),
}


Loaded = tuple[Callable[[Any], Any], Iterable[Any]]  # what gives logits (n, classes), and the batches to give it in turn


class Unsupported(Exception):
    """A network or its preprocessing cannot be put into an export format; `str(error)` is the reason."""


@dataclass(frozen=True)
class Trained:
    """A network in eval mode on the CPU, and validation photos: in RGB, of any size, and as its input."""

    model: nn.Module
    info: CheckpointInfo
    photos: list[Image.Image]
    inputs: Tensor  # (n, channels, height, width)


class ExportFormat(NamedTuple):
    """`write` puts the files into a folder and loads them again."""

    name: str
    files: tuple[str, ...]
    tolerance: float  # how far its logits may lie from the checkpoint's, relative to the largest
    write: Callable[[Trained, Path], Loaded]


def export(
    checkpoint: Path,
    output: Path,
    *,
    processed: Path,
    evaluation: Path,
    source: str,
    push_to: str | None = None,
    space: bool = False,
) -> None:
    """Write the folder, compare every format on the validation photos in `processed`, and print how far each lies from it.

    An earlier export is replaced. The model card has the metrics in the folder `evaluation` and the `source` of the photos.
    With `push_to`, "hf-hub:OWNER/NAME", the folder is uploaded too, and with `space` a Space that shows it. A PipelineError
    says that there is no checkpoint or no photos, a format differs, or the folder cannot be written or uploaded.
    """
    info = read_info(checkpoint)
    if push_to or space:
        refuse_unpushable(push_to, space=space)
    if output.exists() and not (output / DESCRIPTION).is_file() and (output.is_file() or any(output.iterdir())):
        raise PipelineError(f"{output} is there already and is no earlier export. Name another folder with --output.")
    manifest = read_manifest(processed)
    refuse_other_data(info, checkpoint, classes_of(manifest), data_fingerprints(manifest))
    model = rebuild(info, read_model_state(checkpoint)).eval().requires_grad_(False)
    paths = Photos.of_split(manifest, processed, "val", info.classes).paths
    sample = paths[:: -(-len(paths) // SAMPLE)]  # from all over the split, so of all classes
    photos = [Image.open(path).convert("RGB") for path in sample]
    transform = evaluation_transform(info.preprocessing)
    trained = Trained(model, info, photos, torch.stack([transform(photo) for photo in photos]))
    fresh = output.with_name(f".{output.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        formats, left_out = _write_formats(trained, fresh)
        (fresh / "classes.json").write_text(json.dumps(info.classes) + "\n", encoding="utf-8")
        machine = machine_name(torch.device("cpu"), torch.get_num_threads())
        compared = {"compared_on": len(trained.photos), "machine": machine, "formats": formats}
        near = read_json(processed / SUMMARY_FILE)["duplicates"]["near_groups"]
        facts = {"splits": manifest["split"].value_counts().to_dict(), "near_groups": near, "left_out": left_out}
        write_card(fresh, info, metrics_of(info, evaluation), source, **facts, **compared)
        files = {path.name: sha256_of(path) for path in sorted(fresh.iterdir())}
        content = {"checkpoint": published(info).model_dump(mode="json"), **compared, "files": files}
        (fresh / DESCRIPTION).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        replace_folder(fresh, output)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    for name, reason in left_out.items():
        say(f"left out: {name}: {reason}")
    say(f"every format agrees with {checkpoint} on {len(trained.photos)} validation photos; they lie in {output}")
    if push_to:
        push(output, push_to, space=space)


def _write_formats(trained: Trained, folder: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """What was written, how far its logits lie from the checkpoint's, and its cost; and why other formats were left out.

    Milliseconds are those of the network in batches, on all cores; with preprocessing they include it, one photo at a time.
    """
    expected = _logits(trained.model, trained.inputs.split(BATCH))
    compared, left_out = [], {}
    say(f"{'format':23} {'size':>10}  ms a photo  loaded again, its logits differ by (allowed)")
    for one in EXPORT_FORMATS:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of torch's own parts; whether the result is right is measured
                run, batches = one.write(trained, folder)
                logits, started = _logits(run, batches), time.perf_counter()
                _logits(run, batches)
                milliseconds = 1000 * (time.perf_counter() - started) / len(expected)
        except (OSError, SafetensorError) as error:
            raise PipelineError(f"{folder} cannot be written: {error}. Free some room on its disk.") from None
        except Exception as error:  # exporters and runtimes raise many kinds for an operator that they do not support
            reason = f"{error.name} is not installed" if isinstance(error, ModuleNotFoundError) else str(error).strip()
            left_out[one.name] = [*reason.splitlines(), type(error).__name__][0]
            for name in one.files:
                (folder / name).unlink(missing_ok=True)
            continue
        difference = ((logits - expected).abs().max() / expected.abs().max().clamp(min=1e-6)).item()
        if not difference <= one.tolerance:
            raise PipelineError(
                f"Nothing was exported: {one.name!r} is not what the checkpoint is. Loaded again, its logits differ by up to "
                f"{difference:.1e} of the largest (allowed: {one.tolerance:.0e}) on {len(expected)} validation photos. Another "
                "version of torch, onnx, onnxruntime or openvino may write it rightly; please report it."
            )
        size = sum((folder / name).stat().st_size for name in one.files)
        say(f"{one.name:23} {megabytes(size):>10} {milliseconds:11.2f}  {difference:.1e} ({one.tolerance:.0e})")
        other_labels = int((logits.argmax(1) != expected.argmax(1)).sum())
        found = {"difference": difference, "tolerance": one.tolerance, "other_labels": other_labels}
        found |= {"megabytes": round(size / 1e6, 3), "milliseconds_a_photo": round(milliseconds, 3)}
        compared.append({"format": one.name, "files": one.files} | found)
    return compared, left_out


def _logits(run: Callable[[Any], Any], batches: Iterable[Any]) -> Tensor:
    with torch.inference_mode():
        return torch.cat([torch.as_tensor(run(batch)) for batch in batches])


def with_preprocessing(network: onnx.ModelProto, preprocessing: Preprocessing) -> onnx.ModelProto:
    """Put timm's evaluation transform before a network, within one ONNX model.

    ONNX Runtime's 8-bit antialiased Resize follows Pillow's; now and then a pixel differs by a level or two of 255.

    The network takes "images", (n, 3, side, side) float32, normalised. The whole takes "photos", (n, height, width, 3) uint8,
    RGB, of any height and width. `Unsupported` says that ONNX has no counterpart of the interpolation, or that the input is no
    square, or a bordered part of the photo.
    """
    channels, height, width = preprocessing.input_size
    if preprocessing.interpolation not in ONNX_INTERPOLATION:
        raise Unsupported(f"ONNX has no {preprocessing.interpolation} interpolation")
    mode = preprocessing.crop_mode
    if mode not in ONNX_CROPS or (mode == "border" and preprocessing.crop_pct < 1) or height != width or channels != 3:
        raise Unsupported(f"there is none for the crop {mode} of {preprocessing.crop_pct:.3g} to {height} x {width}")
    resized_size, levels = ONNX_CROPS[mode]
    text = ONNX_PREPROCESSING.format(
        ir_version=network.ir_version,
        opset=network.opset_import[0].version,
        side=height,
        resized_side=math.floor(height / preprocessing.crop_pct),
        mode=ONNX_INTERPOLATION[preprocessing.interpolation],
        resized_size=resized_size,
        levels=levels.format(fill=", ".join(f"{round(255 * value)}.0" for value in preprocessing.mean)),
        mean=", ".join(f"{value:.9f}" for value in preprocessing.mean),
        std=", ".join(f"{value:.9f}" for value in preprocessing.std),
    )
    before = onnx.compose.add_prefix(onnx.parser.parse_model(text), "preprocessing/", rename_inputs=False)
    return onnx.compose.merge_models(before, network, io_map=[("preprocessing/prepared", "images")])


def _timm(trained: Trained, folder: Path) -> Loaded:
    info = trained.info
    if not timm.is_model(info.backbone.name):
        raise Unsupported(f"timm has no network named {info.backbone.name}")
    if info.head.hidden:
        raise Unsupported("timm builds linear heads only, and this one has hidden layers")
    # What timm knows of its own weights of this architecture does not hold of these.
    config = {"label_names": list(info.classes), "pretrained_cfg": {"tag": "", "license": licence_of(info.backbone)}}
    save_for_hf(
        trained.model,
        str(folder),
        model_config=config,
        model_args=info.backbone.kwargs,
        safe_serialization=True,
        data_config=info.preprocessing.model_dump(),
    )
    (folder / "model.safetensors").chmod((folder / "config.json").stat().st_mode)  # it was made for its owner alone
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = create_transform(**resolve_data_config({}, model=model), is_training=False)
    return model, torch.stack([transform(photo) for photo in trained.photos]).split(BATCH)


def _to_onnx(trained: Trained) -> bytes:
    return export_onnx(trained.model, torch.zeros(2, *trained.info.preprocessing.input_size), output="logits")


def _onnx(trained: Trained, folder: Path) -> Loaded:
    session = _saved(onnx.load_from_string(_to_onnx(trained)), folder / "model.onnx", trained.info, "float32, normalised")
    return lambda images: session.run(None, {"images": images.numpy()})[0], trained.inputs.split(BATCH)


def _onnx_with_preprocessing(trained: Trained, folder: Path) -> Loaded:
    whole = with_preprocessing(onnx.load_from_string(_to_onnx(trained)), trained.info.preprocessing)
    session = _saved(whole, folder / "model_with_preprocessing.onnx", trained.info, "uint8 RGB pixels of any size")
    photos = [np.asarray(photo)[None] for photo in trained.photos]
    return lambda photo: session.run(None, {"photos": photo})[0], photos


def _saved(model: onnx.ModelProto, file: Path, info: CheckpointInfo, expects: str) -> onnxruntime.InferenceSession:
    """The file, ready to run; what one needs to feed it and to read its answer stands in its metadata."""
    properties = {"classes": json.dumps(info.classes), "input": expects, "backbone": info.backbone.name}
    onnx.helper.set_model_props(model, properties | {"preprocessing": info.preprocessing.model_dump_json()})
    onnx.save(model, file)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def _openvino(trained: Trained, folder: Path) -> Loaded:
    core, file = openvino_core(), folder / "openvino_model.xml"
    import openvino

    openvino.save_model(core.read_model(_to_onnx(trained)), file, compress_to_fp16=False)
    compiled = core.compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: compiled(images.numpy())[0], trained.inputs.split(BATCH)


def _torch_export(trained: Trained, folder: Path) -> Loaded:
    logging.getLogger("torch.export").setLevel(logging.ERROR)
    example, buffer = torch.zeros(2, *trained.info.preprocessing.input_size), io.BytesIO()
    program = torch.export.export(trained.model, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # private paths
    torch.export.save(program, buffer)
    (folder / "model.pt2").write_bytes(buffer.getvalue())
    return torch.export.load(str(folder / "model.pt2")).module(), trained.inputs.split(BATCH)


def _executorch(trained: Trained, folder: Path) -> Loaded:
    """For phones and other small devices, one photo at a time, by XNNPACK's kernels."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.runtime import Runtime

    program = torch.export.export(trained.model, (trained.inputs[:1],))
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    (folder / "model.pte").write_bytes(lowered.to_executorch().buffer)
    method = Runtime.get().load_program(folder / "model.pte").load_method("forward")
    return lambda image: method.execute([image])[0].clone(), trained.inputs.split(1)


EXPORT_FORMATS = (
    ExportFormat("timm", ("model.safetensors", "config.json"), 1e-4, _timm),
    ExportFormat("ONNX", ("model.onnx",), 1e-3, _onnx),
    # Pixels may be a level or two of 255 off, and so is what follows from them.
    ExportFormat("ONNX with preprocessing", ("model_with_preprocessing.onnx",), 5e-2, _onnx_with_preprocessing),
    ExportFormat("OpenVINO", ("openvino_model.xml", "openvino_model.bin"), 1e-3, _openvino),
    ExportFormat("torch.export", ("model.pt2",), 1e-3, _torch_export),
    ExportFormat("ExecuTorch", ("model.pte",), 1e-3, _executorch),
)
