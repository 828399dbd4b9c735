"""Stage 4, unfreeze-finetune: the backbone unfrozen and trained on from the frozen checkpoint, in outputs/finetuned.

Run it with `dvc repro unfreeze-finetune`, or bare with `python -m pipeline unfreeze-finetune`. Settings: `unfreeze_finetune` in
params.yaml. Killed, it resumes where it was and ends with the same bits.
"""

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.checkpoint import (
    SolvedBlock,
    library_versions,
    read_info,
    read_model_state,
    read_ood,
    refuse_other_data,
    save_checkpoint,
)
from pipeline.data.dataset import Photos, data_fingerprints
from pipeline.data.manifest import classes_of, read_manifest, stored_fingerprint
from pipeline.files import write_json
from pipeline.models.backbone import rebuild
from pipeline.models.head import apply_temperature, set_linear_head
from pipeline.models.ood import OodDetector, sample_by_class
from pipeline.params import Params
from pipeline.paths import (
    EPOCHS,
    FEATURES,
    FINETUNED,
    FROZEN,
    METRICS,
    OUT_OF_FOLD,
    PROCESSED,
    RESUME,
    SECONDS,
    TRACKING,
    TRAINING_CURVES,
)
from pipeline.runtime import hardware, resolve_runtime
from pipeline.training.activations import SplitNetwork, recipe_of
from pipeline.training.finetune import finetune
from pipeline.training.probe import SMALLEST, Labelled, joined, read_out_of_fold, solve_head
from pipeline.training.resume import ResumeFolder, hash_inputs
from pipeline.training.selection import best_clip, class_weight, cross_fitted_losses, fit_temperature, guessing_loss
from pipeline.training.tracking import Tracking

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
    recipe = recipe_of(model, preprocessing, settings, len(train))
    network = SplitNetwork(model, recipe.unfrozen_blocks, preprocessing, choice=choice, runtime=runtime)
    network.use_cache(FEATURES, info.backbone, stored)
    parts = hash_inputs(
        frozen=info.files,
        data=data.model_dump(),
        stored=stored,
        settings=settings.model_dump(),
        class_weight=params.head.class_weight,
        backend=choice,
        device=runtime.device.type,
        hardware=hardware(runtime),
        processes=runtime.processes,
        precision=runtime.mixed_precision,
    )
    resume = ResumeFolder(RESUME / STAGE, parts, runtime)
    everything_set = info.params | params.model_dump(include={"unfreeze_finetune"})
    flat = {f"{section}.{key}": value for section, values in everything_set.items() for key, value in values.items()}
    tracking = Tracking(
        params.runtime.trackers,
        TRACKING,
        TRAINING_CURVES,
        EPOCHS,
        run=resume.fingerprint,
        settings=flat,
        classes=classes,
        val=val,
        network=rebuild(info, frozen_state).eval(),
        input_size=preprocessing.input_size,
    )
    weight, watching = class_weight(params.head.class_weight, train.labels), tracking if runtime.is_main else None
    frozen_loss = info.metrics["val_log_loss"] / guessing_loss(train.labels, weight)
    result = finetune(network, train, val, settings, frozen_loss, resume, watching, weight)
    kept, note, state = result.choice.candidate, result.choice.reason, result.model_state
    metrics = {"val_log_loss": kept.log_loss, "val_accuracy": kept.accuracy, "alpha": kept.alpha}
    metrics |= {"gain": result.choice.gain, "gain_low": result.choice.gain_low}
    metrics["clip"] = best_clip(cross_fitted_losses(result.val_logits, val.labels))
    ood = _ood_of_trained(network, train, val) if kept.alpha else read_ood(FROZEN)
    refit = not kept.alpha and bool(info.solved)
    seen = [Labelled(network.features(name, one), one.labels) for name, one in (("train", train), ("val", val)) if refit]
    if not runtime.is_main:
        return

    if refit:
        photos, model = joined(*seen), rebuild(info, state)
        out_of_fold = read_out_of_fold(OUT_OF_FOLD, classes, [*train.ids, *val.ids]).to_numpy()
        metrics |= _solve_again(model, info.solved, photos, out_of_fold, weight)
        state = model.state_dict()
        note += " The head was solved again on training and validation photos together: out-of-fold log-loss "
        note += f"{metrics['out_of_fold_log_loss']:.4f}, accuracy {metrics['out_of_fold_accuracy']:.2%}."
    made = {"stage": STAGE, "params": everything_set, "epoch": kept.epoch, "metrics": metrics, "note": note}
    made |= {"ood_blocks": network.unfrozen_blocks if kept.alpha and network.split else None, "versions": library_versions()}
    save_checkpoint(FINETUNED, info.model_copy(update=made), state, ood)
    write_json(METRICS / f"{STAGE}.json", metrics | {"epoch": kept.epoch, "epochs": len(result.history) - 1})
    write_json(SECONDS / f"{STAGE}.json", {"seconds": time.monotonic() - started})
    tracking.finish(metrics, FINETUNED)
    resume.remove()


def _solve_again(
    model: nn.Module, solved: Sequence[SolvedBlock], photos: Labelled, out_of_fold: np.ndarray, weight: Tensor | None
) -> dict[str, float]:
    """Solve the head on training and validation photos, with an out-of-fold temperature; returns out-of-fold metrics.

    Every choice is made by then, so validation photos need not be held back any longer.
    """
    unseen, labels = torch.from_numpy(out_of_fold).clamp(min=SMALLEST).log(), photos.labels
    set_linear_head(model, *solve_head(photos, solved, weight))
    apply_temperature(model, fit_temperature(unseen, labels, weight))
    losses = cross_fitted_losses(unseen, labels, weight)
    accuracy = (unseen.argmax(1) == labels).double().mean().item()
    clip = best_clip(cross_fitted_losses(unseen, labels))
    return {"out_of_fold_log_loss": losses.mean().item(), "out_of_fold_accuracy": accuracy, "clip": clip}


def _ood_of_trained(network: SplitNetwork, train: Photos, val: Photos) -> dict[str, Tensor]:
    """An OOD detector on what fine-tuning has not changed, or else on the features of the network as it is now."""
    chosen = sample_by_class(train.labels)
    train_features = network.pooled_activations("train", train, chosen)
    val_features = network.pooled_activations("val", val, list(range(len(val))))
    return OodDetector.fit(train_features, train.labels[chosen], val_features)._asdict()
