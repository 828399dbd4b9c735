"""Shapes: a head solved on photos of one shape and tested on another's, by backbone and crop, both ways.

    uv run python benchmarks/shapes.py --first petimages-180px.zip --second petimages-originals.zip --photos 2000

Squeezed copies of a data set hide what counts for photos of their own shape. Both archives hold the same set, so photos of
`--second` are left out of `--first` by their ids. Features are frozen; four fifths of one archive's photos are learnt from, the
strength is chosen on the rest, and the table has the log-loss (and accuracy) on the other archive and on that rest.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import PROJECT, new_log, resolved, run_command, run_stage
from torch import Tensor
from torch.nn.functional import cross_entropy

from pipeline.data.dataset import Photos
from pipeline.data.manifest import classes_of, read_manifest
from pipeline.models.backbone import create_backbone
from pipeline.models.outputs import FeatureExtractor
from pipeline.params import change_params
from pipeline.reproduce import clone_project, markdown
from pipeline.training.features import backend_for, evaluation, run_inference
from pipeline.training.probe import Labelled, fit_probe

CROPS = ("model", "squash", "pad")
HEAD = ("backbone", "crop", "first: held out", "first to second", "second: held out", "second to first")
STORED_SIZE = 320  # enough for all backbones here, so that photos are stored once


def prepared(source: str, clone: Path, log: Path) -> Photos:
    """All photos of an archive as `preprocess` stores them, ordered by id; splits do not matter here."""
    changes = {"download.source": str(Path(source).resolve()), "preprocess.stored_size": STORED_SIZE}
    change_params(clone_project(PROJECT, clone) / "params.yaml", changes)
    for stage in ("inputs", "download", "preprocess"):
        run_stage(stage, clone, log)
    processed = clone / "data/processed"
    manifest = read_manifest(processed)
    parts = [Photos.of_split(manifest, processed, split, classes_of(manifest)) for split in ("train", "val", "test")]
    ids, paths, groups = (sum((getattr(part, name) for part in parts), ()) for name in ("ids", "paths", "groups"))
    whole = Photos(ids, paths, torch.cat([part.labels for part in parts]), groups)
    return whole.at(sorted(range(len(ids)), key=ids.__getitem__))


def some(photos: Photos, count: int, without: frozenset[str] = frozenset()) -> Photos:
    """`count` photos, evenly from all, in an order in which every fifth may be held out."""
    places = [place for place, photo in enumerate(photos.ids) if photo not in without]
    chosen = np.linspace(0, len(places) - 1, min(count, len(places))).round().astype(int)
    return photos.at([places[number] for number in chosen])


def features_of(photos: Photos, backbone: str, weights: str, crop: str) -> Tensor:
    """(n, width)."""
    network, runtime = create_backbone(backbone, weights, crop=crop), resolved()
    extractor = FeatureExtractor(network.model).eval()
    backend = backend_for(extractor, photos, network.preprocessing, choice="auto", runtime=runtime, float32=False)
    transform = evaluation(network.preprocessing)
    return run_inference(backend.run, photos, transform, runtime=runtime, description=f"{backbone}, {crop}")[0].tensor()


def scored(learnt: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> list[str]:
    """Log-loss and accuracy on photos of the same archive that were held out, and on the other archive."""
    (features, labels), held_out = learnt, torch.arange(len(learnt[1])) % 5 == 4
    probe = fit_probe(Labelled(features[~held_out], labels[~held_out]), Labelled(features[held_out], labels[held_out]))
    cells = []
    for some_features, some_labels in ((features[held_out], labels[held_out]), other):
        logits = probe.logits(some_features).double()
        accuracy = (logits.argmax(1) == some_labels).double().mean().item()
        cells.append(f"{cross_entropy(logits, some_labels).item():.4f} ({accuracy:.2%})")
    return cells


def measure(given: argparse.Namespace) -> None:
    """Print the table."""
    log = new_log("shapes")
    with tempfile.TemporaryDirectory() as folder:
        first, second = (prepared(getattr(given, name), Path(folder) / name, log) for name in ("first", "second"))
        second = some(second, given.photos)
        first = some(first, given.photos, frozenset(second.ids))
        rows = []
        for backbone in given.backbones:
            for crop in CROPS:
                of_first, of_second = ((features_of(one, backbone, given.weights, crop), one.labels) for one in (first, second))
                rows.append((backbone, crop, *scored(of_first, of_second), *scored(of_second, of_first)))
        print(f"{len(first):,} photos of {Path(given.first).name}, {len(second):,} of {Path(given.second).name}")
        print(markdown(HEAD, rows))


if __name__ == "__main__":
    run_command(
        __doc__,
        measure,
        first={"required": True, "help": "an archive"},
        second={"required": True, "help": "another of the same set, in another shape"},
        backbones={"nargs": "+", "default": ["tf_efficientnet_lite0"]},
        weights={"default": "package"},
        photos={"type": int, "default": 2000, "help": "of each"},
    )
