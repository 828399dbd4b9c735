"""Run a network forward as fast as the machine allows, and provably as eager torch would.

    engine = build_engine(module, example, choice="auto", device="cpu", threads=2)
    features = engine.run(batch)            # (n, channels, height, width) float32 -> (n, features) float32, on the CPU

On a processor ONNX Runtime computes a convolutional network three to four times faster than eager torch; on a GPU torch with
bfloat16 is the fast way. The choice is a rule, never a timing, because a timing would not repeat and bits would change.
An engine is compared with eager float32 on the example before it is trusted.
"""

import io
import logging
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.errors import PipelineError

# Largest difference to eager float32, relative to the largest output: rounding in another order of summation stays well
# below the first; bfloat16 keeps 8 bits of mantissa.
TOLERANCE = {"onnxruntime": 1e-3, "torch": 1e-3, "torch bfloat16": 5e-2}

# Threads each take a few photos of a batch instead of sharing each operation: none waits for another, least of all for one
# whose core decodes photos meanwhile, and what a few photos need stays in the cache. A quarter faster on two cores.
PIECE = 8


@dataclass(frozen=True)
class Engine:
    """`run` maps (n, channels, height, width) float32 on the CPU to (n, outputs) float32 on the CPU; n may vary."""

    name: str
    run: Callable[[Tensor], Tensor]
    deviation: float  # from eager float32 on the example, relative to the largest output


def build_engine(module: nn.Module, example: Tensor, *, choice: str, device: torch.device, threads: int) -> Engine:
    """Make a module ready to run forward.

    In plain torch::

        with torch.inference_mode():
            outputs = module.eval()(images)

    What this adds: the faster of two ways to compute the same, and a check on real images that it is the same.

    Args:
        module: in eval mode, on the CPU; maps a batch of images to (n, outputs).
        example: (n, channels, height, width) float32, real images where possible; the engine is checked on it.
        choice: "onnxruntime", "torch", or "auto": ONNX Runtime on a processor where the network can be exported, else torch.
        device: where to compute.
        threads: of the processor.

    Raises:
        PipelineError: the network cannot be exported although ONNX Runtime was asked for by name, or the engine's outputs
            differ from eager torch's by more than the tolerance, or those of eager torch are not finite.
    """
    with torch.inference_mode():
        expected = module(example)
    if not torch.isfinite(expected).all():
        raise PipelineError(
            "The network gives values that are not finite numbers on the first photos: its weights are broken or too large. "
            "Make the checkpoint again with: dvc repro --force, or choose other weights."
        )
    if choice == "onnxruntime" or (choice == "auto" and device.type == "cpu"):
        try:
            return _checked("onnxruntime", _onnxruntime(module, example, threads), example, expected)
        except _CannotExport as error:
            if choice == "onnxruntime":
                raise PipelineError(
                    f"This network cannot run in ONNX Runtime ({error}). Set train_frozen_backbone.engine to auto or torch."
                ) from None
    name = "torch bfloat16" if device.type == "cuda" else "torch"
    return _checked(name, _torch(module, device, bfloat16=device.type == "cuda"), example, expected)


class _CannotExport(Exception):
    pass


def _checked(name: str, run: Callable[[Tensor], Tensor], example: Tensor, expected: Tensor) -> Engine:
    scale = expected.abs().max().clamp(min=1e-6)
    deviation = ((run(example) - expected).abs().max() / scale).item()
    if not deviation <= TOLERANCE[name]:
        raise PipelineError(
            f"The engine {name!r} computes something else than eager torch: outputs differ by {deviation:.2g} of the largest "
            f"(allowed: {TOLERANCE[name]:.2g}). Set train_frozen_backbone.engine to the other engine."
        )
    return Engine(name, run, deviation)


def _torch(module: nn.Module, device: torch.device, *, bfloat16: bool) -> Callable[[Tensor], Tensor]:
    module = module.to(device).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def run(batch: Tensor) -> Tensor:
        batch = batch.to(device, memory_format=torch.channels_last, non_blocking=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            return module(batch).float().cpu()

    return run


def _onnxruntime(module: nn.Module, example: Tensor, threads: int) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(export_onnx(module, example), options, providers=["CPUExecutionProvider"])
        run_session = session.run
        run_session(None, {"images": example.numpy()})
    except Exception as error:  # exporter and runtime raise many kinds for an operator that they do not know
        raise _CannotExport(str(error).splitlines()[0]) from None

    pool = ThreadPoolExecutor(threads)

    def run_piece(piece: Tensor) -> np.ndarray:
        outputs: list[np.ndarray] = run_session(None, {"images": piece.numpy()})
        return outputs[0]

    def run(batch: Tensor) -> Tensor:
        pieces = batch.split(max(1, min(PIECE, -(-len(batch) // threads))))
        return torch.from_numpy(np.concatenate(list(pool.map(run_piece, pieces))))

    return run


def export_onnx(module: nn.Module, example: Tensor, *, output: str = "outputs") -> bytes:
    """A network as an ONNX model whose one input is named "images".

    In plain torch: `torch.onnx.export(module, (example,), "model.onnx")`, whose batch size is fixed and which needs a file.

    Args:
        module: in eval mode, on the CPU; maps a batch of images to (n, outputs).
        example: (n, channels, height, width) float32; n stays open, the other sizes become the model's.
        output: what to name the output.

    Raises:
        Exception: of many kinds, where the exporter does not know an operator of the network.
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
