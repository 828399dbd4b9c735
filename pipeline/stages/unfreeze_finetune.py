"""Stage 4, unfreeze-finetune: the backbone unfrozen and trained on from the frozen checkpoint, in outputs/finetuned.

Run it with `dvc repro unfreeze-finetune`, or bare with `python -m pipeline unfreeze-finetune`. Settings: `unfreeze_finetune` in
params.yaml. Killed, it resumes where it was and ends with the same bits.
"""

import time

from pipeline.checkpoint import library_versions, read_info, read_model_state, refuse_other_data, save_checkpoint
from pipeline.data.dataset import Photos, data_fingerprints
from pipeline.data.manifest import classes_of, read_manifest, stored_fingerprint
from pipeline.files import write_json
from pipeline.models.backbone import rebuild
from pipeline.models.ood import OodDetector, sample_by_class
from pipeline.params import Params
from pipeline.paths import EPOCHS, FEATURES, FINETUNED, FROZEN, METRICS, PROCESSED, RESUME, SECONDS, TRACKING, TRAINING_CURVES
from pipeline.runtime import resolve_runtime
from pipeline.training.activations import SplitNetwork
from pipeline.training.calibration import class_weight
from pipeline.training.finetune import finetune
from pipeline.training.resume import ResumeFolder, hash_inputs
from pipeline.training.tracking import Run, Tracking

STAGE = "unfreeze-finetune"


def run(params: Params) -> None:
    """Fine-tune, keep the best weights, and say so where those are the frozen checkpoint's."""
    started = time.monotonic()
    manifest = read_manifest(PROCESSED)
    classes, data = classes_of(manifest), data_fingerprints(manifest)
    info = read_info(FROZEN)
    refuse_other_data(info, FROZEN, classes, data)
    frozen_state = read_model_state(FROZEN)
    model = rebuild(info, frozen_state)
    runtime = resolve_runtime(params.runtime)
    settings, preprocessing = params.unfreeze_finetune, info.preprocessing
    train, val = (Photos.of_split(manifest, PROCESSED, name, classes) for name in ("train", "val"))

    choice, stored = params.train_frozen_backbone.backend, stored_fingerprint(manifest)
    network = SplitNetwork(model, settings.unfrozen_blocks, preprocessing, choice=choice, runtime=runtime)
    network.use_cache(FEATURES, info.backbone, stored)
    parts = hash_inputs(
        frozen=info.files,
        data=data.model_dump(),
        stored=stored,
        settings=settings.model_dump(),
        backend=choice,
        device=runtime.device.type,
        threads=runtime.threads,
        processes=runtime.processes,
        precision=runtime.mixed_precision,
    )
    resume = ResumeFolder(RESUME / STAGE, parts, runtime)
    everything_set = info.params | params.model_dump(include={"unfreeze_finetune"})
    flat = {f"{section}.{key}": value for section, values in everything_set.items() for key, value in values.items()}
    tracked = Run(resume.fingerprint, flat, classes, val, rebuild(info, frozen_state).eval(), preprocessing.input_size)
    tracking = Tracking(params.runtime.trackers, TRACKING, TRAINING_CURVES, EPOCHS, tracked)
    weight, watching = class_weight(params.head.class_weight, train.labels), tracking if runtime.is_main else None
    result = finetune(network, train, val, settings, resume, watching, weight)
    chosen, others = sample_by_class(train.labels), sample_by_class(val.labels)
    train_features = network.trained_features("train", train, chosen)
    val_features = network.trained_features("val", val, others)
    if not runtime.is_main:
        return

    kept = result.choice.candidate
    metrics = {"val_log_loss": kept.log_loss, "val_accuracy": kept.accuracy, "alpha": kept.alpha}
    metrics |= {"gain": result.choice.gain, "gain_low": result.choice.gain_low}
    finetuned = info.model_copy(
        update={
            "stage": STAGE,
            "params": everything_set,
            "epoch": kept.epoch,
            "metrics": metrics,
            "note": result.choice.reason,
            "versions": library_versions(),
        }
    )
    ood = OodDetector.fit(train_features, train.labels[chosen], val_features)
    save_checkpoint(FINETUNED, finetuned, result.model_state, ood.tensors())
    write_json(METRICS / f"{STAGE}.json", metrics | {"epoch": kept.epoch, "epochs": len(result.history) - 1})
    write_json(SECONDS / f"{STAGE}.json", {"seconds": time.monotonic() - started})
    tracking.finish(metrics, FINETUNED)
    resume.remove()
