"""Stage 3, train-frozen-backbone: a converged head on the untouched backbone, in outputs/frozen.

Run it with `dvc repro train-frozen-backbone`, or bare with `python -m pipeline train-frozen-backbone`. Settings: `backbone` and
`train_frozen_backbone` in params.yaml.
"""

import math
import time

import numpy as np
import pandas as pd
from torch import Tensor

from pipeline.checkpoint import CheckpointInfo, HeadInfo, library_versions, save_checkpoint
from pipeline.data.dataset import Photos, data_fingerprints
from pipeline.data.manifest import classes_of, read_manifest, stored_fingerprint
from pipeline.errors import PipelineError
from pipeline.files import write_csv, write_json
from pipeline.models.backbone import Backbone, create_backbone
from pipeline.models.freezing import frozen_fingerprint, set_trainable
from pipeline.models.head import replace_head, set_linear_head
from pipeline.params import Params
from pipeline.paths import FEATURES, FROZEN, METRICS, OUT_OF_FOLD, PLOTS, PROCESSED, user_path
from pipeline.progress import say
from pipeline.runtime import ResolvedRuntime, resolve_runtime
from pipeline.training.depth import with_depth
from pipeline.training.features import Kept, Outputs, run_over
from pipeline.training.frozen_pass import frozen_pass, parts_of_pass, places_at_cut
from pipeline.training.ood import fit_ood_detector
from pipeline.training.out_of_fold import out_of_fold
from pipeline.training.probe import fit_probe
from pipeline.training.temperature import fit_temperature

STAGE = "train-frozen-backbone"


def run(params: Params) -> None:
    """Extract features, solve the probe, and save it as the head of a whole network."""
    started = time.monotonic()
    manifest = read_manifest(PROCESSED)
    classes, data = classes_of(manifest), data_fingerprints(manifest)
    runtime = resolve_runtime(params.runtime)
    backbone = create_backbone(params.backbone.name, params.backbone.weights, locate=user_path)
    model, preprocessing = backbone.model, backbone.preprocessing
    head_path = replace_head(model, len(classes), initialisation="zeros")
    set_trainable(model, "head")
    before = frozen_fingerprint(model)

    splits = {name: Photos.of_split(manifest, PROCESSED, name, classes) for name in ("train", "val")}
    train, val = _features(backbone, manifest, splits, runtime, params)
    if not runtime.is_main:
        return
    probe = fit_probe(
        train.values, train.labels, val.values, val.labels, l2_strengths=params.train_frozen_backbone.l2_strengths
    )
    model.to("cpu")
    set_linear_head(model, probe.weight, probe.bias)
    if frozen_fingerprint(model) != before:
        raise PipelineError("The frozen backbone moved while its head was solved. This is a defect: please report it.")
    metrics = {"val_accuracy": probe.best.accuracy, "val_log_loss": probe.best.log_loss, "l2": probe.best.l2}
    val_logits = val.values @ probe.weight.T + probe.bias
    metrics["temperature"] = fit_temperature(val_logits, val.labels)
    say(f"validation log-loss {probe.best.log_loss:.4f}, accuracy {probe.best.accuracy:.2%} with l2 = {probe.best.l2:g}")

    info = CheckpointInfo(
        stage=STAGE,
        backbone=backbone.info,
        head=HeadInfo(path=head_path, num_outputs=len(classes), initialisation="solved probe"),
        classes=classes,
        preprocessing=preprocessing,
        data=data,
        stored_size=256,
        params=params.model_dump(include={"backbone", "train_frozen_backbone"}),
        epoch=0,
        metrics=metrics,
        versions=library_versions(),
    )
    state = model.state_dict()
    general = {
        "epoch": 0,
        "model_state_dict": state,
        "ema_state_dict": None,
        "optimizer_state_dict": None,
        "loss": probe.best.log_loss,
    }
    save_checkpoint(FROZEN, info, state, general, fit_ood_detector(train.values, train.labels, val.values).tensors())
    write_csv(PLOTS / "l2_strengths.csv", [{"log10_l2": math.log10(one.l2)} | vars(one) for one in probe.candidates])
    _write_out_of_fold(manifest, splits, classes, train, val_logits, probe.best.l2)
    write_json(METRICS / f"{STAGE}.json", metrics | {"seconds": time.monotonic() - started})


def _features(
    backbone: Backbone, manifest: pd.DataFrame, splits: dict[str, Photos], runtime: ResolvedRuntime, params: Params
) -> tuple[Outputs, Outputs]:
    """Of training and validation photos, each computed once: the backbone does not learn, so a second pass would not differ.

    What fine-tuning starts from is kept on the way. Which blocks it unfreezes changes no bit of the features.
    """
    model, preprocessing, data = backbone.model, backbone.preprocessing, data_fingerprints(manifest)
    choice, settings = params.train_frozen_backbone.backend, with_depth(params.unfreeze_finetune, model, preprocessing)
    model.eval()
    run_network = frozen_pass(model, settings.unfrozen_blocks, splits["train"], preprocessing, choice=choice, runtime=runtime)
    stored = stored_fingerprint(manifest)
    deciding = parts_of_pass(model, backbone.info, preprocessing, stored, choice=choice, runtime=runtime)
    prints = {"train": data.train, "val": data.val}
    at_cut = places_at_cut(FEATURES, settings, prints, deciding)
    train, val = (
        run_over(
            run_network,
            photos,
            preprocessing,
            runtime=runtime,
            description=f"features of {name}",
            kept=Kept(FEATURES, photos=prints[name], **deciding),
            beside=at_cut(name),
        )
        for name, photos in splits.items()
    )
    return train, val


def _write_out_of_fold(
    manifest: pd.DataFrame,
    splits: dict[str, Photos],
    classes: tuple[str, ...],
    train: Outputs,
    val_logits: Tensor,
    l2: float,
) -> None:
    """What a head that never saw a photo says of it, by which the evaluation looks for wrong labels."""
    groups = manifest.set_index("id").loc[list(splits["train"].ids), "group"].tolist()
    unseen = out_of_fold(train.values, train.labels, groups, l2=l2)
    probabilities = np.concatenate([unseen, val_logits.double().softmax(1).numpy()])
    ids = pd.Index([*splits["train"].ids, *splits["val"].ids], name="id")
    pd.DataFrame(probabilities, ids, list(classes)).to_csv(OUT_OF_FOLD, float_format="%.6g", lineterminator="\n")
