"""What several checkpoints say of the same photos, from one pass over them: each photo is decoded once.

predictions = predict(models, infos, photos, runtime, mirrored=False)
predictions.probabilities["frozen"]           # (n, classes) float64
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.checkpoint import MODEL_FILE, CheckpointInfo, Preprocessing
from pipeline.data.dataset import Photos
from pipeline.data.transforms import normalise
from pipeline.errors import PipelineError
from pipeline.evaluation.metrics import refuse_broken
from pipeline.evaluation.slices import MEASURED, of_batch
from pipeline.models.backends import Backend
from pipeline.models.splitting import computed_together
from pipeline.runtime import ResolvedRuntime
from pipeline.training.features import backend_for, first_pixels, run_over


@dataclass(frozen=True)
class Predictions:
    """Of n photos, in the order of their ids.

    Attributes:
        probabilities: checkpoint -> (n, classes) float64.
        mirrored: the same, as the mean over each photo and its mirror image; empty unless asked for.
        measured: property -> (n,) of the photos as the networks see them.
    """

    probabilities: dict[str, np.ndarray]
    mirrored: dict[str, np.ndarray]
    measured: dict[str, np.ndarray]


def predict(
    models: Mapping[str, nn.Module],
    infos: Mapping[str, CheckpointInfo],
    photos: Photos,
    runtime: ResolvedRuntime,
    *,
    mirrored: bool,
) -> Predictions:
    """Run every checkpoint over the photos; checkpoints of equal weights run once, and equal lower blocks too.

    Args:
        models: checkpoint -> network in eval mode, on the CPU.
        infos: checkpoint -> its description; classes and preprocessing are the same for all.
        photos: at least one.
        runtime: where to compute.
        mirrored: whether to run mirror images too, which doubles the work.

    Raises:
        PipelineError: a weight or a probability is not finite.
    """
    any_info = next(iter(infos.values()))
    preprocessing, classes = any_info.preprocessing, any_info.head.num_outputs
    weights = {name: infos[name].files[MODEL_FILE] for name in models}
    different = {weights[name]: model for name, model in models.items()}
    for name, model in models.items():
        _refuse_broken_weights(name, model)
    backends = _backends(list(different.values()), photos, preprocessing, choice="auto", runtime=runtime)

    def run_all(batch: Tensor) -> Tensor:
        views = [batch, batch.flip(2)] if mirrored else [batch]
        logits = [backend.run(view) for view in views for backend in backends]
        return torch.cat([*logits, of_batch(batch)], 1)

    outputs = run_over(run_all, photos, preprocessing, runtime=runtime, description="testing").values
    *logits, measured = outputs.split([classes] * len(different) * (1 + mirrored) + [len(MEASURED)], 1)
    probabilities = [part.double().softmax(1).numpy() for part in logits]
    for values in probabilities:
        refuse_broken(values)
    plain = dict(zip(different, probabilities, strict=False))
    mirror = dict(zip(different, probabilities[len(different) :], strict=False))
    return Predictions(
        probabilities={name: plain[weights[name]] for name in models},
        mirrored={name: (plain[key] + mirror[key]) / 2 for name, key in weights.items() if key in mirror},
        measured=dict(zip(MEASURED, measured.double().numpy().T, strict=True)),
    )


def _backends(
    models: Sequence[nn.Module], photos: Photos, preprocessing: Preprocessing, *, choice: str, runtime: ResolvedRuntime
) -> list[Backend]:
    """One for all networks where they share their lower blocks, which then compute once; else one for each."""
    images = normalise(first_pixels(photos, preprocessing), preprocessing)
    together = computed_together(models, images) if len(models) > 1 else None
    modules = models if together is None else [together]
    backend = partial(backend_for, photos=photos, preprocessing=preprocessing, choice=choice, runtime=runtime, float32=True)
    return [backend(module) for module in modules]


def _refuse_broken_weights(name: str, model: nn.Module) -> None:
    broken = [key for key, tensor in model.state_dict().items() if not torch.isfinite(tensor).all()]
    if broken:
        raise PipelineError(
            f"The {name} checkpoint holds weights that are not finite numbers, in {broken[0]} for one. Make it again with: "
            "dvc repro --force"
        )
