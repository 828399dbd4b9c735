"""The Hugging Face hub: a model card from measured numbers alone, the upload of an export, and a Space that shows it."""

import json
import re
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2
import huggingface_hub
import timm
from huggingface_hub import EvalResult, ModelCard, ModelCardData, SpaceCardData

from pipeline.checkpoint import MODEL_FILE, SEVERAL, BackboneInfo, CheckpointInfo
from pipeline.download.sources import HUB_DATASET
from pipeline.errors import PipelineError
from pipeline.files import public_name, read_json
from pipeline.models.backbone import HUB_PREFIX
from pipeline.progress import say

TEMPLATE, SPACE_APP = Path(__file__).with_name("model_card.md.j2"), Path(__file__).with_name("space_app.py")
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"  # without CUDA, which Spaces without a GPU would download in vain
LICENCES = {"none": "mit", "package": "apache-2.0"}  # of random weights, so of this project; of those from the package registry
# The hub's identifiers of licences (https://huggingface.co/docs/hub/repositories-licenses), as far as timm's weights have them,
# and the usual open ones. The hub refuses a card with any other, which it takes only as the name of an "other" licence.
IDENTIFIERS = re.compile(
    r"mit|isc|zlib|unlicense|openrail|gemma|apache-2\.0|mpl-2\.0|gpl-2\.0|lgpl-2\.1|[al]?gpl-3\.0|bsd-[23]-clause|cc0-1\.0|"
    r"cc-by(-sa|-nd|-nc|-nc-sa|-nc-nd)?-4\.0|apple-ascl|apple-amlr|fair-noncommercial-research-license"
)
# Files of an export, of which a later one may lack some: left there, they would go on being the old network.
NETWORKS = ("model.safetensors", "config.json", "model*.onnx", "openvino_model.*", "model.pt2", "model.pte")


def licence_of(backbone: BackboneInfo) -> str:
    """The licence of the weights that the network started from, in lower case.

    It is "" where nothing at hand states it, and where those of several backbones differ.
    """
    if backbone.parts:
        licences = {licence_of(part) for part in backbone.parts}
        return licences.pop() if len(licences) == 1 else ""
    if backbone.weights in LICENCES:
        return LICENCES[backbone.weights]
    if backbone.weights == "pretrained":
        config = timm.get_pretrained_cfg(backbone.name)
        return (config.license if config else None) or ""
    try:  # of a weights file, as a JSON of the same name
        return str(json.loads(Path(backbone.weights).with_suffix(".json").read_text(encoding="utf-8"))["licence"]).lower()
    except (OSError, ValueError, KeyError):
        return ""


def published(info: CheckpointInfo) -> CheckpointInfo:
    """What others may read of a checkpoint: weights files by their names alone, because paths are private."""
    parts = tuple(part.model_copy(update={"weights": public_name(part.weights)}) for part in info.backbone.parts)
    weights = SEVERAL.join(map(public_name, info.backbone.weights.split(SEVERAL)))
    backbone = info.backbone.model_copy(update={"weights": weights, "parts": parts})
    params = info.params | {"backbone": info.params["backbone"] | {"weights": weights}}
    return info.model_copy(update={"backbone": backbone, "params": params})


def metrics_of(info: CheckpointInfo, evaluation: Path) -> dict[str, Any] | None:
    """What `evaluate` measured of just these weights, with `num_test`; None where it was not run on them."""
    if not (file := evaluation / "metrics.json").is_file():
        return None
    content = read_json(file)
    for name in ("finetuned", "frozen"):
        if content.get(name, {}).get("model_sha256") == info.files[MODEL_FILE]:
            return content[name] | {"num_test": content["num_test"]}
    return None


def write_card(folder: Path, info: CheckpointInfo, metrics: Mapping[str, Any] | None, source: str, **facts: Any) -> None:
    """Write README.md: the model card, with the front matter that the hub reads.

    `metrics` are those of `metrics_of`, and `source` is `download.source`. `facts` are what else the template shows: `splits`,
    split -> photos; `near_groups`, of photos that look alike; `formats`, `left_out`, `compared_on` and `machine`.
    """
    licence, task = licence_of(info.backbone), "image-classification"
    dataset: dict[str, Any] = {"dataset_type": "image-folder", "dataset_split": "test"}
    dataset["dataset_name"] = f"test split {info.data.manifest[:12]}"
    results = [
        EvalResult(task_type=task, metric_type=key, metric_name=name, metric_value=metrics[key], **dataset)
        for key, name in (("accuracy", "Accuracy"), ("log_loss", "Log-loss"), ("roc_auc", "ROC-AUC"))
        if metrics is not None
    ]
    known, written = IDENTIFIERS.fullmatch(licence), {one["format"].split()[0].lower() for one in facts["formats"]}
    data = ModelCardData(
        license=licence if known else "other",
        license_name=None if known else re.sub(r"[^a-z0-9.]+", "-", licence).strip("-") or "unknown",
        library_name="timm" if "timm" in written else None,
        pipeline_tag=task,
        tags=[task, *sorted(written & {"timm", "onnx"}), "transfer-learning", info.backbone.name],
        datasets=[HUB_DATASET] if source in ("microsoft", "huggingface") else None,
        metrics=[result.metric_type for result in results] or None,
        model_name=f"{info.backbone.name} for {', '.join(info.classes)}",
        eval_results=results or None,
    )
    card = ModelCard.from_template(data, str(TEMPLATE), info=published(info), licence=licence, measured=metrics, **facts)
    card.save(folder / "README.md")


