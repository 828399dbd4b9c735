"""Predict photos with a checkpoint, from Python.

    from pipeline.inference import Classifier

    classifier = Classifier.load("outputs/finetuned")
    for prediction in classifier.predict(["cat.jpg", "dog.jpg"]):
        print(prediction.label, prediction.probability, prediction.is_ood)

On a processor the network runs in ONNX Runtime, 32 photos at a time, while threads decode the photos that come next. A
classifier may be used from several threads at once.
"""

import copy
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from PIL import Image
from torch import Tensor, nn

from pipeline.checkpoint import CheckpointInfo, read_info, read_model_state, read_ood
from pipeline.cores import usable_cores
from pipeline.data.transforms import evaluation_transform
from pipeline.errors import PipelineError
from pipeline.inference.photo import Photo, name_of, open_photo
from pipeline.models.backbone import rebuild
from pipeline.models.backends import Backend, build_backend
from pipeline.models.head import class_probabilities
from pipeline.models.ood import OodDetector
from pipeline.preprocess.decode import Refused
from pipeline.runtime import resolve_device

BATCH_SIZE = 32
BATCHES_AHEAD = 2  # decoded while the network runs, so that memory stays flat and nobody waits

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class Prediction:
    """What a checkpoint says of one photo.

    Attributes:
        label: the likeliest class.
        probability: of that class, in [0, 1], calibrated on the validation photos.
        probabilities: class -> probability; they sum to 1.
        is_ood: whether the photo lies further from the training photos than all but 1% of the validation photos
            do. It may show none of the classes, and the probabilities then mean nothing.
        distance: how far it lies from them, in multiples of the distance from which on a photo is unlike anything seen: above
            1 it is.
    """

    label: str
    probability: float
    probabilities: dict[str, float]
    is_ood: bool
    distance: float


