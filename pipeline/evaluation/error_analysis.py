"""Error analysis: galleries of mistakes, uncertain photos, label issues, near duplicates, nearest neighbours and Grad-CAM.

`photos` has a row for each test photo, in the order of the scores: `id`, `path` (of the stored photo), `class` and `group`.
"""

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor, nn

from pipeline.checkpoint import Preprocessing
from pipeline.data.dataset import Photos
from pipeline.data.transforms import evaluation_pixels, normalise
from pipeline.errors import PipelineError
from pipeline.evaluation.attribution import grad_cam, overlay
from pipeline.evaluation.figures import NAMES
from pipeline.evaluation.metrics import Scores
from pipeline.models.outputs import FeatureExtractor
from pipeline.training.features import nearest

# Photos shown: whole rows of the two, four or six columns of a gallery, a group of duplicates being two wide.
LEAST_CERTAIN, LABEL_ISSUES, DUPLICATE_GROUPS, SHOWN_OF_A_GROUP, EXPLAINED, NEIGHBOURS = 12, 24, 6, 3, 8, 3
FIRST_MISTAKES = "first mistakes of the fine-tuned checkpoint, then its most confident correct predictions."
SIDE = 320  # pixels, about twice what photos are shown at, for screens that show two pixels as one


class Picture(NamedTuple):
    """An image inside a page: `source` is a data address; width and height are in pixels; `label` may stand below."""

    source: str
    width: int
    height: int
    alternative: str
    label: str = ""


class Card(NamedTuple):
    """One or several pictures of one photo, a title and a note, and the confidence of its prediction in [0, 1]."""

    pictures: Sequence[Picture]
    title: str
    note: str
    confidence: float | None = None


class Gallery(NamedTuple):
    """Cards under a heading: a photo each, or a row of pictures each."""

    anchor: str
    title: str
    text: str
    cards: Sequence[Card]
    kind: Literal["photos", "rows"] = "photos"


class Confident(NamedTuple):
    """Photos of which the network is most confident, as it gets them."""

    indices: list[int]  # among the test photos
    pixels: np.ndarray  # (n, height, width, 3) uint8
    images: Tensor  # the same (n, 3, height, width), normalised


def galleries_of(scores: Scores, photos: pd.DataFrame, *, mistakes_shown: int) -> list[Gallery]:
    """The fine-tuned checkpoint's most confident mistakes, and its least confident predictions, right or wrong."""
    wrong = (
        f"The fine-tuned checkpoint is wrong on {len(scores.mistakes):,} of {len(photos):,} test photos. These are the wrong "
        "predictions with the highest confidence, which the bar shows. Either the model, the photo or the label is at fault."
    )
    if not len(scores.mistakes):
        wrong = f"The fine-tuned checkpoint is right on all {len(photos):,} test photos."
    doubtful = "The fine-tuned checkpoint’s least confident predictions. To label more photos, begin with ones like these."
    uncertain = np.argsort(scores.confidence, kind="stable")[:LEAST_CERTAIN]
    return [
        Gallery("mistakes", "The most confident mistakes", wrong, _cards(scores, photos, scores.mistakes[:mistakes_shown])),
        Gallery("uncertain", "The least certain", doubtful, _cards(scores, photos, uncertain)),
    ]


def label_issue_gallery(issues: pd.DataFrame, num_examined: int) -> Gallery:
    """The labels of all splits that deserve a second look, as `label_issues` gives them for photos with `split` too."""
    text = (
        f"{len(issues):,} of {num_examined:,} photos deserve a second look (confident learning): a head that was not fitted on "
        "them says another class, at a probability usual for that class. A weak backbone flags many right labels too."
    )
    cards = []
    for row in issues.head(LABEL_ISSUES).to_dict("records"):
        picture = embed(row["path"], f"Photo {row['id']}, labelled {row['class']}, or {row['likely']}?")
        note = f"{row['likely']} at {row['probability']:.1%} · {row['split']} · {row['id']}"
        cards.append(Card([picture], f"labelled {row['class']}", note))
    return Gallery("labels", "Label issues", text, cards)


def near_duplicates(photos: pd.DataFrame, duplicates: str) -> Gallery:
    """Test photos that show the same picture, as far as `preprocess.duplicates` says to look for them."""
    groups = [members for _, members in photos.groupby("group") if len(members) > 1]
    text = (
        f"{sum(map(len, groups)):,} of {len(photos):,} test photos show the same picture as another one, in {len(groups)} "
        f"group{'s' if len(groups) != 1 else ''}. "
    )
    if duplicates == "ignore":
        text += "Only equal pixels were looked for; near copies may lie in training too, and intervals count them one by one."
    else:
        text += "A group is never divided between splits, so none of them was trained on."
    if groups:
        text += (
            " Bootstrap intervals draw whole groups; Wilson’s intervals of proportions and McNemar’s test count photos one by "
            "one, and so are too confident where groups are large."
        )
    cards = []
    for members in groups[:DUPLICATE_GROUPS]:
        shown, count = members.head(SHOWN_OF_A_GROUP), len(members)
        pictures = [embed(path, f"Photo {photo}, one of {count} alike") for photo, path in shown[["id", "path"]].to_numpy()]
        labels = ", ".join(f"{number} × {label}" for label, number in Counter(members["class"]).items())
        cards.append(Card(pictures, labels, " · ".join(shown["id"])))
    return Gallery("duplicates", "Near duplicates", text, cards)


