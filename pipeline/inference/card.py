"""The model card of an export: README.md with the front matter that the Hugging Face hub reads, from measured numbers alone."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import timm
from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.checkpoint import MODEL_FILE, BackboneInfo, CheckpointInfo
from pipeline.files import read_json
from pipeline.inference.quantised import Cost

TEMPLATE = "model_card.md.j2"
# The stage that wrote a checkpoint -> what metrics.json calls it.
EVALUATED_AS = {"train-frozen-backbone": "frozen", "unfreeze-finetune": "finetuned"}
OWN_LICENCE = "mit"


@dataclass(frozen=True)
class Card:
    """What a card tells; `checked` are forms with a `form`, `files`, `deviation` and `tolerance`, `scores` None if unknown."""

    info: CheckpointInfo
    licence: str
    photos: int
    checked: Sequence[Any]
    left_out: Mapping[str, str]
    costs: Sequence[Cost]
    scores: Mapping[str, Any] | None


def licence_of(backbone: BackboneInfo) -> str:
    """The licence of the weights that the network started from, as the hub writes it; "" where nothing at hand tells."""
    if backbone.weights == "none":
        return OWN_LICENCE
    if backbone.weights == "pretrained":
        config = timm.get_pretrained_cfg(backbone.name)
        return (config.license if config else None) or ""
    beside = Path(backbone.weights).with_suffix(".json")
    try:
        return str(json.loads(beside.read_text(encoding="utf-8")).get("licence", "")).lower()
    except (OSError, ValueError):
        return ""


def measured_on_test(info: CheckpointInfo, evaluation: Path) -> dict[str, Any] | None:
    """What `evaluate` measured of just these weights, with `num_test`; None where it was not run on them.

    The report beside the metrics names the weights that both are of.
    """
    report, metrics = evaluation / "report.html", evaluation / "metrics.json"
    if not (report.is_file() and info.files[MODEL_FILE] in report.read_text(encoding="utf-8")):
        return None
    content = read_json(metrics)
    return content[EVALUATED_AS[info.stage]] | {"num_test": content["num_test"]}


def write_card(card: Card, manifest: pd.DataFrame, folder: Path) -> None:
    """Write README.md.

    Args:
        card: what to tell.
        manifest: of all photos that the network was made from and tested on.
        folder: of the export.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    counts = manifest["split"].value_counts()
    text = environment.get_template(TEMPLATE).render(
        card=card,
        info=card.info,
        front_matter=_front_matter(card),
        splits={split: int(counts.get(split, 0)) for split in ("train", "val", "test")},
        files=[name for form in card.checked for name in form.files],
        temperature=card.info.metrics.get("temperature", 1.0),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def _front_matter(card: Card) -> str:
    """The YAML that the hub reads: https://huggingface.co/docs/hub/model-cards."""
    results = None
    if card.scores is not None:
        results = [
            EvalResult(
                task_type="image-classification",
                task_name="Image classification",
                dataset_type="cats-and-dogs",
                dataset_name=f"test split {card.info.data.manifest[:12]}",
                dataset_split="test",
                metric_type=key,
                metric_name=name,
                metric_value=card.scores[key],
            )
            for key, name in (("accuracy", "Accuracy"), ("log_loss", "Log-loss"), ("roc_auc", "ROC-AUC"))
        ]
    data = ModelCardData(
        license=card.licence or "other",
        license_name=None if card.licence else "unknown",
        library_name="timm",
        pipeline_tag="image-classification",
        tags=["image-classification", "timm", "transfer-learning", "onnx", card.info.backbone.name],
        metrics=["accuracy"],
        model_name=f"{card.info.backbone.name} for {', '.join(card.info.classes)}",
        eval_results=results,
    )
    return data.to_yaml()
