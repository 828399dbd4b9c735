"""Stage 5, evaluate: both checkpoints on the test photos, which no other stage reads, in outputs/evaluation.

Run it with `dvc repro evaluate`, or bare with `python -m pipeline evaluate`. Settings: `evaluate` in params.yaml. It writes
metrics.json, predictions.csv, label_issues.csv, the points of the curves, mistakes.png and report.html, and all of them only
once everything is computed. How long it took, and where, is written to outputs/seconds/evaluate.json.
"""

import io
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ruamel.yaml import YAML

from pipeline.checkpoint import MODEL_FILE, CheckpointInfo, read_info, read_model_state, refuse_other_data
from pipeline.data.contact_sheet import contact_sheet
from pipeline.data.dataset import Photos, data_fingerprints
from pipeline.data.manifest import classes_of, fingerprint, read_manifest
from pipeline.errors import PipelineError
from pipeline.evaluation import error_analysis
from pipeline.evaluation.comparison import Comparison, compare
from pipeline.evaluation.label_issues import label_issues
from pipeline.evaluation.metrics import Scores
from pipeline.evaluation.predictions import predict
from pipeline.evaluation.report import Report, provenance, render_report
from pipeline.evaluation.slices import accuracy_by_slice
from pipeline.files import read_json, sha256_of, write_csv, write_json
from pipeline.models.backbone import rebuild
from pipeline.params import Params
from pipeline.paths import EPOCHS, EVALUATION, FINETUNED, FROZEN, METRICS, OUT_OF_FOLD, PROCESSED, SECONDS, TRAIN_FEATURES
from pipeline.progress import say
from pipeline.runtime import machine_name, processor_fingerprint, resolve_runtime
from pipeline.training.probe import read_out_of_fold

CHECKPOINTS = {"frozen": FROZEN, "finetuned": FINETUNED}
OOD_METRICS = ("ood_auroc", "ood_fpr95")  # recorded by the frozen stage


