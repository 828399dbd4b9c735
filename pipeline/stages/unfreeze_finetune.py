"""Stage 4, unfreeze-finetune: the backbone unfrozen and trained on from the frozen checkpoint, in outputs/finetuned.

Run it with `dvc repro unfreeze-finetune`, or bare with `python -m pipeline unfreeze-finetune`. Settings: `unfreeze_finetune` in
params.yaml. Killed, it goes on from where it was and ends with the same bits.
"""

import time
from typing import Any

from pipeline.checkpoint import (
    library_versions,
    read_info,
    read_model_state,
    refuse_other_data,
    save_checkpoint,
)
from pipeline.data.dataset import Photos, data_fingerprints
from pipeline.data.manifest import classes_of, read_manifest, stored_fingerprint
from pipeline.files import write_json
from pipeline.models.backbone import rebuild
from pipeline.params import Params
from pipeline.paths import EPOCHS, FEATURES, FINETUNED, FROZEN, METRICS, PROCESSED, RESUME, TRACKING, TRAINING_CURVES
from pipeline.progress import say
from pipeline.runtime import resolve_runtime
from pipeline.training.curves import Curves
from pipeline.training.depth import with_depth
from pipeline.training.finetune import finetune
from pipeline.training.frozen_pass import parts_of_pass, places_at_cut
from pipeline.training.resume import SharedResumeFolder, parts_of_result
from pipeline.training.task import Task
from pipeline.training.tracked import Run
from pipeline.training.tracking import Trackers
from pipeline.training.tuned_ood import ood_detector_of

STAGE = "unfreeze-finetune"
NOT_BETTER = "fine-tuning did not improve the calibrated validation log-loss: these are the frozen checkpoint's weights"


def run(params: Params) -> None:
    """Fine-tune, keep the best epoch, and say so where that is the frozen checkpoint itself."""
    started = time.monotonic()
    manifest = read_manifest(PROCESSED)
    classes, data = classes_of(manifest), data_fingerprints(manifest)
    info = read_info(FROZEN)
    refuse_other_data(info, FROZEN, classes, data)
    model = rebuild(info, read_model_state(FROZEN))
    runtime = resolve_runtime(params.runtime)
    settings = with_depth(params.unfreeze_finetune, model, info.preprocessing)
    train, val = (Photos.of_split(manifest, PROCESSED, name, classes) for name in ("train", "val"))
    stored = stored_fingerprint(manifest)
    parts = parts_of_result(
        frozen=info.files,
        data=data.model_dump(),
        stored=stored,
        settings=settings.model_dump(),
        device=runtime.device.type,
        threads=runtime.threads,
        processes=runtime.processes,
        bfloat16=runtime.bfloat16,
    )
    of_pass = parts_of_pass(model, info.backbone, info.preprocessing, stored, choice="auto", runtime=runtime)
    resume = SharedResumeFolder(runtime, RESUME / STAGE, parts)
    unchanged = {"train": data.train, "val": data.val}  # which the stage before has kept
    keep = places_at_cut(FEATURES, settings, unchanged, of_pass)
    task = Task(train, val, info.preprocessing, settings, runtime, "auto", keep)
    everything_set = _flat(info.params | params.model_dump(include={"unfreeze_finetune"}))
    tracked = Run(resume.fingerprint, everything_set, classes, val, info.preprocessing)
    trackers = Trackers(params.runtime.trackers, TRACKING, lambda: Curves(TRAINING_CURVES, EPOCHS), tracked)
    result = finetune(model, task, resume, trackers if runtime.is_main else None)
    final = rebuild(info, result.model_state)
    ood = ood_detector_of(final, task, result.trunk)
    if not runtime.is_main:
        return

    kept = result.kept
    metrics = {"val_accuracy": kept.val_accuracy, "val_log_loss": kept.val_log_loss, "share": kept.share}
    metrics["temperature"] = kept.val_temperature
    epoch = result.best.epoch if kept.share else 0
    note = "" if kept.share else NOT_BETTER
    say(note or f"kept {kept.share:.0%} of epoch {epoch}: validation log-loss {kept.val_log_loss:.4f}")
    tuned = info.model_copy(
        update={
            "stage": STAGE,
            "params": info.params | params.model_dump(include={"unfreeze_finetune"}),
            "epoch": epoch,
            "metrics": metrics,
            "note": note,
            "versions": library_versions(),
        }
    )
    save_checkpoint(FINETUNED, tuned, result.model_state, result.training_state, ood.tensors())
    epochs = {"best_epoch": epoch, "epochs": len(result.history) - 1}
    write_json(METRICS / f"{STAGE}.json", metrics | epochs | {"seconds": time.monotonic() - started})
    trackers.finish(metrics, FINETUNED)
    resume.remove()


def _flat(sections: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """section.key -> value."""
    return {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}
