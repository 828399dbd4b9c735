"""Predict photos with a checkpoint, from Python.

    from pipeline.inference import Classifier

    classifier = Classifier.load("outputs/finetuned")
    for prediction in classifier.predict(["cat.jpg", "dog.jpg"]):
        print(prediction.label, prediction.probability, prediction.is_ood)

A photo is treated as the training photos were: decoded, stored (shrunk, encoded as JPEG), then the evaluation transform. On a
processor the network runs in float32, 32 photos at a time, while threads decode the photos that come next.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext, suppress
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self, TypeGuard, TypeVar

import numpy as np
import requests
import torch
import urllib3
from PIL import Image
from torch import Tensor, nn

from pipeline.checkpoint import CheckpointInfo, read_info, read_model_state, read_ood
from pipeline.cores import usable_cores
from pipeline.data.ahead import ahead
from pipeline.data.transforms import evaluation_pixels, normalise
from pipeline.download.sources import USER_AGENT, refuse_step_down
from pipeline.errors import PipelineError
from pipeline.files import megabytes
from pipeline.models.backbone import rebuild
from pipeline.models.backends import build_backend
from pipeline.models.freezing import set_trainable
from pipeline.models.ood import OodDetector, WithPooledActivations
from pipeline.models.outputs import LogitsAndFeatures
from pipeline.models.splitting import split_model
from pipeline.preprocess.decode import MAX_FILE_BYTES, Refused, pixels_of, plain
from pipeline.preprocess.photo import as_stored, read_as_stored
from pipeline.runtime import resolve_device

T = TypeVar("T")
Photo = str | Path | bytes | Image.Image | np.ndarray | BinaryIO

BATCH_SIZE = 32
TIMEOUTS = (10.0, 30.0)  # seconds, to connect and for any next bytes
SECONDS_TO_FETCH = 120.0
MAX_FETCHED_BYTES = 64 * 2**20


class Prediction(NamedTuple):
    """What a checkpoint predicts for one photo.

    Attributes:
        label: the likeliest class.
        probability: of that class, in [0, 1], calibrated on the validation photos; with `head.class_weight: balanced` it
            holds where classes are equally frequent.
        probabilities: class -> probability; they sum to 1.
        is_ood: whether the photo is out of distribution (OOD score above 1, as for 1% of the validation photos): it may
            show none of the classes, and the probabilities then mean little.
        ood_score: its distance from the training photos, in multiples of the distance that counts as out of distribution.
    """

    label: str
    probability: float
    probabilities: dict[str, float]
    is_ood: bool
    ood_score: float


class Classifier:
    """A checkpoint ready to predict. Its methods may be called from several threads at once.

    `info` is the checkpoint's description: classes in the order of the logits, preprocessing, a note of the stage that made it.
    """

    def __init__(self, info: CheckpointInfo, model: nn.Module, ood: OodDetector, device: torch.device) -> None:
        """Use `Classifier.load`."""
        self.info, self._model, self._ood = info, model, ood
        example = torch.randn(2, *info.preprocessing.input_size, generator=torch.Generator().manual_seed(0))
        module, threads = self._with_ood_features(example).eval(), usable_cores()
        self._backend = build_backend(module, example, choice="auto", device=device, threads=threads, float32=True)
        self._transform = evaluation_pixels(info.preprocessing)
        self._explaining = threading.Lock()  # Grad-CAM hangs hooks into the network

    def _with_ood_features(self, example: Tensor) -> nn.Module:
        """The network with logits, features and, where the OOD detector was fitted on activations, those for outputs."""
        outputs = LogitsAndFeatures(self._model).eval()
        if self.info.ood_blocks is None:
            return outputs
        set_trainable(self._model, self.info.ood_blocks)
        split = split_model(outputs, example)
        self._model.requires_grad_(False)
        if split is None:
            raise PipelineError("The network cannot be split where its OOD detector looks. Make it again with: dvc repro")
        return WithPooledActivations(split)

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "auto") -> Self:
        """Read a checkpoint folder, such as outputs/finetuned, onto a device: auto, cpu, cuda, cuda:1, mps ...

        A PipelineError tells that the folder holds no whole checkpoint, or that the device is not here.
        """
        folder = Path(folder)
        info = read_info(folder)
        ood, model = OodDetector(**read_ood(folder, info)), rebuild(info, read_model_state(folder, info=info))
        return cls(info, model.eval().requires_grad_(False), ood, resolve_device(device))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self.info.classes

    def predict(self, photos: Photo | Iterable[Photo]) -> list[Prediction]:
        """Predict photos, in their order; a single photo gives a list of one.

        Args:
            photos: paths, http(s) addresses, image files as bytes or opened in binary mode, PIL images, or arrays of (height,
                width) in grey, (height, width, 3) in RGB or (height, width, 4) in RGBA, of uint8 or of floats from 0 to 1.
                An array or a file is always one photo.

        A PipelineError says that a photo cannot be read or decoded; the message names the first such one.
        """
        one = isinstance(photos, str | Path | bytes | bytearray | Image.Image | np.ndarray) or hasattr(photos, "read")
        photos = [photos] if one else list(photos)  # type: ignore[list-item, arg-type]
        outcomes = zip(photos, self.predict_each(photos), strict=True)
        return [_usable(outcome, photo, "predicted") for photo, outcome in outcomes]

    def predict_each(self, photos: Iterable[Photo]) -> Iterator[Prediction | Refused]:
        """For each photo in turn its prediction, or why it cannot be decoded; photos are taken as they are needed."""
        return self._each(photos, self._predictions)

    def embed_each(self, photos: Iterable[Photo]) -> Iterator[np.ndarray | Refused]:
        """For each photo in turn its features, (width,) float32: what goes into the last layer. As `predict_each`."""
        return self._each(photos, lambda arrays: self._outputs(arrays)[1].numpy())

    def explain_each(self, photos: Iterable[Photo]) -> Iterator[tuple[Prediction, Image.Image] | Refused]:
        """As `predict_each`, each prediction with `explain`'s picture of its label; a photo is read once."""

        def answers(arrays: list[np.ndarray]) -> Iterator[tuple[Prediction, Image.Image]]:
            for array, one in zip(arrays, self._predictions(arrays), strict=True):
                yield one, self._grad_cam(array, one.label)

        return self._each(photos, answers)

    def _each(self, photos: Iterable[Photo], answers: Callable[[list[np.ndarray]], Iterable[T]]) -> Iterator[T | Refused]:
        """What `answers` makes of prepared photos, each in turn; the next batch is decoded while the network runs."""
        prepared = ahead(self._prepare, photos, usable_cores(), BATCH_SIZE)
        while batch := list(islice(prepared, BATCH_SIZE)):
            arrays = [one for one in batch if not isinstance(one, Refused)]
            found = iter(answers(arrays) if arrays else [])
            yield from (one if isinstance(one, Refused) else next(found) for one in batch)

    def explain(self, photo: Photo, label: str) -> Image.Image:
        """Grad-CAM: the photo as the network sees it, in grey, with the places that raised the logit of `label` in colours.

        A PipelineError tells that there is no such class, or no layer to look at, or that the photo cannot be decoded.
        """
        if label not in self.classes:
            known = ", ".join(self.classes[:20]) + (", ..." if len(self.classes) > 20 else "")
            raise PipelineError(f"There is no class {label!r}. The checkpoint has {known}.")
        return self._grad_cam(_usable(self._prepare(photo), photo, "explained"), label)

    def _grad_cam(self, array: np.ndarray, label: str) -> Image.Image:
        from pipeline.evaluation.attribution import grad_cam, overlay  # takes a second, which prediction does not need

        with self._explaining:
            heat = grad_cam(self._model, self._normalised([array]).contiguous(), [self.classes.index(label)])[0]
        return overlay(Image.fromarray(array), heat)

    def _prepare(self, photo: Photo) -> np.ndarray | Refused:
        """(height, width, 3) uint8, resized and cropped."""
        try:
            return self._transform(open_photo(photo, self.info.stored_size))
        except Refused as reason:
            return reason
        except MemoryError:
            return Refused("not enough memory to decode")

    def _normalised(self, arrays: list[np.ndarray]) -> Tensor:
        """Photos as `_prepare` gives them -> (n, 3, height, width) float32."""
        return normalise(torch.from_numpy(np.stack(arrays)), self.info.preprocessing)

    def _outputs(self, arrays: list[np.ndarray]) -> tuple[Tensor, ...]:
        """Logits (n, classes), features (n, width), and what the OOD detector takes: the same features, or activations."""
        outputs, of_ood = self._backend.run(self._normalised(arrays)), self._ood.means.shape[1]
        last = None if self.info.ood_blocks is None else -of_ood
        return outputs[:, : len(self.classes)], outputs[:, len(self.classes) : last], outputs[:, -of_ood:]

    def _predictions(self, arrays: list[np.ndarray]) -> list[Prediction]:
        (logits, _, of_ood), predictions = self._outputs(arrays), []
        for row, score in zip(logits.double().softmax(1).tolist(), self._ood.scores(of_ood).tolist(), strict=True):
            by_class = dict(zip(self.classes, row, strict=True))
            label = max(by_class, key=by_class.__getitem__)
            predictions.append(Prediction(label, by_class[label], by_class, score > 1, score))
        return predictions


