"""One pass of the frozen network that serves two stages: the features a head is solved on, and what fine-tuning cuts off at.

    run = frozen_pass(model, unfrozen_blocks, photos, preprocessing, choice="auto", runtime=runtime)
    run_over(run, photos, preprocessing, ..., kept=features, beside=at_cut)

Both are values of the same network on the same photos, and what crosses the cut lies on the way to the features, so computing
it again in the next stage would be waste. It must not change a bit, though, of what each stage would have got by itself: where
it does, on the first photos, each stage computes for itself.
"""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.checkpoint import BackboneInfo, Preprocessing, library_versions
from pipeline.data.dataset import Photos
from pipeline.data.transforms import normalise
from pipeline.models.backends import Backend, build_backend
from pipeline.models.freezing import frozen_fingerprint, set_trainable
from pipeline.models.splitting import SplitModel, split_model
from pipeline.params import UnfreezeFinetune
from pipeline.progress import say
from pipeline.runtime import ResolvedRuntime
from pipeline.training.features import FeatureExtractor, FromPixels, Kept, first_pixels
from pipeline.training.resume import parts_of_result

# What one view of the training photos may take at the cut. Above it, photos go through the whole network in every step of
# fine-tuning. A rule by size alone: what is free in memory at the moment would not repeat.
LARGEST = 2 * 2**30

Run = Callable[[Tensor], Tensor | tuple[Tensor, Tensor]]


def frozen_pass(
    model: nn.Module,
    unfrozen_blocks: int | str,
    photos: Photos,
    preprocessing: Preprocessing,
    *,
    choice: str,
    runtime: ResolvedRuntime,
) -> Run:
    """How to compute a network's features, with what crosses the cut beside them where that is free; says by which backend.

    Args:
        model: a timm network in eval mode, on the CPU; stays as it is.
        unfrozen_blocks: how many blocks are going to learn, or "all", and so where the network is cut.
        photos: those of training; on the first of them backends are compared.
        preprocessing: the network's.
        choice: as for `build_backend`.
        runtime: where to compute.

    Returns:
        A function of (n, height, width, channels) uint8 that gives features (n, width) float32 and, where it can be had, what
        crosses the cut (n, ...) float16.
    """
    pixels = first_pixels(photos, preprocessing)

    def backend_of(module: nn.Module, example: Tensor) -> Backend:
        return build_backend(module, example, choice=choice, device=runtime.device, threads=runtime.threads)

    plain = backend_of(FromPixels(FeatureExtractor(copy.deepcopy(model)), preprocessing).eval(), pixels)
    say(f"features by {plain.name}, which differs from eager float32 by {plain.deviation:.1e} of their size")
    parts = _parts(model, unfrozen_blocks, normalise(pixels, preprocessing))
    if parts is None:
        return plain.run
    lower = backend_of(FromPixels(parts.lower, preprocessing).eval(), pixels)
    features, at_cut = plain.run(pixels), lower.run(pixels)
    if at_cut[0].numel() * 2 * len(photos) > LARGEST:
        return plain.run
    upper = backend_of(parts.upper, at_cut)

    def run(batch: Tensor) -> tuple[Tensor, Tensor]:
        at_cut = lower.run(batch)
        return upper.run(at_cut), at_cut.half()

    return run if torch.equal(upper.run(at_cut), features) else plain.run


def parts_of_pass(
    model: nn.Module,
    backbone: BackboneInfo,
    preprocessing: Preprocessing,
    stored: str,
    *,
    choice: str,
    runtime: ResolvedRuntime,
) -> dict[str, str]:
    """All that decides what a pass gives, apart from the photos, for `Kept`: the same in both stages.

    Args:
        model: with any head, which does not count; that alone is set to learn.
        backbone, preprocessing: of the network.
        stored: fingerprint of the photos' bytes.
        choice: of the backend, as for `build_backend`.
        runtime: where to compute.
    """
    set_trainable(model, "head")
    return parts_of_result(
        tensors=frozen_fingerprint(model),
        architecture=backbone.model_dump(include={"name", "kwargs"}),
        preprocessing=preprocessing.model_dump(),
        stored=stored,
        backend=choice,
        device=runtime.device.type,
        bfloat16=runtime.bfloat16,
        threads=runtime.threads,
        versions=library_versions(),
    )


def places_at_cut(
    folder: Path, settings: UnfreezeFinetune, photos: Mapping[str, str], of_pass: Mapping[str, str]
) -> Callable[[str], Kept]:
    """Where what crosses the cut is kept, by name: of a split's photos as they are, or of a changed view of those of training.

    Args:
        folder: what it is kept in.
        settings: of fine-tuning, which decide the cut and the changes.
        photos: name of a split -> fingerprint of its photos; any other name is a view's.
        of_pass: what `parts_of_pass` gives.
    """
    changes = settings.model_dump(include={"augmentation", "seed"})

    def place(name: str) -> Kept:
        of_view = {} if name in photos else {"view": name, "changes": changes}
        fingerprint = photos.get(name, photos["train"])
        return Kept(folder, photos=fingerprint, cut_below=settings.unfrozen_blocks, **of_pass, **of_view)

    return place


def _parts(model: nn.Module, unfrozen_blocks: int | str, images: Tensor) -> SplitModel | None:
    """From the images to the cut and from there to the features; None where the network cannot be cut."""
    model = copy.deepcopy(model)
    set_trainable(model, unfrozen_blocks)
    # As fine-tuning cuts it: in training mode, where what is frozen is in eval all the same.
    whole = split_model(model.train(), images[:2])
    features = split_model(FeatureExtractor(model).eval(), images[:2])
    if whole is None or features is None:
        return None
    return SplitModel(copy.deepcopy(whole.lower).eval(), features.upper.eval())