def grad_cam_gallery(
    scores: Mapping[str, Scores], photos: pd.DataFrame, models: Mapping[str, nn.Module], shown: Confident
) -> Gallery:
    """Grad-CAM of both checkpoints' networks on the most confident mistakes and correct predictions of the fine-tuned one."""
    chosen, pixels, batch = shown
    anchor, title, cards = "looks", "Where the models look", []
    try:
        heats = {name: grad_cam(model, batch, scores[name].predicted[chosen].tolist()) for name, model in models.items()}
    except PipelineError as error:
        return Gallery(anchor, title, f"Grad-CAM cannot show it for this network: {error}", [], "rows")
    text = (
        "Grad-CAM: the brighter a place, the more it spoke for the predicted class. Photos are cropped as the network gets "
        f"them: {FIRST_MISTAKES}"
    )
    for position, (index, row) in enumerate(zip(chosen, photos.iloc[chosen].to_dict("records"), strict=True)):
        crop = Image.fromarray(pixels[position])
        pictures = [embed(crop, f"Photo {row['id']}, labelled {row['class']}, as the network gets it", "photo")]
        for name, heat in heats.items():
            whose, predicted = NAMES[name].lower(), scores[name].predicted_names[index]
            alternative = f"Grad-CAM of photo {row['id']}: what spoke for {predicted} in the {whose} network"
            label = f"{whose}: {predicted} {scores[name].confidence[index]:.0%}"
            pictures.append(embed(overlay(crop, heat[position]), alternative, label))
        cards.append(Card(pictures, f"labelled {row['class']}", row["id"]))
    return Gallery(anchor, title, text, cards, "rows")


def nearest_neighbours(
    scores: Scores, photos: pd.DataFrame, model: nn.Module, shown: Confident, train: Photos, features: Path
) -> Gallery:
    """The photos of the Grad-CAM gallery, each beside those of `train` whose frozen features (in a file) are nearest."""
    with torch.inference_mode():
        found = nearest(FeatureExtractor(model)(shown.images), features, NEIGHBOURS)
    rows, cards = photos.iloc[shown.indices].to_dict("records"), []
    for index, row, similarities, places in zip(shown.indices, rows, *(part.tolist() for part in found), strict=True):
        label = f"predicted {scores.predicted_names[index]}"
        pictures = [embed(row["path"], f"Photo {row['id']}, labelled {row['class']}", label)]
        for similarity, place in zip(similarities, places, strict=True):
            label = f"{scores.classes[int(train.labels[place])]} {similarity:.2f}"
            pictures.append(embed(train.paths[place], f"Training photo {train.ids[place]}, similarity {label}", label))
        cards.append(Card(pictures, f"labelled {row['class']}", " · ".join([row["id"], *train.at(places).ids])))
    text = (
        "Photos, and the training photos whose frozen features are nearest, with labels and cosine similarity (1 is equal): "
        f"{FIRST_MISTAKES}"
    )
    return Gallery("neighbours", "Most like it in training", text, cards, "rows")


def embed(photo: Path | Image.Image, alternative: str, label: str = "") -> Picture:
    """A photo, made small, inside a page."""
    small = _opened(photo) if isinstance(photo, Path) else photo.copy()
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=78, optimize=True)
    source = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    return Picture(source, small.width, small.height, alternative, label)


def _cards(scores: Scores, photos: pd.DataFrame, indices: np.ndarray) -> list[Card]:
    cards = []
    for index, row in zip(indices, photos.iloc[indices].to_dict("records"), strict=True):
        actual, predicted, confidence = row["class"], scores.predicted_names[index], float(scores.confidence[index])
        alternative = f"Photo {row['id']}: labelled {actual}, predicted {predicted} at {confidence:.1%}"
        outcome = f"predicted {predicted}" if actual != predicted else "correct"
        note = f"{confidence:.1%} · {row['id']}"
        cards.append(Card([embed(row["path"], alternative)], f"{actual}, {outcome}", note, confidence))
    return cards


def most_confident(scores: Scores, photos: pd.DataFrame, preprocessing: Preprocessing) -> Confident:
    """The most confident mistakes, then the most confident correct predictions, a class in turn."""
    wrong = scores.mistakes[: EXPLAINED // 2].tolist()
    table = pd.DataFrame({"label": scores.labels, "confidence": scores.confidence})[scores.correct]
    table = table.sort_values("confidence", ascending=False, kind="stable")
    in_turn = table.groupby("label").cumcount().sort_values(kind="stable").index
    chosen = wrong + in_turn[: EXPLAINED - len(wrong)].tolist()
    transform = evaluation_pixels(preprocessing)
    pixels = np.stack([transform(_opened(path)) for path in photos["path"].iloc[chosen]])
    return Confident(chosen, pixels, normalise(torch.from_numpy(pixels), preprocessing).contiguous())


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def label_issues(photos: pd.DataFrame, scores: Scores) -> pd.DataFrame:
    """The candidates among photos, the least probable label first (Northcutt et al., Confident learning, JAIR 2021).

    A class's threshold is the mean probability of that class among the photos labelled so. A photo is a candidate where, of the
    classes whose thresholds it reaches, the most probable is not its label: it lies off the diagonal of the confident joint.
    Thresholds from the data make up for a model that is more confident of one class than of another.

    The scores are of models that were not fitted on the photo. Returned are the candidates' rows of `photos`, with the columns
    `likely` (that other class) and `probability` (of it).
    """
    labels, probabilities = scores.labels, scores.probabilities
    thresholds = np.array([probabilities[labels == index, index].mean() for index in range(len(scores.classes))])
    reached = np.where(probabilities >= thresholds, probabilities, -1.0)
    candidates = np.flatnonzero((reached.max(1) > 0) & (reached.argmax(1) != labels))
    candidates = candidates[np.argsort(probabilities[candidates, labels[candidates]], kind="stable")]
    likely = reached[candidates].argmax(1)
    names = np.array(scores.classes)[likely]
    return photos.iloc[candidates].assign(likely=names, probability=probabilities[candidates, likely])
