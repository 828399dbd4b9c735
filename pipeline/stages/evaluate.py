"""Stage 5, evaluate: both checkpoints on the test photos, which no other stage reads, in outputs/evaluation.

Run it with `dvc repro evaluate`, or bare with `python -m pipeline evaluate`. Settings: `evaluate` in params.yaml. It writes
metrics.json, predictions.csv, label_issues.csv, the points of the curves, mistakes.png and report.html, and all of them only
once everything is computed. How long it took, and where, is written to outputs/seconds/evaluate.json.
"""

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline.checkpoint import MODEL_FILE, CheckpointInfo, DataFingerprints, read_info, read_model_state, refuse_other_data
from pipeline.data.contact_sheet import contact_sheet
from pipeline.data.dataset import Photos, data_fingerprints
from pipeline.data.manifest import classes_of, fingerprint, read_manifest
from pipeline.errors import PipelineError
from pipeline.evaluation import error_analysis
from pipeline.evaluation.error_analysis import label_issues
from pipeline.evaluation.metrics import Scores, compare
from pipeline.evaluation.predictions import predict
from pipeline.evaluation.report import Report, provenance, render_report
from pipeline.evaluation.slices import accuracy_by_slice
from pipeline.files import read_json, sha256_of, write_csv, write_json
from pipeline.models.backbone import rebuild
from pipeline.params import Params, settings_sha256
from pipeline.paths import EPOCHS, EVALUATION, FINETUNED, FROZEN, METRICS, OUT_OF_FOLD, PROCESSED, SECONDS, TRAIN_FEATURES
from pipeline.progress import say
from pipeline.runtime import machine_name, processor_fingerprint, resolve_runtime
from pipeline.training.probe import SMALLEST, read_out_of_fold
from pipeline.training.selection import class_weight, fit_temperature

CHECKPOINTS = {"frozen": FROZEN, "finetuned": FINETUNED}


