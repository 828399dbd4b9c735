"""What the frozen lower blocks of a network make of the photos, computed once: a training step is then one of the upper blocks.

    trunk = build_trunk(model, task)
    logits = trunk.upper(trunk.view(1)[:32].float())

What frozen blocks compute depends on the photo and on how it was changed, and on nothing that learns. So a few views of every
photo, the unchanged one among them, are sent through them once, by the backend that is fastest, and the epochs go through the
views, those of smaller photos first. An epoch then costs neither decoding nor the lower blocks, which have most of a network's
operations and few of its parameters.
"""

import copy
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from pipeline.checkpoint import Preprocessing
from pipeline.data.dataset import Photos, view_batches
from pipeline.data.transforms import TrainingTransform
from pipeline.models.backends import Backend, build_backend
from pipeline.models.splitting import split_model
from pipeline.progress import say
from pipeline.training.features import backend_for, batch_size_on, first_pixels, run_over, run_over_batches
from pipeline.training.frozen_pass import LARGEST
from pipeline.training.task import Task

# The side of smaller photos, as a share of the network's own, and what it is rounded to: strides are powers of two.
SMALLER, MULTIPLE = 5 / 7, 16


@dataclass(frozen=True)
class Trunk:
    """The frozen lower part of a network, run by a backend, and the upper part that learns: the network's own modules.

    What crosses between the two is kept in float16, for photos in the order of their ids, (n, ...).

    Attributes:
        backend: of photos of the network's own size.
        upper: from the cut to the network's output.
        val: what crosses the cut for the validation photos.
        task: whose photos these are.
        smaller: backend of smaller photos, and how these are loaded; None for a network that takes one size alone.
    """

    backend: Backend
    upper: nn.Module
    val: Tensor
    task: Task
    smaller: tuple[Backend, Preprocessing] | None

    def view(self, number: int, *, smaller: bool = False) -> Tensor:
        """The training photos as the lower part sees them: view 0 as they are, others changed as in epoch `number`.

        Those of a changed view can be `smaller`, if the network takes such.
        """
        task = self.task
        if number == 0:
            return _unchanged(self.backend, "train", task.train, task)
        backend, preprocessing = self.smaller if smaller and self.smaller else (self.backend, task.preprocessing)
        size = preprocessing.input_size[1]
        transform = TrainingTransform(preprocessing, task.settings.augmentation, task.settings.seed)
        return run_over_batches(
            lambda pixels: backend.run(pixels).half(),
            task.train,
            partial(view_batches, transform=transform, view=number),
            runtime=task.runtime,
            description=f"frozen blocks, view {number} of training photos, {size} px",
            kept=task.keep(f"view {number}, {size} px"),
        ).values


def build_trunk(model: nn.Module, task: Task) -> Trunk | None:
    """SplitModel a network below what learns, and send the validation photos through what is frozen.

    Args:
        model: in training mode, on the CPU; `set_trainable` has said what learns.
        task: whose photos, backend and places are used.

    Returns:
        None where the network cannot be cut, as when all of it learns, where the values are too large for float16, or where a
        view of the training photos would be larger than `LARGEST`.
    """
    cut = split_model(model, random_images(task.preprocessing))
    if cut is None:
        if task.settings.unfrozen_blocks != "all":
            say("this network cannot be cut below the blocks that learn, so the frozen ones compute in every step")
        return None
    lower = copy.deepcopy(cut.lower).eval()
    backend = backend_for(lower, task.val, task.preprocessing, choice=task.backend, runtime=task.runtime)
    of_one = backend.run(first_pixels(task.val, task.preprocessing)).half()[0].nbytes
    if (size := of_one * len(task.train)) > LARGEST:
        say(f"what the frozen blocks give would take {size / 2**30:.1f} GiB, so they compute in every step")
        return None
    val = _unchanged(backend, "val", task.val, task)
    if not torch.isfinite(val).all():
        say("what the frozen blocks give is too large for float16, so they compute in every step")
        return None
    return Trunk(backend, cut.upper, val, task, _smaller(model, lower, task))


def _smaller(model: nn.Module, lower: nn.Module, task: Task) -> tuple[Backend, Preprocessing] | None:
    channels, *sides = task.preprocessing.input_size
    height, width = (max(MULTIPLE, MULTIPLE * round(SMALLER * side / MULTIPLE)) for side in sides)
    preprocessing = task.preprocessing.model_copy(update={"input_size": (channels, height, width)})
    try:
        cut = split_model(model, random_images(preprocessing))
    except Exception:  # a network that takes one size alone refuses others by errors of any kind
        cut = None
    if cut is None:
        say("this network takes photos of one size, so none are smaller in the first epochs")
        return None
    return backend_for(lower, task.val, preprocessing, choice=task.backend, runtime=task.runtime), preprocessing


def _unchanged(backend: Backend, name: str, photos: Photos, task: Task) -> Tensor:
    """What frozen blocks make of photos as they are. The stage before has kept it in passing, as a rule."""
    return run_over(
        lambda images: backend.run(images).half(),
        photos,
        task.preprocessing,
        runtime=task.runtime,
        description=f"frozen blocks, {name} photos",
        kept=task.keep(name),
    ).values


def run_above(model: nn.Module, values: Tensor, task: Task) -> Tensor:
    """Outputs (n, ...) of a network whose lower part is that of a trunk, from what this part gave.

    Args:
        model: in eval mode, on the CPU, or its `FeatureExtractor`; the same blocks learn as in the trunk's network.
        values: a trunk's, (n, ...) float16.
        task: whose backend and threads are used.
    """
    cut = split_model(model, random_images(task.preprocessing))
    assert cut is not None
    runtime = task.runtime
    parts = [part.float() for part in values.split(batch_size_on(runtime.device))]
    run = build_backend(cut.upper, parts[0], choice=task.backend, device=runtime.device, threads=runtime.threads).run
    return torch.cat([run(part) for part in parts])


def random_images(preprocessing: Preprocessing) -> Tensor:
    """Two of the network's input size, always the same: (2, channels, height, width)."""
    return torch.randn(2, *preprocessing.input_size, generator=torch.Generator().manual_seed(0))
