"""Inference backends: run a network forward with OpenVINO or torch, whichever is faster here.

    backend = build_backend(module, example, choice="auto", device=torch.device("cpu"), threads=2)
    features = backend.run(batch)            # (n, channels, height, width) float32 -> (n, features) float32, where the batch is

On a processor OpenVINO is several times as fast as eager torch, and faster still in bfloat16, where the processor multiplies
in it. On a GPU torch in 16 bits is fast. The choice is a rule from the processor's flags and the network, never a timing,
because a timing would not repeat and bits would change.
"""

import copy
import io
import logging
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.errors import PipelineError
from pipeline.runtime import has_bfloat16

Run = Callable[[Tensor], Tensor]

# Largest relative RMS error (see `relative_rms_error`) with which a backend is taken. Rounding in another order of summation
# stays well below the first. bfloat16 has 8 bits of mantissa, which over the 52 layers of a trained MobileNetV2, whose blocks
# end without an activation, comes to 0.10 in OpenVINO and to 0.09 in torch's autocast, and to 0.03 in most.
TOLERANCE = {
    **dict.fromkeys(("openvino", "torch"), 0.001),
    **dict.fromkeys(("openvino bfloat16", "torch bfloat16", "torch float16"), 0.15),
}
AUTOCAST = {"torch": None, "torch bfloat16": torch.bfloat16, "torch float16": torch.float16}

PIECE = 8  # photos that one thread takes of a batch at once


class Backend(NamedTuple):
    """`run` maps (n, channels, height, width) float32 to (n, outputs) float32, for any n, on the device of the batch."""

    name: str
    run: Run
    relative_rms_error: float  # from eager float32, on the example


def build_backend(
    module: nn.Module, example: Tensor, *, choice: str, device: torch.device, threads: int, float32: bool = False
) -> Backend:
    """The fastest way to run a module forward on this machine, compared with eager float32 on an example.

    Args:
        module: in eval mode, on the CPU, where it stays; maps a batch of images to (n, outputs).
        example: (n, channels, height, width) float32, real images where possible; the backend is checked on it.
        choice: "openvino" on a processor, or "torch"; "auto" is OpenVINO where it can run the network, and on a GPU torch in
            16 bits, where the network's outputs bear it.
        threads: of the processor.
        float32: compute in float32 whatever the choice, as evaluation and prediction do: bfloat16 rounds in other places where
            the same layers stand in another graph, so only float32 gives the network's own outputs on every machine.

    A PipelineError says that the backend that was asked for by name cannot run here or cannot run this network, or its error is
    above the tolerance, or the outputs of eager torch are not finite.
    """
    with torch.inference_mode():
        expected = module(example)
    if not torch.isfinite(expected).all():
        raise PipelineError(
            "The network gives values that are not finite numbers on the first photos: its weights are broken or too large. "
            "Make the checkpoint again with: dvc repro --force, or choose other weights."
        )
    why = ""
    for name in candidates(choice, device, float32=float32):
        try:
            run = _runner(name, module, example, device, threads)
        except PipelineError as unfit:
            why = str(unfit)
            continue
        error = relative_rms_error(run(example), expected)
        if error <= TOLERANCE[name]:
            return Backend(name, run, error)
        why = f"{name} computes something else than eager torch: its relative RMS error is {error:.2g}."
    raise PipelineError(f"{why} Set train_frozen_backbone.backend to auto or to another backend.")


def candidates(choice: str, device: torch.device, *, float32: bool) -> list[str]:
    """The backends to try for a choice, in order: a rule from the device and its flags, without timing."""
    if device.type != "cpu":
        if choice == "openvino":
            raise PipelineError(
                f"train_frozen_backbone.backend = {choice} computes on a processor, but runtime.device is {device.type}. Set "
                "the backend to auto or torch, or runtime.device to cpu."
            )
        if device.type != "cuda" or float32:
            return ["torch"]
        return ["torch bfloat16" if has_bfloat16(device) else "torch float16", "torch"]
    if choice == "torch":
        return ["torch"]
    openvino = ["openvino"] if float32 or not has_bfloat16(device) else ["openvino bfloat16", "openvino"]
    return [*openvino, "torch"] if choice == "auto" else openvino