class Classifier:
    """A checkpoint ready to predict. Its methods may be called from several threads at once."""

    def __init__(self, info: CheckpointInfo, model: nn.Module, ood: OodDetector, backend: Backend) -> None:
        """Use `Classifier.load`; `backend` runs `model` and gives (n, logits + features)."""
        self._info, self._model, self._familiarity, self._engine = info, model, ood, backend
        self._transform = evaluation_transform(info.preprocessing)
        self._explaining = threading.Lock()
        self._explained: nn.Module | None = None

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "auto", threads: int | None = None) -> Self:
        """Read a checkpoint folder, such as outputs/finetuned, and make its network ready to run.

        Args:
            folder: what `train-frozen-backbone` or `unfreeze-finetune` wrote.
            device: where the network runs: auto, cpu, cuda, cuda:1, mps ...
            threads: of the processor that the network runs in; None: a core each.

        Raises:
            PipelineError: the folder holds no whole checkpoint, or the device is not here.
        """
        folder = Path(folder)
        info = read_info(folder)
        if "temperature" not in info.metrics:
            raise PipelineError(f"{folder} was saved without a temperature. Make it again with: dvc repro")
        ood = OodDetector(**read_ood(folder))
        model = rebuild(info, read_model_state(folder)).eval().requires_grad_(False)
        backend = build_backend(
            _LogitsAndFeatures(model).eval(),
            torch.randn(2, *info.preprocessing.input_size, generator=torch.Generator().manual_seed(0)),
            choice="auto",
            device=resolve_device(device),
            threads=threads or usable_cores(),
            float32=True,
        )
        return cls(info, model, ood, backend)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the network's outputs."""
        return self._info.classes

    @property
    def note(self) -> str:
        """What the stage that made the checkpoint has to say of it, such as that fine-tuning changed nothing; mostly empty."""
        return self._info.note

    def predict(self, photos: Iterable[Photo]) -> list[Prediction]:
        """Predict photos, in their order.

        Args:
            photos: paths, http(s) addresses, the bytes of image files, PIL images, or RGB arrays of (height, width, 3) uint8.

        Raises:
            PipelineError: a photo cannot be read or decoded; the message names the first such one.
        """
        photos = list(photos)
        predictions = []
        for photo, outcome in zip(photos, self.predict_each(photos), strict=True):
            if isinstance(outcome, Refused):
                raise PipelineError(f"{name_of(photo)} cannot be predicted: {outcome}")
            predictions.append(outcome)
        return predictions

    def predict_each(self, photos: Iterable[Photo]) -> Iterator[Prediction | Refused]:
        """For each photo in turn its prediction, or why it cannot be decoded; photos are taken as they are needed."""
        with ThreadPoolExecutor(usable_cores()) as pool:
            prepared = _ahead(pool, self._prepare, photos, count=BATCHES_AHEAD * BATCH_SIZE)
            try:
                while batch := list(islice(prepared, BATCH_SIZE)):
                    tensors = [one for one in batch if not isinstance(one, Refused)]
                    predictions = iter(self.predict_batch(torch.stack(tensors)) if tensors else [])
                    yield from (one if isinstance(one, Refused) else next(predictions) for one in batch)
            finally:
                pool.shutdown(cancel_futures=True)

    def predict_batch(self, images: Tensor) -> list[Prediction]:
        """Predict what is preprocessed already.

        Args:
            images: (n, channels, height, width) float32, as the checkpoint's evaluation transform gives them.

        Raises:
            PipelineError: the network's outputs are no finite numbers.
        """
        outputs = self._engine.run(images)
        logits, features = outputs.tensor_split([self._info.head.num_outputs], dim=1)
        probabilities = class_probabilities(logits.double() / self._info.metrics["temperature"])
        distances = self._familiarity.scores(features)
        if not (torch.isfinite(probabilities).all() and torch.isfinite(distances).all()):
            raise PipelineError(
                "The network's outputs are no finite numbers. Make the checkpoint again with: dvc repro --force"
            )
        return [self._prediction(*of_photo) for of_photo in zip(probabilities.tolist(), distances.tolist(), strict=True)]

    def explain(self, photo: Photo, label: str) -> Image.Image:
        """The photo as the network sees it, in grey, with what spoke for a class in colours over it (Grad-CAM).

        Args:
            photo: as for `predict`.
            label: one of `classes`.

        Raises:
            PipelineError: the photo cannot be decoded, or the network has no layer to look at.
        """
        # What they import takes a second, and prediction does not need it.
        from pipeline.evaluation.attribution import grad_cam, overlay
        from pipeline.evaluation.gallery import as_seen

        tensor = self._prepare(photo)
        if isinstance(tensor, Refused):
            raise PipelineError(f"{name_of(photo)} cannot be explained: {tensor}")
        with self._explaining:  # Grad-CAM hangs hooks into the network
            if self._explained is None:
                self._explained = copy.deepcopy(self._model).cpu().to(memory_format=torch.contiguous_format)
            heat = grad_cam(self._explained, tensor[None], [self.classes.index(label)])[0]
        return overlay(as_seen(tensor, self._info.preprocessing), heat)

    def _prepare(self, photo: Photo) -> Tensor | Refused:
        try:
            return self._transform(open_photo(photo))
        except Refused as reason:
            return reason

    def _prediction(self, probabilities: list[float], distance: float) -> Prediction:
        by_class = dict(zip(self.classes, probabilities, strict=True))
        label = max(by_class, key=by_class.__getitem__)
        return Prediction(label, by_class[label], by_class, distance > 1, distance)


class _LogitsAndFeatures(nn.Module):
    """A timm network that gives both in one pass: (n, channels, height, width) -> (n, outputs + width)."""

    model: Any

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        maps = self.model.forward_features(images)
        return torch.cat([self.model.forward_head(maps), self.model.forward_head(maps, pre_logits=True)], 1)


def _ahead(pool: ThreadPoolExecutor, function: Callable[[A], B], items: Iterable[A], *, count: int) -> Iterator[B]:
    """Results in order, with `count` further items under way."""
    under_way: deque[Future[B]] = deque()
    for item in items:
        under_way.append(pool.submit(function, item))
        if len(under_way) > count:
            yield under_way.popleft().result()
    while under_way:
        yield under_way.popleft().result()
