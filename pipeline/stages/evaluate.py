"""Stage 5, evaluate: both checkpoints on the test photos, which are read here and nowhere else, in outputs/evaluation.

Run it with `dvc repro evaluate`, or bare with `python -m pipeline evaluate`. Settings: `evaluate` in params.yaml. Out come
metrics.json, predictions.csv, label_issues.csv, the points of the curves, mistakes.png and report.html, one page that tells
all of it. Nothing is written before everything is computed.
"""

import csv
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.checkpoint import CheckpointInfo, read_info, read_model_state, refuse_other_data
from pipeline.data.contact_sheet import contact_sheet
from pipeline.data.dataset import Photos, data_fingerprints
from pipeline.data.manifest import classes_of, read_manifest
from pipeline.errors import PipelineError
from pipeline.evaluation import showcase, tables
from pipeline.evaluation.assessment import Assessment, assess
from pipeline.evaluation.label_issues import Found, hold_against, label_issues
from pipeline.evaluation.metrics import Scores, score
from pipeline.evaluation.predictions import predict
from pipeline.evaluation.provenance import made_from
from pipeline.evaluation.report import Report, render_report
from pipeline.files import read_json, sha256_of, write_json
from pipeline.models.backbone import rebuild
from pipeline.params import PARAMS_FILE, Params
from pipeline.paths import EVALUATION, FINETUNED, FROZEN, METRICS, OUT_OF_FOLD, PLOTS, PROCESSED
from pipeline.progress import say
from pipeline.runtime import machine_name, resolve_runtime

CHECKPOINTS = {"frozen": FROZEN, "finetuned": FINETUNED}
EARLIER_STAGES = ("download", "preprocess", "train-frozen-backbone", "unfreeze-finetune")