def run(params: Params) -> None:
    """Predict every test photo with both checkpoints, and score, compare and show the predictions."""
    started = time.monotonic()
    manifest = read_manifest(PROCESSED)
    classes = classes_of(manifest)
    infos = {name: _read_info(name, manifest, classes) for name in CHECKPOINTS}
    epochs = _read_table(EPOCHS, ["epoch", "train_loss", "val_log_loss"])
    runtime = resolve_runtime(params.runtime)
    test = _test_photos(manifest, classes)
    train = Photos.of_split(manifest, PROCESSED, "train", classes)
    models = {name: rebuild(info, read_model_state(CHECKPOINTS[name])).eval() for name, info in infos.items()}

    predictions = predict(models, infos, test, runtime, mirrored=params.evaluate.test_time_augmentation)
    photos = manifest.set_index("id", drop=False).loc[list(test.ids)].reset_index(drop=True)
    photos = photos.assign(path=pd.Series(list(test.paths)), **predictions.measured)
    scores, mirrored = (
        {name: Scores(test.labels.numpy(), of, classes, params.evaluate.confidence_level) for name, of in probabilities.items()}
        for probabilities in (predictions.probabilities, predictions.mirrored)
    )
    comparison = compare(scores["frozen"], scores["finetuned"])
    used, cross_validated = _cross_validated(manifest, photos, scores["frozen"])
    issues = label_issues(used, cross_validated.probabilities, classes)
    facts: dict[str, Any] = {
        "num_test": len(test),
        "test_fingerprint": fingerprint(manifest, "test"),
        "num_parameters": sum(parameter.numel() for parameter in models["finetuned"].parameters()),
    }

    fresh = EVALUATION.with_name(f".{EVALUATION.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    _write_tables(fresh, photos, scores, issues)
    _picture_mistakes(photos, scores["finetuned"], params.evaluate.mistakes_shown, fresh / "mistakes.png")
    write_json(fresh / "metrics.json", facts | _metrics(infos, scores, mirrored, comparison, cross_validated, len(issues)))
    tuned = infos["finetuned"]
    report = Report(
        scores=scores,
        mirrored=mirrored,
        comparison=comparison,
        cross_validated=cross_validated,
        slices=accuracy_by_slice(photos, scores),
        infos=infos,
        epochs=epochs,
        galleries=[
            *error_analysis.galleries_of(scores["finetuned"], photos, mistakes_shown=params.evaluate.mistakes_shown),
            error_analysis.label_issue_gallery(issues, len(used)),
            error_analysis.near_duplicates(photos),
            error_analysis.grad_cam_gallery(scores, photos, models, tuned.preprocessing),
            error_analysis.nearest_neighbours(
                scores["finetuned"], photos, models["frozen"], tuned.preprocessing, train, TRAIN_FEATURES
            ),
        ],
        provenance=provenance(manifest, infos, facts["num_parameters"], read_json(METRICS / "download.json")),
        settings=_settings(params),
        predictions_sha256=sha256_of(fresh / "predictions.csv"),
    )
    (fresh / "report.html").write_text(render_report(report), encoding="utf-8")
    _put_in_place(fresh)
    machine = {"machine": machine_name(runtime.device, runtime.threads), "processor": processor_fingerprint()}
    write_json(SECONDS / "evaluate.json", {"seconds": time.monotonic() - started, **machine})
    _tell(scores, tuned.note)


def _metrics(
    infos: Mapping[str, CheckpointInfo],
    scores: Mapping[str, Scores],
    mirrored: Mapping[str, Scores],
    comparison: Comparison,
    cross_validated: Scores,
    num_issues: int,
) -> dict[str, Any]:
    """Both checkpoints' metrics, with what experiments are ranked by and what the weights are known by."""
    metrics: dict[str, Any] = {}
    for name, one in scores.items():
        recorded = {metric: infos[name].metrics[metric] for metric in ("val_accuracy", "val_log_loss")}
        metrics[name] = one.as_dict() | recorded | {"model_sha256": infos[name].files[MODEL_FILE]}
    metrics["ood"] = {metric: infos["frozen"].metrics[metric] for metric in OOD_METRICS}
    metrics["unfreezing"] = comparison.as_dict() | {"alpha": infos["finetuned"].metrics["alpha"]}
    low, high = cross_validated.accuracy_interval
    metrics["cross_validated"] = {name: cross_validated.metrics[name] for name in ("accuracy", "log_loss")}
    metrics["cross_validated"] |= {"accuracy_low": low, "accuracy_high": high, "photos": len(cross_validated.labels)}
    metrics["num_label_issues"] = num_issues
    if mirrored:
        metrics["test_time_augmentation"] = {name: one.metrics for name, one in mirrored.items()}
    return metrics


def _read_info(name: str, manifest: pd.DataFrame, classes: tuple[str, ...]) -> CheckpointInfo:
    """The description of a checkpoint that was made for these photos and says what was measured on validation."""
    info = read_info(CHECKPOINTS[name])
    refuse_other_data(info, CHECKPOINTS[name], classes, data_fingerprints(manifest))
    for metric in ("val_accuracy", "val_log_loss", *(["alpha"] if name == "finetuned" else OOD_METRICS)):
        if metric not in info.metrics:
            raise PipelineError(f"{CHECKPOINTS[name]} was saved without {metric}. Make it again with: dvc repro")
    return info


def _test_photos(manifest: pd.DataFrame, classes: tuple[str, ...]) -> Photos:
    test = Photos.of_split(manifest, PROCESSED, "test", classes)
    present = set(test.labels.tolist())
    if missing := [name for index, name in enumerate(classes) if index not in present]:
        raise PipelineError(
            f"The test split holds {len(test)} photos, none of them of {', '.join(missing)}, so there is nothing to score by. "
            "Store the photos anew with: dvc repro --force preprocess"
        )
    return test


def _read_table(file: Path, columns: Sequence[str], **options: Any) -> pd.DataFrame:
    try:
        return pd.read_csv(file, **options)[list(columns)]
    except (FileNotFoundError, KeyError, ValueError) as error:
        raise PipelineError(f"{file} cannot be used ({error}). Make it again with: dvc repro") from None


def _cross_validated(manifest: pd.DataFrame, photos: pd.DataFrame, frozen: Scores) -> tuple[pd.DataFrame, Scores]:
    """Every photo that is used (id, split, class, path), and its probabilities by a frozen head that never saw it."""
    used = manifest.loc[manifest["split"] != "", ["id", "split", "class"]].sort_values("id", ignore_index=True)
    seen = used.loc[used["split"] != "test", "id"].tolist()
    of_test = pd.DataFrame(frozen.probabilities, photos["id"], frozen.classes)  # the checkpoint was not fitted on them
    probabilities = pd.concat([read_out_of_fold(OUT_OF_FOLD, frozen.classes, seen), of_test]).loc[used["id"]].to_numpy()
    labels = used["class"].map({name: index for index, name in enumerate(frozen.classes)}).to_numpy()
    places = zip(used["split"], used["class"], used["id"], strict=True)
    used["path"] = [PROCESSED / "images" / split / name / f"{photo}.jpg" for split, name, photo in places]
    return used, Scores(labels, probabilities, frozen.classes, frozen.confidence_level)


def _write_tables(folder: Path, photos: pd.DataFrame, scores: Mapping[str, Scores], issues: pd.DataFrame) -> None:
    """label_issues.csv, the points of the curves, and predictions.csv with every digit: equal files mean equal bits.

    Columns of predictions.csv: id, path, actual, and for each checkpoint the predicted class (CHECKPOINT) and each class's
    probability (CHECKPOINT_CLASS).
    """
    table = {"id": photos["id"], "path": [path.as_posix() for path in photos["path"]], "actual": photos["class"]}
    for checkpoint, one in scores.items():
        table[checkpoint] = np.array(one.classes)[one.predicted]
        table |= {f"{checkpoint}_{name}": one.probabilities[:, index] for index, name in enumerate(one.classes)}
        for curve in ("roc", "precision_recall", "reliability"):
            write_csv(folder / f"{curve}_{checkpoint}.csv", getattr(one, curve).to_dict("records"))
    pd.DataFrame(table).to_csv(folder / "predictions.csv", index=False, lineterminator="\n")
    issues.drop(columns="path").to_csv(folder / "label_issues.csv", index=False, float_format="%.6f", lineterminator="\n")


def _picture_mistakes(photos: pd.DataFrame, scores: Scores, count: int, file: Path) -> None:
    """The most confident mistakes in one picture."""
    shown = [
        (photos["path"].iloc[i], f"{photos['id'].iloc[i]}\n{scores.classes[scores.predicted[i]]} {scores.confidence[i]:.1%}")
        for i in scores.mistakes[:count].tolist()
    ]
    title = f"{len(scores.mistakes)} of {len(photos)} test photos wrong after fine-tuning; the most confident ones"
    contact_sheet(shown, file, title=title)


def _settings(params: Params) -> str:
    """All settings that decide the result, as YAML: those of the runtime do not."""
    text = io.StringIO()
    YAML().dump(params.model_dump(mode="json", exclude={"runtime"}), text)
    return text.getvalue()


def _put_in_place(fresh: Path) -> None:
    """Move the new files over the old ones one by one: DVC keeps a file of its own in the same folder."""
    EVALUATION.mkdir(parents=True, exist_ok=True)
    for file in sorted(fresh.iterdir()):
        os.replace(file, EVALUATION / file.name)
    fresh.rmdir()


def _tell(scores: Mapping[str, Scores], note: str) -> None:
    for name, one in scores.items():
        low, high = one.accuracy_interval
        interval = f"{low:.2%} to {high:.2%} at {one.confidence_level:.0%}"
        say(f"{name}: accuracy {one.metrics['accuracy']:.2%} ({interval}), log-loss {one.metrics['log_loss']:.4f}")
    if note:
        say(note)
    say(f"the whole report: {EVALUATION / 'report.html'}")