def relative_rms_error(outputs: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference, divided by that of what was expected, over all outputs of all images.

    It is a check for broken backends, on a few images, and no bound: single outputs may differ by more, and other images too.
    """
    scale = expected.square().mean().sqrt().clamp(min=1e-6)
    return ((outputs - expected).square().mean().sqrt() / scale).item()


def _runner(name: str, module: nn.Module, example: Tensor, device: torch.device, threads: int) -> Run:
    if name in AUTOCAST:
        return _torch(module, device, AUTOCAST[name])
    try:
        return _openvino(module, example, threads, bfloat16=name == "openvino bfloat16")
    except Exception as error:  # exporter and OpenVINO raise many kinds for an operator that they do not know
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise PipelineError(f"This network cannot run in {name} ({first_line}).") from None


def _torch(module: nn.Module, device: torch.device, autocast: torch.dtype | None) -> Run:
    module = channels_last(copy.deepcopy(module).to(device))

    @torch.inference_mode()
    def run(batch: Tensor) -> Tensor:
        images = batch.to(device, non_blocking=True)
        if images.is_floating_point() and images.ndim == 4:  # bytes of photos have their channels last as they come
            images = images.contiguous(memory_format=torch.channels_last)
        with (
            cudnn_flags(tf32=autocast is not None),
            torch.autocast(device.type, autocast or torch.bfloat16, enabled=autocast is not None),
        ):
            return module(images).float().to(batch.device)

    return run


def channels_last(module: nn.Module) -> nn.Module:
    """A module in the memory format of fast convolutions, in place; `Module.to` fails where a tensor has 5 dimensions."""
    return module._apply(lambda tensor: tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor)


def cudnn_flags(*, tf32: bool) -> Any:
    """A context in which cuDNN repeats itself; without `tf32` it convolves in float32, which is not its default."""
    # `enabled` is False by default: torch would convolve without cuDNN.
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=tf32)


def _openvino(module: nn.Module, example: Tensor, threads: int, *, bfloat16: bool) -> Run:
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
        "NUM_STREAMS": str(threads),  # each computes with one thread, so their number changes no bit
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,  # several processes would be pinned to the same cores
    }
    onnx = export_onnx(_with_identity_at_the_end(module, example) if bfloat16 else module, example)
    compiled = openvino_core().compile_model(openvino_core().read_model(onnx), "CPU", settings)
    # The first call of all is made by one thread: two at once can wait for each other for ever, one holding Python's lock and
    # one that of the bindings' first use (OpenVINO 2026.4).
    compiled.create_infer_request().infer({0: example[:1].numpy()})
    of_thread, pool = threading.local(), ThreadPoolExecutor(threads)

    def run_piece(piece: Tensor) -> Any:
        if not hasattr(of_thread, "request"):
            of_thread.request = compiled.create_infer_request()
        return of_thread.request.infer({0: piece.numpy()})[0]

    def run(batch: Tensor) -> Tensor:
        # A few photos for one thread: none waits for another, and what they need stays in the processor's cache.
        pieces = batch.contiguous().split(max(1, min(PIECE, -(-len(batch) // threads))))
        return torch.from_numpy(np.concatenate(list(pool.map(run_piece, pieces))))

    return run


@cache
def openvino_core() -> Any:
    """One for the life of the process.

    Each brings the stack that signals of this thread are handled on, and takes it away when it goes, also from others that
    came before: the next signal would then end the process (OpenVINO 2026.4).
    """
    # Importing OpenVINO forks a process that reports the import to its makers, unless this package of theirs cannot be found.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # Python's way to say so
    import openvino

    return openvino.Core()


def _with_identity_at_the_end(module: nn.Module, example: Tensor) -> nn.Module:
    """A part of a network, which gives feature maps, with one more convolution after it that changes nothing.

    In bfloat16 OpenVINO computes the end of a graph in float32, back to the last convolutions. A part would so give other
    values than it does inside the whole network.
    """
    with torch.inference_mode():
        outputs = module(example)
    if outputs.ndim != 4:
        return module
    channels = outputs.shape[1]
    identity = nn.Conv2d(channels, channels, 1, groups=channels, bias=False)
    nn.init.ones_(identity.weight)
    return nn.Sequential(module, identity).eval()


def export_onnx(module: nn.Module, example: Tensor, *, output: str = "outputs") -> bytes:
    """A network, in eval mode on the CPU, as an ONNX model of any batch size, whose one input is named "images".

    The example, (n, channels, height, width) float32, gives the other sizes. Of an operator that the exporter does not know it
    raises exceptions of many kinds.
    """
    buffer = io.BytesIO()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # The tracing exporter is marked as superseded; it takes 0.4 s where its successor takes 10 s, for the same graph.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (example,),
            buffer,  # type: ignore[arg-type]  # a file object does, although the annotation knows paths only
            dynamo=False,
            input_names=["images"],
            output_names=[output],
            dynamic_axes={"images": {0: "n"}, output: {0: "n"}},
        )
    return buffer.getvalue()
