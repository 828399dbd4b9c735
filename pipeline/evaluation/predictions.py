"""Predictions of several checkpoints for the same photos, in float32 and in one pass: each photo is decoded once."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.checkpoint import MODEL_FILE, CheckpointInfo
from pipeline.data.dataset import Photos
from pipeline.data.transforms import normalise
from pipeline.errors import PipelineError
from pipeline.evaluation.slices import MEASURED, brightness_and_sharpness
from pipeline.models.splitting import share_frozen_part
from pipeline.runtime import ResolvedRuntime
from pipeline.training.features import backend_for, evaluation, first_pixels, run_inference


def predict(
    models: Mapping[str, nn.Module], infos: Mapping[str, CheckpointInfo], photos: Photos, runtime: ResolvedRuntime
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Run every checkpoint (name -> network in eval mode, on the CPU) on the photos.

    Returns name -> probabilities (n, classes) float64, in the order of the photos' ids, and brightness and sharpness (n,) of
    the photos as the networks get them. Checkpoints with the same weights run once, and so does the frozen part that different
    ones have in common. Classes and preprocessing are the same for all. A PipelineError says that a probability is not finite.
    """
    weights = {name: infos[name].files[MODEL_FILE] for name in models}
    different = {weights[name]: model for name, model in models.items()}
    modules, info = list(different.values()), next(iter(infos.values()))
    if len(modules) > 1:
        images = normalise(first_pixels(photos, info.preprocessing), info.preprocessing)
        together = share_frozen_part(modules, images)
        modules = modules if together is None else [together]
    backends = [
        backend_for(module, photos, info.preprocessing, choice="auto", runtime=runtime, float32=True).run for module in modules
    ]

    def run(batch: Tensor) -> Tensor:
        return torch.cat([*(backend(batch) for backend in backends), brightness_and_sharpness(batch)], 1)

    [outputs] = run_inference(run, photos, evaluation(info.preprocessing), runtime=runtime, description="testing")
    *logits, measured = outputs.tensor().split([len(info.classes)] * len(different) + [len(MEASURED)], 1)
    probabilities = [part.double().softmax(1).numpy() for part in logits]
    if not all(np.isfinite(part).all() for part in probabilities):
        raise PipelineError("A predicted probability is not a finite number; a checkpoint is broken. Run: dvc repro --force")
    by_weights = dict(zip(different, probabilities, strict=True))
    of_photos = dict(zip(MEASURED, measured.double().numpy().T, strict=True))
    return {name: by_weights[key] for name, key in weights.items()}, of_photos
