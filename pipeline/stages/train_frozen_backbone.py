"""Stage 3, train-frozen-backbone: a converged head on the untouched backbone, in outputs/frozen.

Run it with `dvc repro train-frozen-backbone`, or bare with `python -m pipeline train-frozen-backbone`. Settings: `backbone`,
`head` and `train_frozen_backbone` in params.yaml; `unfrozen_blocks` and `budget` of `unfreeze_finetune` say where to split.
"""

import math
import time

import torch
from torch import Tensor, nn

from pipeline.checkpoint import CheckpointInfo, library_versions, save_checkpoint
from pipeline.data.dataset import Photos, data_fingerprints
from pipeline.data.manifest import classes_of, read_manifest, read_stored_size, stored_fingerprint
from pipeline.errors import PipelineError
from pipeline.files import write_csv, write_json
from pipeline.models.backbone import create_backbones
from pipeline.models.freezing import frozen_fingerprint, set_trainable
from pipeline.models.head import apply_temperature, replace_head_as_set, set_linear_head
from pipeline.models.ood import OodDetector, sample_by_class, score_on_held_back_classes
from pipeline.params import Params
from pipeline.paths import FEATURES, FROZEN, METRICS, OUT_OF_FOLD, PLOTS, PROCESSED, SECONDS, TRAIN_FEATURES, user_path
from pipeline.progress import say
from pipeline.runtime import resolve_runtime
from pipeline.training.activations import SplitNetwork, recipe_of
from pipeline.training.features import write_features
from pipeline.training.probe import Labelled, fit_probe, fit_several, joined, out_of_fold, train_mlp, write_out_of_fold
from pipeline.training.selection import best_clip, class_weight, cross_fitted_losses, fit_temperature

STAGE = "train-frozen-backbone"


def run(params: Params) -> None:
    """Extract features, solve the linear probe (or train an MLP), and save it as the head of a whole network."""
    started = time.monotonic()
    manifest = read_manifest(PROCESSED)
    classes, data = classes_of(manifest), data_fingerprints(manifest)
    runtime = resolve_runtime(params.runtime)
    backbone = create_backbones(params.backbone.parts, locate=user_path)
    model, preprocessing = backbone.model, backbone.preprocessing
    head = replace_head_as_set(model, len(classes), params.head)
    set_trainable(model, "head")
    before = frozen_fingerprint(model)

    splits = {name: Photos.of_split(manifest, PROCESSED, name, classes) for name in ("train", "val")}
    recipe = recipe_of(model, preprocessing, params.unfreeze_finetune, len(splits["train"]))
    network = SplitNetwork(model, recipe.unfrozen_blocks, preprocessing, params.train_frozen_backbone.backend, runtime)
    network.use_cache(FEATURES, backbone.info, stored_fingerprint(manifest))
    train, val = (Labelled(network.features(name, photos), photos.labels, photos.groups) for name, photos in splits.items())
    if not runtime.is_main:
        return
    weight = class_weight(params.head.class_weight, train.labels)
    if parts := backbone.info.parts:  # what each is worth alone and together
        names, widths = [part.name for part in parts], backbone.info.kwargs["widths"]
        probe, tried = fit_several(train, val, widths=widths, names=names, weight=weight)
    else:
        probe, tried = fit_probe(train, val, weight=weight), {}
    if params.head.type == "linear":
        set_linear_head(model, probe.weight, probe.bias)
        val_logits = probe.logits(val.features)
    else:
        say(f"training an MLP head; a linear probe has a validation log-loss of {probe.best.log_loss:.4f}")
        val_logits = _train_mlp(model.get_submodule(head.path), train, val, weight)
    apply_temperature(model, fit_temperature(val_logits, val.labels, weight))
    set_trainable(model, "head")
    if frozen_fingerprint(model) != before:
        raise PipelineError("The frozen backbone moved while its head was solved. This is a defect: please report it.")
    metrics = {
        "val_log_loss": float(cross_fitted_losses(val_logits, val.labels, weight).mean()),
        "val_accuracy": float((val_logits.argmax(1) == val.labels).double().mean()),
        "clip": best_clip(cross_fitted_losses(val_logits, val.labels)),
    }
    metrics |= {"l2": probe.best.l2} if len(probe.solved) == 1 else {}  # a blend has a strength for each backbone
    chosen = sample_by_class(train.labels)
    sample = train.features[chosen], train.labels[chosen]
    metrics["ood_auroc"], metrics["ood_fpr95"] = score_on_held_back_classes(*sample, val.features, val.labels)
    say(f"frozen: validation log-loss {metrics['val_log_loss']:.4f}, accuracy {metrics['val_accuracy']:.2%}")
    say(f"out-of-distribution AUROC of a held-back class against the others: {metrics['ood_auroc']:.4f}")

    info = CheckpointInfo(
        stage=STAGE,
        backbone=backbone.info,
        head=head,
        classes=classes,
        solved=probe.solved if params.head.type == "linear" else (),
        preprocessing=preprocessing,
        data=data,
        stored_size=read_stored_size(PROCESSED),
        params=params.model_dump(include={"backbone", "head", "train_frozen_backbone"}),
        epoch=0,
        metrics=metrics,
        heads_tried=tried,
        versions=library_versions(),
    )
    save_checkpoint(FROZEN, info, model.state_dict(), OodDetector.fit(*sample, val.features)._asdict())
    write_csv(PLOTS / "l2_strengths.csv", [{"log10_l2": math.log10(one.l2)} | one._asdict() for one in probe.tried])
    # Probabilities of heads that never saw the photo: the evaluation scores them, and looks for label issues by them.
    unseen = out_of_fold(joined(train, val), probe.solved, weight)
    write_out_of_fold(OUT_OF_FOLD, classes, [*splits["train"].ids, *splits["val"].ids], unseen)
    write_features(TRAIN_FEATURES, train.features)
    write_json(METRICS / f"{STAGE}.json", metrics)
    write_json(SECONDS / f"{STAGE}.json", {"seconds": time.monotonic() - started})


def _train_mlp(head: nn.Module, train: Labelled, val: Labelled, weight: Tensor | None) -> Tensor:
    """Validation logits of the trained head."""
    if isinstance(head.get_submodule("output"), nn.Conv2d):  # over pooled maps that were not flattened
        train, val = (part._replace(features=part.features[:, :, None, None]) for part in (train, val))
    whole = nn.Sequential(head, nn.Flatten())
    epoch, log_loss = train_mlp(whole, train, val, weight=weight)
    say(f"MLP head of epoch {epoch}: validation log-loss {log_loss:.4f}")
    with torch.no_grad():
        return whole(val.features)