def run(params: Params) -> None:
    """Predict every test photo with both checkpoints, and score, compare and show the predictions."""
    started = time.monotonic()
    manifest = read_manifest(PROCESSED)
    classes = classes_of(manifest)
    infos = _read_infos(classes, data_fingerprints(manifest))
    epochs = _read_epochs()
    runtime = resolve_runtime(params.runtime)
    splits = {split: Photos.of_split(manifest, PROCESSED, split, classes) for split in ("train", "val", "test")}
    test = splits["test"]
    if missing := [name for index, name in enumerate(classes) if index not in test.labels]:
        raise PipelineError(
            f"The test split holds {len(test)} photos, none of them of {', '.join(missing)}, so there is nothing to score by. "
            "Store the photos anew with: dvc repro --force preprocess"
        )
    models = {name: rebuild(infos[name], read_model_state(folder)).eval() for name, folder in CHECKPOINTS.items()}

    probabilities, measured = predict(models, infos, test, runtime)
    labels, level = test.labels.numpy(), params.evaluate.confidence_level
    scores = {name: Scores(labels, of_photos, classes, level) for name, of_photos in probabilities.items()}
    used = manifest[manifest["split"] != ""].sort_values("id", ignore_index=True)
    used["path"] = used["id"].map({photo: path for of in splits.values() for photo, path in zip(of.ids, of.paths, strict=True)})
    photos = used[used["split"] == "test"].reset_index(drop=True).assign(**measured)
    # The heads that were fitted on folds are linear: what an MLP says of test photos is no part of the same score.
    examined = used if infos["frozen"].solved else used[used["split"] != "test"]
    weight = class_weight(params.head.class_weight, splits["train"].labels)
    cross_validated = _cross_validated(examined, scores["frozen"], weight)
    issues = label_issues(examined, cross_validated)
    num_parameters = sum(parameter.numel() for parameter in models["finetuned"].parameters())

    fresh = EVALUATION.with_name(f".{EVALUATION.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    _write_tables(fresh, photos, scores, issues)
    _picture_mistakes(photos, scores["finetuned"], params.evaluate.mistakes_shown, fresh / "mistakes.png")
    shown = error_analysis.most_confident(scores["finetuned"], photos, infos["finetuned"].preprocessing)
    report = Report(
        scores=scores,
        comparison=compare(scores["frozen"], scores["finetuned"], photos["group"].tolist()),
        cross_validated=cross_validated,
        slices=accuracy_by_slice(photos, scores),
        infos=infos,
        epochs=epochs,
        galleries=[
            *error_analysis.galleries_of(scores["finetuned"], photos, mistakes_shown=params.evaluate.mistakes_shown),
            error_analysis.label_issue_gallery(issues, len(examined)),
            error_analysis.near_duplicates(photos, params.preprocess.duplicates),
            error_analysis.grad_cam_gallery(scores, photos, models, shown),
            error_analysis.nearest_neighbours(
                scores["finetuned"], photos, models["frozen"], shown, splits["train"], TRAIN_FEATURES
            ),
        ],
        provenance=provenance(manifest, infos, num_parameters, read_json(METRICS / "download.json")),
        params=params,
        predictions_sha256=sha256_of(fresh / "predictions.csv"),
    )
    (fresh / "report.html").write_text(render_report(report), encoding="utf-8")
    facts = {"num_test": len(test), "test_fingerprint": fingerprint(manifest, "test"), "num_parameters": num_parameters}
    # DVC shows metrics beside a params.yaml that may have been changed since.
    facts |= {"val_fingerprint": infos["frozen"].data.val, "settings_sha256": settings_sha256(params)}
    write_json(fresh / "metrics.json", facts | _metrics(report, num_label_issues=len(issues)))
    EVALUATION.mkdir(parents=True, exist_ok=True)
    for file in fresh.iterdir():  # one by one: DVC keeps a file of its own in the same folder
        os.replace(file, EVALUATION / file.name)
    fresh.rmdir()
    machine = {"machine": machine_name(runtime.device, runtime.threads), "processor": processor_fingerprint()}
    write_json(SECONDS / "evaluate.json", {"seconds": time.monotonic() - started, **machine})
    _say_scores(scores, infos["finetuned"].note)


def _read_infos(classes: tuple[str, ...], data: DataFingerprints) -> dict[str, CheckpointInfo]:
    """Both checkpoints' descriptions, refused where they are of other photos."""
    infos = {}
    for name, folder in CHECKPOINTS.items():
        infos[name] = read_info(folder)
        refuse_other_data(infos[name], folder, classes, data)
    frozen, finetuned = infos.values()
    if (frozen.backbone, frozen.preprocessing) != (finetuned.backbone, finetuned.preprocessing):
        raise PipelineError(f"{FINETUNED} was not made from {FROZEN}: their backbones differ. Make both again with: dvc repro")
    return infos


def _say_scores(scores: Mapping[str, Scores], note: str) -> None:
    for name, one in scores.items():
        low, high = one.accuracy_interval
        interval = f"{low:.2%} to {high:.2%} at {100 * one.confidence_level:.4g}%"
        say(f"{name}: accuracy {one.metrics['accuracy']:.2%} ({interval}), log-loss {one.metrics['log_loss']:.4f}")
    if note:
        say(note)
    say(f"the whole report: {EVALUATION / 'report.html'}")


def _metrics(report: Report, num_label_issues: int) -> dict[str, Any]:
    """Both checkpoints' metrics, with what experiments are ranked by and what the weights are known by."""
    metrics: dict[str, Any] = {}
    for name, info in report.infos.items():
        recorded = {metric: info.metrics[metric] for metric in ("val_accuracy", "val_log_loss")}
        metrics[name] = report.scores[name].as_dict() | recorded | {"model_sha256": info.files[MODEL_FILE]}
    metrics["ood"] = {metric: report.infos["frozen"].metrics[metric] for metric in ("ood_auroc", "ood_fpr95")}
    metrics["unfreezing"] = report.comparison.as_dict() | {"alpha": report.alpha}
    crossed = report.cross_validated.as_dict() | {"photos": len(report.cross_validated.labels)}
    metrics["cross_validated"] = {
        key: crossed[key] for key in ("accuracy", "log_loss", "accuracy_low", "accuracy_high", "photos")
    }
    metrics["num_label_issues"] = num_label_issues
    return metrics


def _read_epochs() -> pd.DataFrame:
    try:
        return pd.read_csv(EPOCHS)[["epoch", "train_loss", "val_log_loss"]]
    except (FileNotFoundError, KeyError, ValueError) as error:
        raise PipelineError(f"{EPOCHS} cannot be used ({error}). Make it again with: dvc repro") from None


def _cross_validated(examined: pd.DataFrame, frozen: Scores, weight: Tensor | None) -> Scores:
    """Photos by a frozen head that never saw them: the checkpoint's for test photos, that of the other folds for the rest.

    `weight` is what a photo of each class counts in the temperature of the rest, as in the checkpoint's.
    """
    labels = examined["class"].map(frozen.classes.index).to_numpy()
    tested = (examined["split"] == "test").to_numpy()
    seen = read_out_of_fold(OUT_OF_FOLD, frozen.classes, examined["id"][~tested].tolist())
    logits = torch.from_numpy(seen.to_numpy()).clamp(min=SMALLEST).log()
    calibrated = (logits / fit_temperature(logits, torch.from_numpy(labels[~tested]), weight)).softmax(1)
    probabilities = np.empty((len(examined), len(frozen.classes)))
    probabilities[~tested] = calibrated.numpy()
    if tested.any():
        probabilities[tested] = frozen.probabilities
    return Scores(labels, probabilities, frozen.classes, frozen.confidence_level)


def _write_tables(folder: Path, photos: pd.DataFrame, scores: Mapping[str, Scores], issues: pd.DataFrame) -> None:
    """label_issues.csv, the points of the curves, and predictions.csv with every digit: equal files mean equal bits.

    Columns of predictions.csv: id, path, actual, and for each checkpoint the predicted class (CHECKPOINT) and each class's
    probability (CHECKPOINT_CLASS).
    """
    table = {"id": photos["id"], "path": [path.as_posix() for path in photos["path"]], "actual": photos["class"]}
    for checkpoint, one in scores.items():
        table[checkpoint] = one.predicted_names
        table |= {f"{checkpoint}_{name}": one.probabilities[:, index] for index, name in enumerate(one.classes)}
        for curve in ("roc", "precision_recall", "reliability"):
            write_csv(folder / f"{curve}_{checkpoint}.csv", getattr(one, curve).to_dict("records"))
    pd.DataFrame(table).to_csv(folder / "predictions.csv", index=False, lineterminator="\n")
    issues = issues[["id", "split", "class", "likely", "probability"]]
    issues.to_csv(folder / "label_issues.csv", index=False, float_format="%.6f", lineterminator="\n")


def _picture_mistakes(photos: pd.DataFrame, scores: Scores, count: int, file: Path) -> None:
    """The most confident mistakes in one picture."""
    wrong = scores.mistakes[:count]
    shown = [
        (row["path"], f"{row['id']}\n{scores.predicted_names[index]} {scores.confidence[index]:.1%}")
        for index, row in zip(wrong, photos.iloc[wrong].to_dict("records"), strict=True)
    ]
    title = f"{len(scores.mistakes)} of {len(photos)} test photos wrong after fine-tuning; the most confident ones"
    contact_sheet(shown, file, title=title)
