"""Stage 5, evaluate: both checkpoints on the test photos, which are read here and nowhere else, in outputs/evaluation.

Run it with `dvc repro evaluate`, or bare with `python -m pipeline evaluate`. Settings: `evaluate` in params.yaml. Out come
metrics.json, predictions.csv, the points of the curves, mistakes.png and report.html, one page that tells all of it. Each photo is
decoded once, for both checkpoints; nothing is written before everything is computed.
"""

import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from pipeline.checkpoint import MODEL_FILE, CheckpointInfo, library_versions, read_info, read_model_state, refuse_other_data
from pipeline.data.loader import Photos, data_fingerprints
from pipeline.data.manifest import classes_of, fingerprint, read_manifest
from pipeline.errors import PipelineError
from pipeline.evaluation import showcase
from pipeline.evaluation.assessment import Assessment, assess
from pipeline.evaluation.calibration import reliability
from pipeline.evaluation.contact_sheet import contact_sheet
from pipeline.evaluation.curves import precision_recall, roc
from pipeline.evaluation.gallery import Gallery
from pipeline.evaluation.label_errors import Found, hold_against, label_errors
from pipeline.evaluation.metrics import Scores, score
from pipeline.evaluation.report import Report, render_report
from pipeline.evaluation.slices import MEASURED, of_batch
from pipeline.files import sha256_of
from pipeline.machine import machine_name, source_revision
from pipeline.models.backbone import rebuild
from pipeline.models.engine import Engine
from pipeline.params import PARAMS_FILE, Params
from pipeline.paths import EVALUATION, FINETUNED, FROZEN, METRICS, OUT_OF_FOLD, PLOTS, PROCESSED
from pipeline.progress import say
from pipeline.results import write_csv, write_json
from pipeline.runtime import ResolvedRuntime, resolve_runtime
from pipeline.training.features import engine_for, run_over

CHECKPOINTS = {"frozen": FROZEN, "finetuned": FINETUNED}
EARLIER_STAGES = ("download", "preprocess", "train-frozen-backbone", "unfreeze-finetune")


