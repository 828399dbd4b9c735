"""The whole job on one page: photos -> features -> solved head -> fine-tuning -> interpolation -> calibration -> score.

    uv run dvc repro preprocess                  # the photos: drawn, split and stored in data/processed
    uv run python examples/whole_job.py

It does what the stages of the pipeline do, with the same library and, for the default settings, the same numbers, but without
checkpoints, caches, resuming or reports. Where the frozen weights are kept, the pipeline also solves the head again on training
and validation photos; this page does not. Read it from top to bottom.
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pipeline.data.dataset import Photos, epoch_order, in_batches
from pipeline.data.manifest import classes_of, read_manifest
from pipeline.models.backbone import create_backbone
from pipeline.models.folding import fix_same_padding, fold_batch_norm, unfold_batch_norm
from pipeline.models.freezing import parameter_groups
from pipeline.models.head import apply_temperature, replace_head, set_linear_head
from pipeline.params import Runtime, UnfreezeFinetune
from pipeline.runtime import resolve_runtime
from pipeline.training.activations import SplitNetwork, recipe_of
from pipeline.training.features import backend_for, evaluation, run_inference
from pipeline.training.probe import Labelled, fit_probe
from pipeline.training.schedule import copy_of_epoch, learning_rate
from pipeline.training.selection import Candidate, choose, cross_fitted_losses, fit_temperature, guessing_loss

WEIGHT_DECAY, LAYER_DECAY, PATIENCE, SEED = 0.02, 0.8, 3, 0
EXPECTED_ACCURACY = 0.90  # at least, on the test photos of the default settings

if __name__ == "__main__":  # processes that decode photos may import this file too, and are not to do the job again
    # 1. Photos. The manifest has a row for every file; a group of duplicates never lies in two splits.
    processed = Path("data/processed")
    manifest = read_manifest(processed)
    classes = classes_of(manifest)
    train, val, test = (Photos.of_split(manifest, processed, split, classes) for split in ("train", "val", "test"))
    runtime = resolve_runtime(Runtime())

    # 2. A backbone with ImageNet weights, its classifier replaced. It knows the preprocessing that its weights want.
    backbone = create_backbone("tf_efficientnet_lite0", "package")
    model, preprocessing = backbone.model, backbone.preprocessing
    replace_head(model, len(classes), initialisation="zeros")

    # 3. The network is split where fine-tuning will begin to learn: the topmost blocks, with up to half of the operations. What
    #    lies below is frozen, so each photo goes through it once, on the fastest backend of this machine.
    recipe = recipe_of(model, preprocessing, UnfreezeFinetune(), len(train))
    network = SplitNetwork(model, recipe.unfrozen_blocks, preprocessing, choice="auto", runtime=runtime)
    assert network.split is not None
    train_features, val_features = network.features("train", train), network.features("val", val)

    # 4. The linear probe: with the backbone frozen, the best head is the solution of a convex problem. L-BFGS finds it in a
    #    second, for each L2 strength, and validation chooses. Its temperature makes the probabilities calibrated.
    probe = fit_probe(Labelled(train_features, train.labels), Labelled(val_features, val.labels))
    set_linear_head(model, probe.weight, probe.bias)
    apply_temperature(model, fit_temperature(probe.logits(val_features), val.labels))
    frozen_loss = float(cross_fitted_losses(probe.logits(val_features), val.labels).mean())
    print(f"frozen: validation log-loss {frozen_loss:.4f}")

    # 5. Fine-tuning starts from the converged head (LP-FT), on activations of what is frozen. BatchNorm keeps its statistics,
    #    so it folds into the convolutions. What is scored is a moving average of the weights (EMA). The better the frozen head,
    #    the smaller are the steps.
    frozen_loss /= guessing_loss(train.labels)
    recipe = recipe_of(model, preprocessing, UnfreezeFinetune(), len(train), frozen_loss=frozen_loss)
    trainable = network.trainable.to(memory_format=torch.channels_last)
    val_activations = network.activations("val", val).tensor()
    fix_same_padding(trainable)
    fold_batch_norm(trainable, val_activations[:2])
    frozen_weights = {name: tensor.clone() for name, tensor in trainable.state_dict().items() if tensor.is_floating_point()}
    groups = partial(parameter_groups, weight_decay=WEIGHT_DECAY, layer_decay=LAYER_DECAY)
    optimizer = create_optimizer_v2(model, "adamw", lr=recipe.learning_rate, param_group_fn=groups, fused=True)
    epochs, copies = recipe.epochs, recipe.copies
    steps_an_epoch = -(-len(train) // recipe.batch_size)
    ema = ModelEmaV3(trainable, max(0.0, 1 - 1 / max(1.0, 0.05 * epochs * steps_an_epoch)), use_warmup=True)

    def as_input(activations: Tensor) -> Tensor:
        """In float32, with channels last, which convolutions are fastest on."""
        values = activations.float()
        return values.contiguous(memory_format=torch.channels_last) if values.ndim == 4 else values

    @torch.inference_mode()
    def val_logits(part: nn.Module) -> Tensor:
        """Of all validation photos, (n, classes)."""
        part.eval()
        return torch.cat([part(as_input(batch)) for batch in val_activations.split(32)])[:, : len(classes)]

    def train_epoch(epoch: int) -> None:
        """One pass: half of the copies are augmented at low resolution, the original photos come last."""
        number, low = copy_of_epoch(epoch, epochs=epochs, copies=copies)
        low = low and network.low_resolution is not None
        activations = network.activations(
            "train", train, copy_number=number, low_resolution=low, augmentation="light", seed=SEED
        )
        trainable.train()
        order = epoch_order(len(train), seed=SEED, epoch=epoch)
        for step, places in enumerate(in_batches(order, recipe.batch_size), (epoch - 1) * steps_an_epoch):
            total, warmup = epochs * steps_an_epoch, round(0.125 * epochs * steps_an_epoch)
            rate = learning_rate(step, total_steps=total, warmup_steps=warmup, peak=recipe.learning_rate)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["lr_scale"]
            with torch.autocast("cpu", torch.bfloat16, enabled=runtime.mixed_precision == "bf16"):
                logits = trainable(as_input(activations.rows(places)))[:, : len(classes)]
            loss = cross_entropy(logits.float(), train.labels[places])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            ema.update(trainable, step + 1)

    best_weights, best_epoch, losses = {}, 0, [float(cross_fitted_losses(val_logits(ema.module), val.labels).mean())]
    low_epochs = sum(copy_of_epoch(epoch, epochs=epochs, copies=copies)[1] for epoch in range(1, epochs + 1))
    for epoch in range(1, epochs + 1):
        train_epoch(epoch)
        losses.append(float(cross_fitted_losses(val_logits(ema.module), val.labels).mean()))
        print(f"epoch {epoch} of {epochs}: validation log-loss {losses[-1]:.4f}")
        if losses[-1] == min(losses[1:]):
            best_weights, best_epoch = {name: tensor.clone() for name, tensor in ema.module.state_dict().items()}, epoch
        if epoch - max(int(np.argmin(losses)), low_epochs) >= PATIENCE:
            break

    # 6. Between the frozen and the fine-tuned weights (WiSE-FT): the point with the best calibrated log-loss, unless its gain
    #    over the frozen weights may be chance. Its temperature goes into the head.
    def between(alpha: float) -> dict[str, Tensor]:
        """That point."""
        return {name: start.lerp(best_weights[name], alpha) for name, start in frozen_weights.items()}

    logits = {}
    for alpha in (0.0, 0.25, 0.5, 0.75, 1.0):
        ema.module.load_state_dict(between(alpha), strict=False)
        logits[alpha] = val_logits(ema.module)
    frozen, *others = (Candidate.of(alpha, best_epoch, values, val.labels) for alpha, values in logits.items())
    choice = choose(frozen, others, val.groups)
    alpha = choice.candidate.alpha
    print(choice.reason)
    trainable.load_state_dict(between(alpha), strict=False)
    unfold_batch_norm(model)
    if alpha:
        apply_temperature(model, fit_temperature(logits[alpha], val.labels))

    # 7. The score, on photos that no choice has seen, in float32.
    model.eval().to(memory_format=torch.contiguous_format)
    backend = backend_for(model, test, preprocessing, choice="auto", runtime=runtime, float32=True)
    [outputs] = run_inference(backend.run, test, evaluation(preprocessing), runtime=runtime, description="testing")
    accuracy = (outputs.tensor().argmax(1) == test.labels).double().mean().item()
    log_loss = cross_entropy(outputs.tensor().double(), test.labels).item()
    print(f"test: accuracy {accuracy:.4f}, log-loss {log_loss:.4f}, {len(test)} photos")
    assert accuracy >= EXPECTED_ACCURACY, f"expected at least {EXPECTED_ACCURACY:.0%} of the default photos"