def open_photo(photo: Photo, stored_size: int) -> Image.Image:
    """A photo in RGB, upright, as `preprocess` would have stored it and training would have read it.

    Pixels without a file are encoded as a JPEG only where they are shrunk, to a shorter side of `stored_size` pixels. `Refused`
    says why a photo cannot be read, decoded or converted.
    """
    if isinstance(photo, np.ndarray):
        photo = _image_of(photo)
    if isinstance(photo, Image.Image):
        return as_stored(pixels_of(photo), stored_size)
    data = bytes(photo) if isinstance(photo, bytes | bytearray) else fetch(photo) if is_address(photo) else _read(photo)
    return read_as_stored(data, stored_size)


def is_address(photo: object) -> TypeGuard[str]:
    """Whether it is an http(s) address."""
    return isinstance(photo, str) and photo.startswith(("http://", "https://"))


def fetch(address: str) -> bytes:
    """The bytes at an http(s) address; `Refused` where it cannot be had, is too slow or large, or leads to plain HTTP."""
    deadline, content = time.monotonic() + SECONDS_TO_FETCH, bytearray()
    try:
        headers, hooks = {"User-Agent": USER_AGENT}, {"response": refuse_step_down}
        with requests.get(address, stream=True, timeout=TIMEOUTS, headers=headers, hooks=hooks) as response:
            response.raise_for_status()
            for chunk in response.iter_content(2**16):
                content += chunk
                if len(content) > MAX_FETCHED_BYTES:
                    raise Refused(f"more than {megabytes(MAX_FETCHED_BYTES)} come from there")
                if time.monotonic() > deadline:  # the timeouts are for any next bytes, which may come one by one
                    raise Refused(f"it took more than {SECONDS_TO_FETCH:.0f} s to fetch")
    except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:  # the others: mistyped
        raise Refused(f"cannot be fetched: {plain(str(error))}") from None
    return bytes(content)


