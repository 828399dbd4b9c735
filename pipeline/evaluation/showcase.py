"""Which photos a report shows, and what it says of them: mistakes, doubts, suspected labels, duplicates, where the model looks.

galleries = [mistakes(assessment, photos, classes, count=24), least_certain(assessment, photos, classes)]

`photos` is a table with a row for each test photo, in the order of the assessment's arrays: `id`, `path` (of the stored photo),
`class`, `doubt` and `group`.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from torch import nn

from pipeline.checkpoint import Preprocessing
from pipeline.errors import PipelineError
from pipeline.evaluation.assessment import Assessment
from pipeline.evaluation.gallery import Card, Gallery, embedded, heat_pictures
from pipeline.evaluation.label_issues import Found

LEAST_CERTAIN = 12
SUSPECTED = 18
DUPLICATE_GROUPS = 6
SHOWN_OF_A_GROUP = 3
LOOKED_AT = 8


def mistakes(assessment: Assessment, photos: pd.DataFrame, classes: tuple[str, ...], *, count: int) -> Gallery:
    """The photos that the fine-tuned checkpoint gets wrong and is surest of."""
    wrong = assessment.wrong("finetuned")
    text = (
        f"The fine-tuned checkpoint gets {len(wrong)} of {len(photos)} test photos wrong. These it was surest of; the bar is "
        "its confidence. What is wrong here is the model, the photo or the label."
    )
    return Gallery("mistakes", "The most confident mistakes", text, _predicted(assessment, photos, classes, wrong[:count]))


def least_certain(assessment: Assessment, photos: pd.DataFrame, classes: tuple[str, ...]) -> Gallery:
    """The photos that the fine-tuned checkpoint is least sure of, right or wrong."""
    order = np.argsort(assessment.confidence("finetuned"), kind="stable")[:LEAST_CERTAIN]
    text = (
        "The photos on which the fine-tuned checkpoint could hardly decide. To label more photos, begin with ones like these."
    )
    return Gallery("uncertain", "The least certain", text, _predicted(assessment, photos, classes, order))


def suspected_labels(
    kept: pd.DataFrame, probabilities: np.ndarray, candidates: np.ndarray, found: Found, classes: tuple[str, ...]
) -> Gallery:
    """The photos of all splits whose labels deserve a second look.

    Args:
        kept: a row a photo, as above, with `split`.
        probabilities: (n, classes), out of fold.
        candidates: rows of `kept`, the most suspicious first.
        found: how they compare with the ledger.
        classes: names.
    """
    text = (
        f"Confident learning suspects {found.candidates:,} of {found.examined:,} labels: by a head on frozen features that "
        "was fitted without the photo, these photos are surely of another class. "
    )
    if found.recall is None:
        text += "No ledger of known doubts speaks of these photos, so nothing tells how many it should have found."
    else:
        kinds = ", ".join(f"{hits} of {named} {kind}" for kind, (hits, named) in found.by_kind.items())
        text += f"Of {found.doubted} labels that people's own lists doubt it finds {found.found} ({found.recall:.0%}): {kinds}."
    cards = []
    for index in candidates[:SUSPECTED]:
        row, likely = kept.iloc[index], classes[int(probabilities[index].argmax())]
        alternative = f"Photo {row['id']}, labelled {row['class']}, probably {likely}"
        note = f"{likely} at {probabilities[index].max():.1%} · {row['split']} · {row['id']}"
        picture = embedded(row["path"], alternative)
        cards.append(Card((picture,), f"labelled {row['class']}", note, flag=_flag(row["doubt"])))
    return Gallery("labels", "Labels to look at again", text, cards)


def near_duplicates(photos: pd.DataFrame) -> Gallery:
    """Test photos that show the same picture."""
    sizes = photos["group"].value_counts()
    shared = sizes[sizes > 1]
    text = (
        f"{int(shared.sum())} of {len(photos)} test photos show the same picture as another one, in {len(shared)} "
        f"group{'s' if len(shared) != 1 else ''}. A group never lies in two splits, so none of them was trained on."
    )
    cards = []
    for group in sorted(shared.index)[:DUPLICATE_GROUPS]:
        members = photos[photos["group"] == group].head(SHOWN_OF_A_GROUP)
        pictures = tuple(
            embedded(path, f"Photo {photo}, one of {shared[group]} alike") for photo, path in members[["id", "path"]].to_numpy()
        )
        cards.append(Card(pictures, f"{shared[group]} × {members['class'].iloc[0]}", " · ".join(members["id"])))
    return Gallery("duplicates", "Near-duplicates", text, cards)


def where_models_look(
    assessment: Assessment,
    photos: pd.DataFrame,
    classes: tuple[str, ...],
    models: dict[str, nn.Module],
    preprocessing: Preprocessing,
) -> Gallery:
    """Grad-CAM of both checkpoints on a few mistakes, and on as many photos that are surely right."""
    chosen = _to_look_at(assessment, classes)
    predicted = {name: assessment.predicted(name)[chosen].tolist() for name in models}
    title, anchor = "Where the models look", "looks"
    try:
        shown = heat_pictures(models, [photos["path"].iloc[index] for index in chosen], predicted, preprocessing)
    except PipelineError as error:
        return Gallery(anchor, title, f"Grad-CAM cannot tell for this network: {error}", [], "heat")
    text = (
        "Grad-CAM: the brighter, the more the place spoke for the class that the checkpoint chose. The photo is cropped as the "
        "network sees it. First mistakes of the fine-tuned checkpoint, then photos that it is surely right on."
    )
    cards = []
    for index, pictures in zip(chosen, shown, strict=True):
        actual, photo = photos["class"].iloc[index], photos["id"].iloc[index]
        parts = [embedded(pictures["photo"], f"Photo {photo}, a {actual}, as the network sees it", "photo")]
        for name in models:
            said = classes[int(assessment.predicted(name)[index])]
            confidence = assessment.confidence(name)[index]
            alternative = f"Heat over photo {photo}: where the {_plain(name)} network saw its choice, {said}"
            parts.append(embedded(pictures[name], alternative, f"{_plain(name)}: {said} {confidence:.0%}"))
        cards.append(Card(tuple(parts), f"a {actual}", photo))
    return Gallery(anchor, title, text, cards, "heat")


def _predicted(
    assessment: Assessment, photos: pd.DataFrame, classes: tuple[str, ...], indices: Sequence[int] | np.ndarray
) -> list[Card]:
    cards = []
    for index in indices:
        row, confidence = photos.iloc[index], float(assessment.confidence("finetuned")[index])
        actual, said = row["class"], classes[int(assessment.predicted("finetuned")[index])]
        title = f"{actual}, taken for {said}" if actual != said else f"{actual}, rightly"
        alternative = f"Photo {row['id']}: labelled {actual}, predicted {said} at {confidence:.1%}"
        note = f"{confidence:.1%} · {row['id']}"
        cards.append(Card((embedded(row["path"], alternative),), title, note, confidence, _flag(row["doubt"])))
    return cards


def _to_look_at(assessment: Assessment, classes: tuple[str, ...]) -> list[int]:
    """The surest mistakes and, a class in turn, the photos that are surely right."""
    wrong = assessment.wrong("finetuned")[: LOOKED_AT // 2].tolist()
    right = np.flatnonzero(assessment.predicted("finetuned") == assessment.labels)
    surest = right[np.argsort(-assessment.confidence("finetuned")[right], kind="stable")]
    # How many of its own class lie before each photo: all classes' first ones come before anybody's second.
    place = pd.Series(assessment.labels[surest]).groupby(assessment.labels[surest]).cumcount().to_numpy()
    in_turn = surest[np.argsort(place, kind="stable")]
    return wrong + in_turn[: LOOKED_AT - len(wrong)].tolist()


def _flag(doubt: str) -> str:
    return f"known doubt: {doubt}" if doubt else ""


def _plain(name: str) -> str:
    return {"finetuned": "fine-tuned"}.get(name, name)