def run(params: Params) -> None:
    """Predict every test photo with both checkpoints and tell what the predictions are worth, side by side."""
    started = time.monotonic()
    settings = params.evaluate
    manifest = read_manifest(PROCESSED)
    if "doubt" not in manifest:  # until the manifest has the ledger's columns
        manifest = manifest.assign(doubt="", doubt_lists=0)
    classes = classes_of(manifest)
    infos = {name: read_info(folder) for name, folder in CHECKPOINTS.items()}
    for name, info in infos.items():
        refuse_other_data(info, CHECKPOINTS[name], classes, data_fingerprints(manifest))
    runtime = resolve_runtime(params.runtime)
    test = Photos.of_split(manifest, PROCESSED, "test", classes)
    if len(test.labels.unique()) < 2:
        raise PipelineError(
            f"The test split holds {len(test)} photos of {len(test.labels.unique())} classes; to score, it must hold photos of all "
            f"{len(classes)}. Store the photos anew with: dvc repro --force preprocess"
        )
    models = {name: rebuild(info, read_model_state(CHECKPOINTS[name])).eval() for name, info in infos.items()}
    outputs = _Predictions(models, infos, test, runtime, mirrored=settings.test_time_augmentation)

    photos = manifest.set_index("id", drop=False).loc[list(test.ids)].reset_index(drop=True)
    photos = photos.assign(path=test.paths, **outputs.measured)
    labels = test.labels.numpy()
    temperatures = {name: info.metrics["temperature"] for name, info in infos.items()}
    assessment = assess(photos, labels, outputs.probabilities, temperatures, confidence=settings.confidence)
    mirrored = {name: score(labels, values, confidence=settings.confidence) for name, values in outputs.mirrored.items()}
    kept, suspicion, candidates, found = _suspect(manifest, photos, classes, assessment)
    galleries = [
        showcase.mistakes(assessment, photos, classes, count=settings.mistakes_shown),
        showcase.least_certain(assessment, photos, classes),
        showcase.suspected_labels(kept, suspicion, candidates, found, classes),
        showcase.near_duplicates(photos),
        showcase.where_models_look(assessment, photos, classes, models, infos["frozen"].preprocessing),
    ]

    fresh = EVALUATION.with_name(f".{EVALUATION.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    _write_predictions(photos, classes, assessment, fresh / "predictions.csv")
    _write_curves(assessment, fresh)
    _write_suspected(kept, suspicion, candidates, classes, fresh / "label_errors.csv")
    _picture_mistakes(photos, classes, assessment, settings.mistakes_shown, fresh / "mistakes.png")
    metrics = assessment.metrics() | {"label_errors": {"candidates": found.candidates, "recall": found.recall}}
    if mirrored:
        metrics["test_time_augmentation"] = {name: vars(scores) for name, scores in mirrored.items()}
    write_json(fresh / "metrics.json", metrics)
    machine = machine_name(runtime.device, runtime.threads)
    made = _made(manifest, infos, models, machine)
    report = _report(params, infos, assessment, mirrored, galleries, made, sha256_of(fresh / "predictions.csv"))
    (fresh / "report.html").write_text(render_report(report), encoding="utf-8")
    _put_in_place(fresh)
    facts = {"num_parameters": _parameters(models["finetuned"]), "machine": machine}
    write_json(METRICS / "evaluate.json", facts | {"seconds": time.monotonic() - started})
    for name, result in assessment.scores.items():
        say(_sentence(name, result, settings.confidence))
    if infos["finetuned"].note:
        say(infos["finetuned"].note)
    say(f"{EVALUATION / 'report.html'} tells more")


class _Predictions:
    """What the checkpoints say of every test photo, in the order of ids, from one pass over the photos.

    Attributes:
        probabilities: checkpoint -> (n, classes) float64.
        mirrored: the same as the mean over photo and mirror image; empty unless asked for.
        measured: property -> (n,) of the photos as the networks see them.
    """

    def __init__(
        self, models: dict[str, nn.Module], infos: dict[str, CheckpointInfo], test: Photos, runtime: ResolvedRuntime, *, mirrored: bool
    ) -> None:
        preprocessing = infos["frozen"].preprocessing
        engines: dict[str, Engine] = {}
        for name, model in models.items():  # a fine-tuning that did not help passes the frozen weights on: they run once
            weights = infos[name].files[MODEL_FILE]
            if weights not in engines:
                engines[weights] = engine_for(model, test, preprocessing, choice=infos[name].engine, runtime=runtime)

        def run_all(batch: Tensor) -> Tensor:
            views = [batch, batch.flip(3)] if mirrored else [batch]
            return torch.cat([engine.run(view) for view in views for engine in engines.values()] + [of_batch(batch, preprocessing)], 1)

        outputs = run_over(run_all, test, preprocessing, runtime=runtime, description="testing both checkpoints").values
        logits, measured = outputs[:, : -len(MEASURED)], outputs[:, -len(MEASURED) :].double().numpy()
        parts = [part.double().softmax(1).numpy() for part in logits.split(infos["frozen"].head.num_outputs, 1)]
        plain = dict(zip(engines, parts, strict=False))
        self.probabilities = {name: plain[infos[name].files[MODEL_FILE]] for name in models}
        mirror = dict(zip(engines, parts[len(engines) :], strict=False))
        self.mirrored = {name: (plain[w] + mirror[w]) / 2 for name in models if (w := infos[name].files[MODEL_FILE]) in mirror}
        self.measured = dict(zip(MEASURED, measured.T, strict=True))
        for model in models.values():
            model.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # an engine may have moved it


def _suspect(
    manifest: pd.DataFrame, photos: pd.DataFrame, classes: tuple[str, ...], assessment: Assessment
) -> tuple[pd.DataFrame, np.ndarray, np.ndarray, Found]:
    """All kept photos, what an unknowing head says of them, the suspected ones among them, and what the ledger says to that."""
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
    folders = PROCESSED.as_posix() + "/images/" + kept["split"] + "/" + kept["class"] + "/" + kept["id"] + ".jpg"
    kept = kept.assign(path=[Path(path) for path in folders])
    candidates = label_errors(kept["class"].map(classes.index).to_numpy(), probabilities)
    return kept, probabilities, candidates, hold_against(kept["doubt"].to_numpy(), candidates)


def _write_predictions(photos: pd.DataFrame, classes: tuple[str, ...], assessment: Assessment, file: Path) -> None:
    """Every test photo, with every digit of the probabilities, so that equal files mean equal bits."""
    names = np.array(classes)
    table = pd.DataFrame({"id": photos["id"], "path": [path.as_posix() for path in photos["path"]], "actual": photos["class"]})
    for checkpoint, values in assessment.probabilities.items():
        table[checkpoint] = names[values.argmax(1)]
        for index, name in enumerate(classes):
            table[f"{checkpoint}_{name}"] = values[:, index]
    table.to_csv(file, index=False, lineterminator="\n")


def _write_curves(assessment: Assessment, folder: Path) -> None:
    """The points of each checkpoint's curves, for `dvc plots`."""
    for name, values in assessment.probabilities.items():
        curve = roc(assessment.labels, values)
        write_csv(folder / f"roc_{name}.csv", [{"false_positive_rate": x, "true_positive_rate": y} for x, y in curve])
        curve = precision_recall(assessment.labels, values)
        write_csv(folder / f"precision_recall_{name}.csv", [{"recall": x, "precision": y} for x, y in curve])
        write_csv(folder / f"reliability_{name}.csv", [vars(one) for one in reliability(assessment.labels, values)])


def _write_suspected(
    kept: pd.DataFrame, probabilities: np.ndarray, candidates: np.ndarray, classes: tuple[str, ...], file: Path
) -> None:
    """All candidates for wrong labels, the most suspicious first."""
    table = kept.iloc[candidates][["id", "split", "class", "doubt"]]
    likely = probabilities[candidates].argmax(1)
    of_likely = probabilities[candidates, likely]
    table.assign(likely=np.array(classes)[likely], probability=of_likely.round(6)).to_csv(file, index=False, lineterminator="\n")


def _picture_mistakes(photos: pd.DataFrame, classes: tuple[str, ...], assessment: Assessment, count: int, file: Path) -> None:
    """The wrong predictions that the fine-tuned checkpoint was surest of."""
    wrong, predicted, sureness = (assessment.wrong("finetuned"), assessment.predicted("finetuned"), assessment.sureness("finetuned"))
    shown = [
        (photos["path"].iloc[i], f"{photos['id'].iloc[i]}\n{classes[predicted[i]]} {sureness[i]:.1%}") for i in wrong[:count].tolist()
    ]
    title = f"{len(wrong)} of {len(photos)} test photos wrong after fine-tuning; the most confident ones"
    contact_sheet(shown, file, title=title)


def _report(
    params: Params,
    infos: dict[str, CheckpointInfo],
    assessment: Assessment,
    mirrored: dict[str, Scores],
    galleries: list[Gallery],
    made: dict[str, Sequence[tuple[str, str]]],
    predictions_sha256: str,
) -> Report:
    epochs = pd.read_csv(PLOTS / "epochs.csv").astype(object)
    return Report(
        assessment=assessment,
        mirrored=mirrored,
        classes=infos["frozen"].classes,
        note=infos["finetuned"].note,
        epochs=epochs.where(epochs.notna(), None).to_dict("records"),
        best_epoch=infos["finetuned"].epoch,
        galleries=galleries,
        made=made,
        settings=PARAMS_FILE.read_text(encoding="utf-8"),
        predictions_sha256=predictions_sha256,
    )


def _made(
    manifest: pd.DataFrame, infos: dict[str, CheckpointInfo], models: dict[str, nn.Module], machine: str
) -> dict[str, Sequence[tuple[str, str]]]:
    """What the result was made from, under headings."""
    earlier = {stage: _read_json(METRICS / f"{stage}.json") for stage in EARLIER_STAGES}
    tuned = infos["finetuned"]
    counts = manifest["split"].value_counts()
    preprocessing = tuned.preprocessing
    return {
        "Photos": [
            ("archive", earlier["download"]["archive_sha256"] or "none: drawn, or a folder"),
            ("kept", ", ".join(f"{counts.get(split, 0):,} {split}" for split in ("train", "val", "test"))),
            ("refused", f"{counts.get('', 0):,} files"),
            ("test photos", fingerprint(manifest, "test")),
        ],
        "Network": [
            ("backbone", f"{tuned.backbone.name}, {_parameters(models['finetuned']) / 1e6:,.2f} million parameters"),
            ("weights", tuned.backbone.weights),
            ("sha256", tuned.backbone.weights_sha256 or "none: random"),
            ("input", f"{' × '.join(map(str, preprocessing.input_size[1:]))} px, {preprocessing.interpolation}"),
            ("kept epoch", str(tuned.epoch)),
        ],
        "Checkpoints": [(name, info.files[MODEL_FILE]) for name, info in infos.items()],
        "Time": [(stage, f"{facts['seconds']:,.1f} s") for stage, facts in earlier.items()],
        "Machine": [("evaluated on", machine), ("commit", source_revision() or "not under Git")],
        "Versions": list(library_versions().items()),
    }


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError) as error:
        raise PipelineError(f"{file} cannot be used ({error}). Make it again with: dvc repro") from None


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _put_in_place(fresh: Path) -> None:
    """Move what is whole over what was there, file by file: DVC keeps a file of its own in the same folder."""
    EVALUATION.mkdir(parents=True, exist_ok=True)
    for file in sorted(fresh.iterdir()):
        os.replace(file, EVALUATION / file.name)
    fresh.rmdir()


def _sentence(name: str, scores: Scores, confidence: float) -> str:
    interval = f"{scores.accuracy_low:.2%} to {scores.accuracy_high:.2%} at {confidence:.0%}"
    return f"{name}: accuracy {scores.accuracy:.2%} ({interval}), log-loss {scores.log_loss:.4f}, ROC-AUC {scores.roc_auc:.4f}"
