"""Each photo's feature, computed once: what the frozen backbone says of it, and all that a linear probe needs.

features = extract_features(model, photos, preprocessing, engine_choice="auto", runtime=runtime, description="train")
features.values, features.labels         # (n, width) float32, (n,) int64
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.checkpoint import Preprocessing
from pipeline.data.loader import Photos, evaluation_batches
from pipeline.models.backbone import evaluation_transform
from pipeline.models.engine import Engine, build_engine
from pipeline.progress import progress
from pipeline.runtime import ResolvedRuntime

BATCH_SIZE = 32


@dataclass(frozen=True)
class Outputs:
    """What a network gave for every photo of a split, in the order of ids: values (n, width), labels (n,)."""

    values: Tensor
    labels: Tensor


class FeatureExtractor(nn.Module):
    """A timm network up to the input of its classifier: (n, channels, height, width) -> (n, width)."""

    model: Any

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Pooled features; timm's `forward_head(pre_logits=True)` is the classifier's input for every family."""
        return self.model.forward_head(self.model.forward_features(images), pre_logits=True)


def engine_for(
    module: nn.Module, photos: Photos, preprocessing: Preprocessing, *, choice: str, runtime: ResolvedRuntime
) -> Engine:
    """An engine for `module`, checked on the first photos."""
    some = Photos(photos.ids[:8], photos.paths[:8], photos.labels[:8])
    batches = evaluation_batches(some, evaluation_transform(preprocessing), batch_size=8, workers=0)
    example, _ = next(iter(batches))
    return build_engine(module, example, choice=choice, device=runtime.device, threads=runtime.threads)


def run_over(
    run: Callable[[Tensor], Tensor],
    photos: Photos,
    preprocessing: Preprocessing,
    *,
    runtime: ResolvedRuntime,
    description: str,
) -> Outputs:
    """Run a network over every photo once, in evaluation preprocessing, decoding in worker processes."""
    transform = evaluation_transform(preprocessing)
    batches = evaluation_batches(photos, transform, batch_size=BATCH_SIZE, workers=runtime.workers)
    values = []
    with progress(description, total=len(photos)) as advance:
        for images, _ in batches:
            values.append(run(images))
            advance(len(images))
    return Outputs(torch.cat(values), photos.labels)
