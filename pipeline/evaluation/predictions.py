"""Predictions of several checkpoints for the same photos, in float32 and in one pass: each photo is decoded once.

predictions = predict(models, infos, photos, runtime, mirrored=False)
predictions.probabilities["frozen"]           # (n, classes) float64
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.checkpoint import MODEL_FILE, CheckpointInfo, Preprocessing
from pipeline.data.dataset import Photos
from pipeline.data.transforms import normalise
from pipeline.errors import PipelineError
from pipeline.evaluation.slices import MEASURED, brightness_and_sharpness
from pipeline.models.splitting import share_frozen_part
from pipeline.runtime import ResolvedRuntime
from pipeline.training.features import backend_for, evaluation, first_pixels, run_inference


@dataclass(frozen=True)
class Predictions:
    """For n photos, in the order of their ids."""

    probabilities: dict[str, np.ndarray]  # checkpoint -> (n, classes) float64, the softmax of its logits
    mirrored: dict[str, np.ndarray]  # the same as the mean over photo and mirror image; empty unless asked for
    measured: dict[str, np.ndarray]  # brightness and sharpness -> (n,) of the photos as the networks get them


def predict(
    models: Mapping[str, nn.Module],
    infos: Mapping[str, CheckpointInfo],
    photos: Photos,
    runtime: ResolvedRuntime,
    *,
    mirrored: bool,
) -> Predictions:
    """Run every checkpoint on the photos; checkpoints with the same weights run once.

    Args:
        models: checkpoint -> network in eval mode, on the CPU.
        infos: checkpoint -> its description; classes and preprocessing are the same for all.
        photos: at least one.
        runtime: where to compute.
        mirrored: whether to run mirror images too, which doubles the work.

    Raises:
        PipelineError: a probability is not finite.
    """
    weights = {name: infos[name].files[MODEL_FILE] for name in models}
    different = {weights[name]: model for name, model in models.items()}
    info = next(iter(infos.values()))
    outputs = _outputs(list(different.values()), photos, info.preprocessing, runtime, mirrored=mirrored)
    *logits, measured = outputs.split([info.head.num_outputs] * len(different) * (1 + mirrored) + [len(MEASURED)], 1)
    probabilities = [part.double().softmax(1).numpy() for part in logits]
    if not all(np.isfinite(part).all() for part in probabilities):
        raise PipelineError("A predicted probability is not a finite number; a checkpoint is broken. Run: dvc repro --force")
    plain = dict(zip(different, probabilities, strict=False))
    mirror = dict(zip(different, probabilities[len(different) :], strict=False))
    return Predictions(
        probabilities={name: plain[weights[name]] for name in models},
        mirrored={name: (plain[key] + mirror[key]) / 2 for name, key in weights.items() if key in mirror},
        measured=dict(zip(MEASURED, measured.double().numpy().T, strict=True)),
    )


def _outputs(
    models: Sequence[nn.Module], photos: Photos, preprocessing: Preprocessing, runtime: ResolvedRuntime, *, mirrored: bool
) -> Tensor:
    """Each network's logits side by side, those of the mirror images after them, then what is measured: (n, all of them).

    The frozen part that the networks have in common is computed once.
    """
    images = normalise(first_pixels(photos, preprocessing), preprocessing)
    together = share_frozen_part(models, images) if len(models) > 1 else None
    backends = [
        backend_for(module, photos, preprocessing, choice="auto", runtime=runtime, float32=True).run
        for module in (models if together is None else [together])
    ]

    def run(batch: Tensor) -> Tensor:
        copies = [batch, batch.flip(2)] if mirrored else [batch]
        logits = [backend(copy) for copy in copies for backend in backends]
        return torch.cat([*logits, brightness_and_sharpness(batch)], 1)

    return run_inference(run, photos, evaluation(preprocessing), runtime=runtime, description="testing")[0].tensor()