def refuse_unpushable(target: str | None, *, space: bool = False) -> None:
    """Raise a PipelineError, before any work, where the target is no hf-hub:OWNER/NAME, or there is no token or no Gradio."""
    if not re.fullmatch(rf"{HUB_PREFIX}[\w.-]+/[\w.-]+", target or ""):
        example = f"{HUB_PREFIX}OWNER/NAME, such as {HUB_PREFIX}someone/cats-and-dogs"
        raise PipelineError(f"--push {target}: write {example}." if target else f"--space goes with --push {example}.")
    if space and find_spec("gradio") is None:
        raise PipelineError("--space needs Gradio. Install it with: uv sync --inexact --extra page")
    if huggingface_hub.get_token() is None:
        hub = huggingface_hub.constants.ENDPOINT
        advice = f"Make one at {hub}/settings/tokens, then run `hf auth login` or set HF_TOKEN."
        raise PipelineError(f"--push {target} needs a token of {hub} that may write. {advice}")


def push(folder: Path, target: str, *, space: bool = False) -> None:
    """Make the repository unless it is there, and upload the folder in the place of an earlier export; likewise a Space.

    A PipelineError says that the hub cannot be reached or refuses, or the folder has not got what a Space loads.
    """
    name, hub = target.removeprefix(HUB_PREFIX), huggingface_hub.constants.ENDPOINT
    if space and not (folder / MODEL_FILE).exists():
        raise PipelineError("A Space loads the network with timm, in whose format this one cannot be: push it without --space.")
    say(f"uploading {folder} to {hub}/{name}, in the place of any earlier export there")
    huggingface_hub.utils.logging.set_verbosity_error()  # its retries end in the one message below
    huggingface_hub.utils.disable_progress_bars()
    api = huggingface_hub.HfApi(endpoint=hub)
    try:
        api.create_repo(name, exist_ok=True)
        done = [api.upload_folder(repo_id=name, folder_path=folder, commit_message="Export", delete_patterns=[*NETWORKS])]
        if space:
            with TemporaryDirectory() as written:
                write_space(Path(written), folder, name)
                api.create_repo(name, repo_type="space", space_sdk="gradio", exist_ok=True)
                done += [api.upload_folder(repo_id=name, repo_type="space", folder_path=written, commit_message="Page")]
    except (OSError, httpx2.HTTPError, RuntimeError, ValueError) as error:  # no network, a refusal, a failed file
        reason = " ".join(str(error.__cause__ or error).split()).rstrip(".")
        again = f"The export is whole in {folder}; run the command again to upload it."
        raise PipelineError(f"{hub} did not take {target}: {reason}. {again}") from None
    for commit in done:
        say(f"uploaded: {commit.commit_url}")


def write_space(space: Path, folder: Path, name: str) -> None:
    """Write a Space that shows the export of a folder, once that is OWNER/NAME on the hub: app.py, requirements, README.md."""
    card = ModelCard.load(folder / "README.md").data
    shown = {"title": card.model_name[:100], "models": [name], "license": card.license}
    data = SpaceCardData(sdk="gradio", sdk_version=version("gradio"), app_file="app.py", **shown)
    (space / "README.md").write_text(f"---\n{data.to_yaml()}\n---\n", encoding="utf-8")
    app = SPACE_APP.read_text(encoding="utf-8").replace(f"{HUB_PREFIX}OWNER/NAME", f"{HUB_PREFIX}{name}")
    (space / "app.py").write_text(app, encoding="utf-8")
    pinned = [f"{library}=={version(library).split('+')[0]}" for library in ("timm", "torch", "torchvision")]
    (space / "requirements.txt").write_text("\n".join([f"--extra-index-url {CPU_WHEELS}", *pinned, ""]), encoding="utf-8")
