"""The ONNX form with 8-bit weights, and what that costs and gains, measured on the validation photos.

    write_quantised(folder)
    table = measure(folder, photos, preprocessing, workers=2)

Dynamic quantisation stores weights as 8-bit integers and quantises activations while the model runs. A file of a quarter of
the size is certain; on many processors convolutions run slower than in float32, so the speed is measured and told.
"""

import logging
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from onnxruntime import InferenceSession
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor

from pipeline.checkpoint import Preprocessing
from pipeline.data.dataset import Photos, evaluation_batches
from pipeline.data.transforms import evaluation_pixels, normalise
from pipeline.evaluation.metrics import log_losses
from pipeline.inference.forms import ONNX, ONNX_QUANTISED, OUTPUT, Unsupported, first_line, open_session
from pipeline.models.head import class_probabilities
from pipeline.progress import progress

BATCH_SIZE = 16


@dataclass(frozen=True)
class Cost:
    """What a file is worth on the validation photos: log-loss in nats, size in bytes."""

    file: str
    accuracy: float
    log_loss: float
    photos_per_second: float
    size: int


def write_quantised(folder: Path) -> None:
    """Write model_int8.onnx from the folder's model.onnx.

    Raises:
        Unsupported: the network has an operator that cannot be quantised.
    """
    logging.getLogger().addFilter(_about_preprocessing)
    try:
        # Unsigned, because ONNX Runtime's integer convolution on processors knows no signed weights.
        quantize_dynamic(folder / ONNX, folder / ONNX_QUANTISED, weight_type=QuantType.QUInt8)
    except Exception as error:  # of many kinds
        raise Unsupported(f"ONNX Runtime cannot quantise it: {first_line(error)}") from None
    finally:
        logging.getLogger().removeFilter(_about_preprocessing)


def measure(folder: Path, photos: Photos, preprocessing: Preprocessing, *, workers: int) -> tuple[Cost, ...]:
    """Run the float and the 8-bit model over the photos, batch by batch in turn, so that both meet the same disturbances.

    The speed is that of the network alone, of the median batch.
    """
    sessions = {file: open_session(folder / file) for file in (ONNX, ONNX_QUANTISED)}
    batches = evaluation_batches(photos, evaluation_pixels(preprocessing), batch_size=BATCH_SIZE, workers=workers)
    logits: dict[str, list[Tensor]] = {file: [] for file in sessions}
    rates: dict[str, list[float]] = {file: [] for file in sessions}
    with progress("comparing with 8 bits", total=len(photos)) as advance:
        for pixels, _ in batches:
            images = normalise(pixels, preprocessing).contiguous()
            for file, session in sessions.items():
                outputs, seconds = _timed(session, images)
                logits[file].append(outputs)
                rates[file].append(len(images) / seconds)
            advance(len(images))
    labels = photos.labels.numpy()
    costs = []
    for file in sessions:
        probabilities = class_probabilities(torch.cat(logits[file]).double()).numpy()
        accuracy, loss = (probabilities.argmax(1) == labels).mean(), log_losses(labels, probabilities).mean()
        rate, size = statistics.median(rates[file]), (folder / file).stat().st_size
        costs.append(Cost(file, float(accuracy), float(loss), rate, size))
    return tuple(costs)


def _timed(session: InferenceSession, images: Tensor) -> tuple[Tensor, float]:
    started = time.perf_counter()
    outputs = session.run([OUTPUT], {"images": images.numpy()})[0]
    return torch.from_numpy(outputs), time.perf_counter() - started


def _about_preprocessing(record: logging.LogRecord) -> bool:
    """Keep back the advice to optimise the graph first: ONNX Runtime does so whenever it opens one."""
    return "pre-processing before quantization" not in record.getMessage()