def run(params: Params) -> None:
    """Predict every test photo with both checkpoints and tell what the predictions are worth, side by side."""
    started = time.monotonic()
    confidence_level = params.evaluate.confidence_level
    manifest = read_manifest(PROCESSED)
    classes = classes_of(manifest)
    infos = {name: read_info(folder) for name, folder in CHECKPOINTS.items()}
    for name, info in infos.items():
        refuse_other_data(info, CHECKPOINTS[name], classes, data_fingerprints(manifest))
    runtime = resolve_runtime(params.runtime)
    test = Photos.of_split(manifest, PROCESSED, "test", classes)
    _refuse_poor(test, classes)
    models = {name: rebuild(info, read_model_state(CHECKPOINTS[name])).eval() for name, info in infos.items()}
    predictions = predict(models, infos, test, runtime, mirrored=params.evaluate.test_time_augmentation)

    labels = test.labels.numpy()
    photos = manifest.set_index("id", drop=False).loc[list(test.ids)].reset_index(drop=True)
    photos = photos.assign(path=pd.Series(list(test.paths)), **predictions.measured)
    temperatures = {name: _recorded(name, info, "temperature") for name, info in infos.items()}
    kept_share, epochs = _recorded("finetuned", infos["finetuned"], "share"), _epochs()
    assessment = assess(photos, labels, predictions.probabilities, temperatures, confidence_level=confidence_level)
    mirrored = {name: score(labels, values, confidence_level=confidence_level) for name, values in predictions.mirrored.items()}
    kept, unseen, candidates, found = _suspect(manifest, photos, classes, assessment)
    machine = machine_name(runtime.device, runtime.threads)
    num_parameters = sum(parameter.numel() for parameter in models["finetuned"].parameters())
    facts = {stage: read_json(METRICS / f"{stage}.json") for stage in EARLIER_STAGES}

    fresh = EVALUATION.with_name(f".{EVALUATION.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    tables.write_predictions(photos, classes, assessment, fresh / "predictions.csv")
    tables.write_suspected(kept, unseen, candidates, classes, fresh / "label_issues.csv")
    tables.write_curves(assessment, fresh)
    _picture_mistakes(photos, classes, assessment, params.evaluate.mistakes_shown, fresh / "mistakes.png")
    metrics = assessment.metrics() | {"label_issues": {"candidates": found.candidates, "recall": found.recall}}
    if mirrored:
        metrics["test_time_augmentation"] = {name: vars(scores) for name, scores in mirrored.items()}
    write_json(fresh / "metrics.json", metrics)
    report = Report(
        assessment=assessment,
        mirrored=mirrored,
        classes=classes,
        note=infos["finetuned"].note,
        epochs=epochs,
        best_epoch=infos["finetuned"].epoch,
        kept_share=kept_share,
        galleries=[
            showcase.mistakes(assessment, photos, classes, count=params.evaluate.mistakes_shown),
            showcase.least_certain(assessment, photos, classes),
            showcase.suspected_labels(kept, unseen, candidates, found, classes),
            showcase.near_duplicates(photos),
            showcase.where_models_look(assessment, photos, classes, models, infos["frozen"].preprocessing),
        ],
        made=made_from(manifest, infos, facts, num_parameters=num_parameters, machine=machine),
        settings=PARAMS_FILE.read_text(encoding="utf-8"),
        predictions_sha256=sha256_of(fresh / "predictions.csv"),
    )
    (fresh / "report.html").write_text(render_report(report), encoding="utf-8")
    _put_in_place(fresh)
    seconds = {"seconds": time.monotonic() - started}
    write_json(METRICS / "evaluate.json", {"num_parameters": num_parameters, "machine": machine} | seconds)
    for name, result in assessment.scores.items():
        say(_sentence(name, result, confidence_level))
    if infos["finetuned"].note:
        say(infos["finetuned"].note)
    say(f"the whole report: {EVALUATION / 'report.html'}")


def _refuse_poor(test: Photos, classes: tuple[str, ...]) -> None:
    """Stop where a class has no test photo: what cannot be scored need not be predicted."""
    present = {classes[index] for index in test.labels.tolist()}
    missing = [name for name in classes if name not in present]
    if missing:
        raise PipelineError(
            f"The test split holds {len(test)} photos, none of them of {', '.join(missing)}, so there is nothing to score by. "
            "Store the photos anew with: dvc repro --force preprocess"
        )


def _recorded(name: str, info: CheckpointInfo, metric: str) -> float:
    value = info.metrics.get(metric)
    if value is None:
        raise PipelineError(f"{CHECKPOINTS[name]} was saved without a {metric}. Make it again with: dvc repro")
    return value


def _suspect(
    manifest: pd.DataFrame, photos: pd.DataFrame, classes: tuple[str, ...], assessment: Assessment
) -> tuple[pd.DataFrame, np.ndarray, np.ndarray, Found]:
    """All kept photos, what a head that does not know them says of them, the suspected among them, and the ledger's word."""
    try:
        unseen = pd.read_csv(OUT_OF_FOLD, dtype={"id": str}, keep_default_na=False).set_index("id")[list(classes)]
    except (FileNotFoundError, KeyError, ValueError) as error:
        raise PipelineError(f"{OUT_OF_FOLD} cannot be used ({error}). Make it again with: dvc repro") from None
    # The frozen head was fitted on training photos alone: of test photos it speaks out of fold as it is.
    of_test = pd.DataFrame(assessment.probabilities["frozen"], photos["id"], list(classes))
    kept = manifest[manifest["split"] != ""].sort_values("id", ignore_index=True)
    probabilities = pd.concat([unseen, of_test]).reindex(kept["id"]).to_numpy()
    if not np.isfinite(probabilities).all():
        raise PipelineError(f"{OUT_OF_FOLD} is of other photos than {PROCESSED}. Make it again with: dvc repro")
    images = PROCESSED / "images"
    places = zip(kept["split"], kept["class"], kept["id"], strict=True)
    kept = kept.assign(path=[images / split / name / f"{photo}.jpg" for split, name, photo in places])
    candidates = label_issues(kept["class"].map(classes.index).to_numpy(), probabilities)
    return kept, probabilities, candidates, hold_against(kept["doubt"].to_numpy(), candidates)


def _picture_mistakes(photos: pd.DataFrame, classes: tuple[str, ...], assessment: Assessment, count: int, file: Path) -> None:
    """The wrong predictions that the fine-tuned checkpoint was surest of."""
    predicted, confidence = assessment.predicted("finetuned"), assessment.confidence("finetuned")
    wrong = assessment.wrong("finetuned")
    shown = [
        (photos["path"].iloc[i], f"{photos['id'].iloc[i]}\n{classes[predicted[i]]} {confidence[i]:.1%}")
        for i in wrong[:count].tolist()
    ]
    title = f"{len(wrong)} of {len(photos)} test photos wrong after fine-tuning; the most confident ones"
    contact_sheet(shown, file, title=title)


def _epochs() -> list[dict[str, float | None]]:
    """The course of fine-tuning; what an epoch does not have is None."""
    file = PLOTS / "epochs.csv"
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            return [{key: float(value) if value else None for key, value in row.items()} for row in csv.DictReader(lines)]
    except (FileNotFoundError, ValueError) as error:
        raise PipelineError(f"{file} cannot be used ({error}). Make it again with: dvc repro") from None


def _put_in_place(fresh: Path) -> None:
    """Move what is whole over what was there, file by file: DVC keeps a file of its own in the same folder."""
    EVALUATION.mkdir(parents=True, exist_ok=True)
    for file in sorted(fresh.iterdir()):
        os.replace(file, EVALUATION / file.name)
    fresh.rmdir()


def _sentence(name: str, scores: Scores, confidence_level: float) -> str:
    interval = f"{scores.accuracy_low:.2%} to {scores.accuracy_high:.2%} at {confidence_level:.0%}"
    return f"{name}: accuracy {scores.accuracy:.2%} ({interval}), log-loss {scores.log_loss:.4f}, ROC-AUC {scores.roc_auc:.4f}"