def _image_of(array: np.ndarray) -> Image.Image:
    no_photo = "an array that is no photo:"
    if array.dtype.kind == "f":
        if not ((array >= 0) & (array <= 1)).all():
            raise Refused(f"{no_photo} floats beyond 0 to 1, or NaN; divide them by the value of white")
        array = np.round(array * 255).astype(np.uint8)
    if array.ndim in (2, 3) and array.dtype in (bool, np.uint8, np.uint16):
        with suppress(TypeError, ValueError):  # of channels that Pillow does not know
            return Image.fromarray(array)
    wanted = "give (height, width), or with 3 or 4 channels last, of uint8 or of floats"
    raise Refused(f"{no_photo} {array.shape} of {array.dtype}; {wanted}")


def _read(file: str | Path | BinaryIO) -> bytes:
    """All of a file: of one that is open from its beginning on, as Pillow does."""
    try:
        with Path(file).open("rb") if isinstance(file, str | Path) else nullcontext(file) as opened:
            if opened.seekable():
                opened.seek(0)
            data = opened.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError, AttributeError) as error:  # one that is closed; what is no file at all
        raise Refused(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not isinstance(data, bytes):
        raise Refused("cannot be read: it is opened as text; open it in mode 'rb'")
    if len(data) > MAX_FILE_BYTES:
        raise Refused(f"file too large: more than {megabytes(MAX_FILE_BYTES)}")
    return data


def _usable(outcome: T | Refused, photo: Photo, purpose: str) -> T:
    if isinstance(outcome, Refused):
        name = photo if isinstance(photo, str | Path) else f"a photo given as {type(photo).__name__}"
        raise PipelineError(f"{name} cannot be {purpose}: {outcome}")
    return outcome
