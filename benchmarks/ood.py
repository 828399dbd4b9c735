"""Out-of-distribution detection compared: Mahalanobis distances with and without unit-length features, nearest neighbours.

    uv run python benchmarks/ood.py --checkpoint outputs/finetuned

The detector knows the classes of a checkpoint by their training photos. It is to tell validation photos from one class that is
held back, from drawings of other things, from noise and from flat colours. AUROC, and in brackets the fraction of the unknown
photos that pass where 95% of the known ones do. The last column is the checkpoint's own detector, which
looks at activations below the fine-tuned blocks.
"""

import argparse
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from common import run_command
from PIL import Image
from sklearn.covariance import ledoit_wolf
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.checkpoint import read_info, read_model_state
from pipeline.data.dataset import Photos
from pipeline.data.manifest import read_manifest
from pipeline.data.transforms import evaluation_transform
from pipeline.download.drawn_photo import OTHER_KINDS, draw_photo
from pipeline.inference import Classifier
from pipeline.models.backbone import rebuild
from pipeline.models.ood import OodDetector, sample_by_class
from pipeline.models.outputs import FeatureExtractor
from pipeline.paths import PROCESSED
from pipeline.reproduce import markdown

NEIGHBOUR = 5  # whose distance is the score
COUNT = 40  # of each kind of picture that is no photo


def mahalanobis(train: Tensor, labels: Tensor, photos: Tensor) -> Tensor:
    """Without scaling to length 1: a constant feature of great length makes all of them about as long."""
    means = torch.stack([train[labels == label].mean(0) for label in labels.unique()])
    covariance, _ = ledoit_wolf((train - means[labels]).double().numpy(), assume_centered=True)
    factor = torch.linalg.inv(torch.linalg.cholesky(torch.from_numpy(covariance))).T.float()
    return torch.cdist(photos @ factor, means @ factor).amin(1)


def of_length_1(train: Tensor, labels: Tensor, photos: Tensor) -> Tensor:
    """What the pipeline does."""
    return OodDetector.fit(train, labels, train).scores(photos)


def neighbours(train: Tensor, labels: Tensor, photos: Tensor) -> Tensor:
    """Distance of the fifth-nearest training photo, features of length 1 (Sun et al., Deep nearest neighbors, ICML 2022)."""
    return torch.cdist(normalize(photos), normalize(train)).kthvalue(NEIGHBOUR).values


METHODS = {"Mahalanobis": mahalanobis, "Mahalanobis, length 1": of_length_1, "nearest neighbours, length 1": neighbours}


def pictures() -> dict[str, list[Image.Image]]:
    """What is no photo of any class."""
    random = np.random.default_rng(0)
    found = {f"drawn {kind}": [draw_photo(kind, Random(f"{kind} {i}")) for i in range(COUNT)] for kind in OTHER_KINDS}
    found["noise"] = [Image.fromarray(random.integers(0, 256, (180, 240, 3), dtype=np.uint8)) for _ in range(COUNT)]
    found["flat colour"] = [Image.new("RGB", (240, 180), tuple(random.integers(0, 256, 3).tolist())) for _ in range(COUNT)]
    return found


def compare(given: argparse.Namespace) -> None:
    """Print the table."""
    info = read_info(given.checkpoint)
    network = FeatureExtractor(rebuild(info, read_model_state(given.checkpoint))).eval()
    transform, manifest = evaluation_transform(info.preprocessing), read_manifest(PROCESSED)

    @torch.inference_mode()
    def features(images: list[Image.Image]) -> Tensor:
        batches = [torch.stack([transform(image) for image in images[i : i + 32]]) for i in range(0, len(images), 32)]
        return torch.cat([network(batch) for batch in batches])

    def of_split(split: str) -> tuple[list[Image.Image], Tensor]:
        photos = Photos.of_split(manifest, PROCESSED, split, info.classes)
        photos = photos.at(sample_by_class(photos.labels, given.photos))
        return [Image.open(path).convert("RGB") for path in photos.paths], photos.labels

    def cell(own: Any, other: Any) -> str:
        auroc = roc_auc_score([0] * len(own) + [1] * len(other), np.concatenate([own, other]))
        return f"{auroc:.4f} ({(other <= np.quantile(own, 0.95)).mean():.1%})"

    classifier, strangers = Classifier.load(given.checkpoint), pictures()
    (train_photos, labels), (val_photos, val_labels) = of_split("train"), of_split("val")
    train, val = features(train_photos), features(val_photos)
    known, held_back = labels != len(info.classes) - 1, val_labels == len(info.classes) - 1
    cases = {f"held back: {info.classes[-1]}": (train[known], labels[known], val[~held_back], val[held_back])}
    cases |= {name: (train, labels, val, features(images)) for name, images in strangers.items()}
    ordinary_scores = [one.ood_score for one in classifier.predict(val_photos)]
    rows = []
    for name, (learnt, of_class, ordinary, strange) in cases.items():
        rows.append([name])
        for score in METHODS.values():
            rows[-1].append(cell(*(score(learnt, of_class, photos).numpy() for photos in (ordinary, strange))))
        scores = np.array([one.ood_score for one in classifier.predict(strangers.get(name, []))])
        rows[-1].append(cell(ordinary_scores, scores) if len(scores) else "")  # it has seen all classes
    print(markdown(["", *METHODS, "the checkpoint's own"], rows))


if __name__ == "__main__":
    run_command(
        __doc__,
        compare,
        checkpoint={"type": Path, "default": Path("outputs/frozen"), "help": "whose network and classes"},
        photos={"type": int, "default": 1000, "help": "at most so many of a split"},
    )
