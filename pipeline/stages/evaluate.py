"""Stage 5, evaluate: both checkpoints on the test photos, which are read here and nowhere else, in outputs/evaluation.

Run it with `dvc repro evaluate`, or bare with `python -m pipeline evaluate`. Settings: `evaluate` in params.yaml.
"""

import time
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import roc_curve

from pipeline.checkpoint import CheckpointInfo, read_info, read_model_state, refuse_other_data
from pipeline.data.loader import Photos, data_fingerprints
from pipeline.data.manifest import classes_of, read_manifest
from pipeline.evaluation.contact_sheet import contact_sheet
from pipeline.evaluation.metrics import Scores, score
from pipeline.models.backbone import rebuild
from pipeline.params import Params
from pipeline.paths import EVALUATION, FINETUNED, FROZEN, METRICS, PROCESSED
from pipeline.progress import say
from pipeline.results import write_csv, write_json
from pipeline.runtime import ResolvedRuntime, resolve_runtime
from pipeline.training.features import engine_for, run_over

CHECKPOINTS = {"frozen": FROZEN, "finetuned": FINETUNED}


def run(params: Params) -> None:
    """Predict every test photo with both checkpoints and write what the predictions are worth, side by side."""
    started = time.monotonic()
    manifest = read_manifest(PROCESSED)
    classes = classes_of(manifest)
    infos = {name: read_info(folder) for name, folder in CHECKPOINTS.items()}
    for name, info in infos.items():
        refuse_other_data(info, CHECKPOINTS[name], classes, data_fingerprints(manifest))
    runtime = resolve_runtime(params.runtime)
    photos = Photos.of_split(manifest, PROCESSED, "test", classes)
    labels = photos.labels.numpy()
    probabilities = {name: _probabilities(name, info, photos, runtime) for name, info in infos.items()}
    scores = {name: score(labels, values, confidence=params.evaluate.confidence) for name, values in probabilities.items()}

    _write_predictions(photos, classes, probabilities)
    _write_curves(labels, probabilities)
    _picture_mistakes(photos, classes, probabilities["finetuned"], params.evaluate.mistakes_shown)
    write_json(EVALUATION / "metrics.json", {"num_test": len(photos)} | {name: vars(scores[name]) for name in scores})
    write_json(METRICS / "evaluate.json", {"seconds": time.monotonic() - started})
    for name, result in scores.items():
        say(_sentence(name, result, params.evaluate.confidence))
    if infos["finetuned"].note:
        say(infos["finetuned"].note)


def _probabilities(name: str, info: CheckpointInfo, photos: Photos, runtime: ResolvedRuntime) -> np.ndarray:
    """(n, classes) float64 of one checkpoint, in the order of ids."""
    model = rebuild(info, read_model_state(CHECKPOINTS[name])).eval()
    engine = engine_for(model, photos, info.preprocessing, choice=info.engine, runtime=runtime)
    outputs = run_over(engine.run, photos, info.preprocessing, runtime=runtime, description=f"testing {name}")
    return outputs.values.double().softmax(1).numpy()


def _write_predictions(photos: Photos, classes: tuple[str, ...], probabilities: dict[str, np.ndarray]) -> None:
    names = np.array(classes)
    table = pd.DataFrame({"id": photos.ids, "path": [path.as_posix() for path in photos.paths]})
    table["actual"] = names[photos.labels.numpy()]
    for checkpoint, values in probabilities.items():
        table[checkpoint] = names[values.argmax(1)]
        for index, name in enumerate(classes):
            table[f"{checkpoint}_{name}"] = values[:, index].round(6)
    EVALUATION.mkdir(parents=True, exist_ok=True)
    table.to_csv(EVALUATION / "predictions.csv", index=False, lineterminator="\n")


def _write_curves(labels: np.ndarray, probabilities: dict[str, np.ndarray]) -> None:
    """The ROC curve of each checkpoint, for the last class against the rest."""
    last = next(iter(probabilities.values())).shape[1] - 1
    for checkpoint, values in probabilities.items():
        false_positive, true_positive, _ = roc_curve(labels == last, values[:, last])
        rows = zip(false_positive.tolist(), true_positive.tolist(), strict=True)
        points = [{"false_positive_rate": x, "true_positive_rate": y} for x, y in rows]
        write_csv(EVALUATION / f"roc_{checkpoint}.csv", points)


def _picture_mistakes(photos: Photos, classes: tuple[str, ...], values: np.ndarray, count: int) -> None:
    """The wrong predictions that the fine-tuned checkpoint was surest of."""
    predicted, sureness = values.argmax(1), values.max(1)
    wrong = np.flatnonzero(predicted != photos.labels.numpy())
    worst = wrong[np.argsort(-sureness[wrong], kind="stable")][:count]
    shown: list[tuple[Path, str]] = [
        (photos.paths[i], f"{photos.ids[i]}\n{classes[predicted[i]]} {sureness[i]:.1%}") for i in worst
    ]
    title = f"{len(wrong)} of {len(photos)} test photos wrong after fine-tuning; the most confident ones"
    contact_sheet(shown, EVALUATION / "mistakes.png", title=title)


def _sentence(name: str, scores: Scores, confidence: float) -> str:
    interval = f"{scores.accuracy_low:.2%} to {scores.accuracy_high:.2%} at {confidence:.0%}"
    return f"{name}: accuracy {scores.accuracy:.2%} ({interval}), log-loss {scores.log_loss:.4f}, ROC-AUC {scores.roc_auc:.4f}"
