"""Fine-tuning a network from its linear probe: the training loop.

The recipe: AdamW (or another of timm's optimizers) with layer-wise learning-rate decay, linear warm-up and a cosine,
BatchNorm in eval and folded, channels_last, mixed precision by Accelerate, and early stopping on validation log-loss. What is
scored is an exponential moving average (EMA) of the weights (Polyak and Juditsky, Acceleration of stochastic approximation by
averaging, 1992). At the end `pipeline.training.selection` chooses between the best epoch, points between it and the frozen
weights, and the frozen weights themselves, and the temperature of what is kept goes into its head.

Nothing about order is state. Dropout is seeded by (seed, step), photos are ordered and augmented by (seed, epoch, id), so a run
that starts again after any step makes the same further steps as one that was never stopped, bit for bit.
"""

import copy
import math
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.data.dataset import Batch, Photos, epoch_order, in_batches, load_batches
from pipeline.data.transforms import normalise
from pipeline.errors import PipelineError
from pipeline.models.backends import channels_last, cudnn_flags
from pipeline.models.folding import fix_same_padding, fold_batch_norm, unfold_batch_norm
from pipeline.models.freezing import frozen_fingerprint, parameter_groups
from pipeline.models.head import apply_temperature
from pipeline.params import UnfreezeFinetune
from pipeline.progress import progress, say
from pipeline.runtime import broadcast
from pipeline.training.activations import SplitNetwork, augmented, random_images, recipe_of, to_float16
from pipeline.training.faults import check_loss, explain_faults
from pipeline.training.features import batch_size_on
from pipeline.training.losses import LOSSES
from pipeline.training.resume import ResumeFolder
from pipeline.training.schedule import copy_of_epoch, learning_rate
from pipeline.training.selection import ALPHAS, Candidate, Choice, choose, fit_temperature
from pipeline.training.tracking import Tracking

MAX_BYTES_ON_DEVICE = 2**30  # of a copy's activations, which stay on a GPU for an epoch; more come batch by batch
FEW_COPIES = 4  # augmented ones, below which a strong augmentation is seen too seldom to mean much


class Epoch(NamedTuple):
    """What one epoch gave; epoch 0 is the frozen checkpoint, whose training loss is unknown."""

    epoch: int
    learning_rate: float
    train_loss: float | None
    val_log_loss: float  # with a cross-fitted temperature, by which epochs are compared
    val_accuracy: float


class Finetuned(NamedTuple):
    """The weights that are kept, why, their logits (n, classes) of the validation photos, and the course of training."""

    model_state: dict[str, Tensor]
    choice: Choice
    val_logits: Tensor
    history: tuple[Epoch, ...]


def finetune(
    network: SplitNetwork,
    train: Photos,
    val: Photos,
    settings: UnfreezeFinetune,
    frozen_loss: float,
    resume: ResumeFolder,
    tracking: Tracking | None = None,
    weight: Tensor | None = None,
) -> Finetuned:
    """Train until validation has not improved for `settings.patience` epochs, or all epochs are done, then choose.

    `weight`, (classes,), is what a photo of each class counts, in the training loss and in every choice; None: all alike.
    `frozen_loss` is that of `choose_recipe`.

    A PipelineError says that the loss is no longer finite or has exploded, memory or the disk is full, or a frozen tensor has
    moved.
    """
    trainer: Trainer | None = None
    beginning = "the activations of the photos"
    with explain_faults(settings, network.runtime.workers, where=lambda: trainer.where() if trainer else beginning):
        trainer = Trainer(network, train, val, settings, frozen_loss, tracking, weight)
        return trainer.run(resume)


class Trainer:
    """The state of a training and the steps that move it on."""

    def __init__(
        self,
        network: SplitNetwork,
        train: Photos,
        val: Photos,
        settings: UnfreezeFinetune,
        frozen_loss: float,
        tracking: Tracking | None = None,
        weight: Tensor | None = None,
    ) -> None:
        self.network, self.train, self.val, self.settings, self.tracking = network, train, val, settings, tracking
        self.weight, self.runtime, self.classes = weight, network.runtime, network.classes
        self.frozen_before = frozen_fingerprint(network.model)
        self.val_activations = network.activations("val", val) if network.split else None
        is_split = network.split is not None
        self.recipe = recipe_of(
            network.model, network.preprocessing, settings, len(train), frozen_loss=frozen_loss, is_split=is_split
        )
        self.epochs, self.copies, self.batch_size = self.recipe.epochs, self.recipe.copies, self.recipe.batch_size
        some = range(len(val))[:2]
        example = self.val_activations.rows(some) if self.val_activations else random_images(network.preprocessing)
        # Whether activations of all copies fit in the cache; where not, the same are computed again for each batch.
        self.cached = is_split and network.fits_in_cache(example[0].numel(), len(train), self.copies)
        if network.split and not self.cached:
            say("activations of all copies would exceed the cache, so they are computed again in every epoch")
        if self.epochs and settings.augmentation != "light" and self.copies - 1 < FEW_COPIES:
            say(f"augmentation {settings.augmentation} of {self.copies - 1} copies: too few for it to matter much")
        device = self.runtime.device
        self.trainable = channels_last(network.trainable.to(device))
        fix_same_padding(self.trainable)
        fold_batch_norm(self.trainable, example.to(device))
        self.initial_state = _on_cpu(self.trainable.state_dict())
        self.steps_an_epoch = math.ceil(len(train) / self.batch_size)
        # Over a fraction of the steps, whatever their number; it starts short, so that it does not remember the beginning.
        decay = max(0.0, 1 - 1 / max(1.0, settings.ema_fraction * self.epochs * self.steps_an_epoch))
        self.ema = ModelEmaV3(self.trainable, decay, use_warmup=True)
        self.accelerator = self.runtime.accelerator()
        self.model = self.accelerator.prepare_model(self.trainable)
        groups = partial(parameter_groups, weight_decay=settings.weight_decay, layer_decay=settings.layer_decay)
        is_real = all(parameter.is_floating_point() for parameter in self.trainable.parameters())
        can_fuse = settings.optimizer == "adamw" and device.type in ("cpu", "cuda") and is_real
        fused: dict[str, Any] = {"fused": True} if can_fuse else {}
        optimizer = create_optimizer_v2(
            network.model, settings.optimizer, lr=self.recipe.learning_rate, param_group_fn=groups, **fused
        )
        self.optimizer = self.accelerator.prepare_optimizer(optimizer)
        self.history: list[Epoch] = []
        self.losses: list[float] = []  # of every step
        self.photos_done, self.loss_sum = 0, 0.0  # of the epoch that is running
        self.best_state: dict[str, Tensor] = {}
        self.val_logits: dict[str, Tensor] = {}  # of the frozen weights and of the best ones, (n, classes)

    def run(self, resume: ResumeFolder) -> Finetuned:
        """From the newest state to the end."""
        self.start(resume.read())
        while not self.finished():
            self.train_epoch(resume)
        return self.result()

    def start(self, state: dict[str, Any] | None = None) -> None:
        """Go on from what `state` gave; without one, score the network as it came: epoch 0."""
        if state is None:
            say(f"fine-tuning: {self.recipe}" if self.epochs else "nothing is fine-tuned")
        else:
            self.trainable.load_state_dict(state["model_state_dict"])
            self.ema.module.load_state_dict(state["ema_state_dict"])
            self.optimizer.load_state_dict(state["optimizer_state_dict"])
            if self.accelerator.scaler:
                self.accelerator.scaler.load_state_dict(state["scaler_state_dict"])
            self.photos_done, self.loss_sum = state["photos_done"], state["loss_sum"]
            self.best_state, self.losses = state["best_state_dict"], state["losses"]
            self.val_logits = state["val_logits"]
            self.history = [Epoch(**epoch) for epoch in state["history"]]
            say(f"resuming after {self.photos_done:,} photos of epoch {len(self.history)}")
        if self.tracking:
            total_steps = self.epochs * self.steps_an_epoch
            self.tracking.start(self.losses, self._rows(), total_steps=total_steps, rate_of=self._learning_rate)
        if state is None:
            self._finish_epoch(train_loss=None)

    def finished(self) -> bool:
        """Whether all epochs are done or patience is at its end, which begins with photos of the network's own size."""
        last, best = self.history[-1].epoch, _best(self.history)
        at_low_resolution = sum(self.copy_of(epoch)[1] for epoch in range(1, self.epochs + 1))
        return last >= self.epochs or last - max(best, at_low_resolution) >= self.settings.patience

    def train_epoch(self, resume: ResumeFolder) -> None:
        """The rest of a pass over the training photos, then validation."""
        epoch, batch_size = len(self.history), self.batch_size
        self.set_training_mode()
        with progress(f"epoch {epoch} of {self.epochs}", total=len(self.train), done=self.photos_done) as advance:
            for inputs, labels in self._batches(epoch):
                step = (epoch - 1) * self.steps_an_epoch + self.photos_done // batch_size
                photos = min(batch_size, len(self.train) - self.photos_done)  # of all processes
                self.loss_sum += self._step(step, inputs, labels, photos) * photos
                self.photos_done += photos
                if self.tracking:
                    self.tracking.step(self.losses)
                mean, accuracy = self.loss_sum / self.photos_done, self.history[-1].val_accuracy
                advance(photos, note=f"loss {mean:.4f}, last validation accuracy {accuracy:.2%}")
                if self.photos_done < len(self.train):  # trackers log the last step and its validation as one
                    resume.write_when_due(self.state)
        self._finish_epoch(train_loss=self.loss_sum / self.photos_done)
        self.photos_done, self.loss_sum = 0, 0.0
        resume.write(self.state())

    def set_training_mode(self) -> None:
        """Dropout is on, and every BatchNorm keeps its statistics: those of an MLP head are the frozen stage's."""
        self.model.train()
        for module in self.trainable.modules():
            if isinstance(module, _BatchNorm):
                module.eval()

    def copy_of(self, epoch: int) -> tuple[int, bool]:
        """Which copy an epoch takes, and whether it is at low resolution."""
        number, low = copy_of_epoch(epoch, epochs=self.epochs, copies=self.copies)
        return number, low and self.network.low_resolution is not None

    def _batches(self, epoch: int) -> Iterator[Batch]:
        """What is left of an epoch, as the trainable part takes it; of several processes each takes its part of every batch."""
        order = epoch_order(len(self.train), seed=self.settings.seed, epoch=epoch)[self.photos_done :]
        network, runtime, device = self.network, self.runtime, self.runtime.device
        # A process for which the last batch has no photo left repeats one, with weight 0, so that all make as many steps.
        places = [batch[runtime.rank :: runtime.processes] or batch[:1] for batch in in_batches(order, self.batch_size)]
        number, low = self.copy_of(epoch)
        augmentation, seed = self.settings.augmentation, self.settings.seed
        if self.cached:
            cached = network.activations(
                "train", self.train, copy_number=number, low_resolution=low, augmentation=augmentation, seed=seed
            )
            if device.type == "cpu" or sum(chunk.nbytes for chunk in cached.chunks) > MAX_BYTES_ON_DEVICE:
                return ((cached.rows(batch), self.train.labels[batch]) for batch in places)
            values, all_labels = cached.tensor().to(device), self.train.labels.to(device)
            return ((values[batch], all_labels[batch]) for batch in places)
        preprocessing = network.preprocessing_of(low)
        transform = augmented(preprocessing, augmentation, seed, number)
        loaded = load_batches(
            self.train, transform, places, workers=runtime.workers, by_processes=number > 0, pinned=runtime.pinned
        )
        if network.split is None:
            return ((normalise(pixels.to(device), preprocessing), labels) for pixels, labels in loaded)
        run = network.backend(self.train, low_resolution=low).run
        return ((to_float16(run(pixels.to(device))), labels) for pixels, labels in loaded)

    def _step(self, step: int, inputs: Tensor, labels: Tensor, photos: int) -> float:
        """One update from a batch that `_batches` gave, of `photos` in all processes; returns the mean loss over those."""
        rank, processes = self.runtime.rank, self.runtime.processes
        # Dropout and stochastic depth read the global generator, which on a processor takes the low 32 bits of a seed.
        seed = (self.settings.seed * 1_000_003 + step) * processes
        torch.manual_seed((seed + rank) % 2**63)
        rate = self._learning_rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        own = len(range(rank, photos, processes))  # of this process; a repeated photo counts for nothing
        parts = range(0, len(inputs), -(-len(inputs) // self.settings.gradient_accumulation))
        size, loss_sum = parts.step, 0.0
        self.optimizer.zero_grad(set_to_none=True)
        for start in parts:
            with nullcontext() if start == parts[-1] else self.accelerator.no_sync(self.model):
                loss = self._loss(inputs[start : start + size], labels[start : start + size])
                weight = min(size, len(inputs) - start) / photos if own else 0.0
                # DistributedDataParallel divides the sum over processes by their number.
                self.accelerator.backward(loss * (weight * processes))
                loss_sum += loss.item() * weight
        if processes > 1:
            loss_sum = float(self.accelerator.reduce(torch.tensor(loss_sum, device=self.runtime.device), "sum"))
        self.losses.append(loss_sum)
        # A photo of a rare class may count so much that a single one looks like an explosion.
        guessing = math.log(self.classes) * (1.0 if self.weight is None else self.weight.max().item())
        check_loss(self.losses, guessing=guessing, learning_rate=rate)
        if self.settings.gradient_clipping is not None:
            self.accelerator.clip_grad_norm_(self.trainable.parameters(), self.settings.gradient_clipping)
        if processes > 1:  # an optimizer that draws (kron) takes the same step in all of them
            torch.manual_seed(seed % 2**63)
        self.optimizer.step()
        self.ema.update(self.trainable, step + 1)
        return loss_sum

    def _loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """The mean over a part of the batch."""
        inputs = inputs.to(self.runtime.device, non_blocking=True).float()
        logits = self.model(_channels_last(inputs))[:, : self.classes]
        labels = labels.to(self.runtime.device, non_blocking=True)
        losses = LOSSES[self.settings.loss](logits.float(), labels)
        return (losses if self.weight is None else losses * self.weight.to(losses)[labels]).mean()

    def _learning_rate(self, step: int) -> float:
        total_steps = self.epochs * self.steps_an_epoch
        warmup_steps = round(self.settings.warmup_fraction * total_steps)
        return learning_rate(step, total_steps=total_steps, warmup_steps=warmup_steps, peak=self.recipe.learning_rate)

    def _finish_epoch(self, train_loss: float | None) -> None:
        epoch = len(self.history)
        rate = 0.0 if epoch == 0 else self._learning_rate(epoch * self.steps_an_epoch - 1)
        logits = self._val_logits(self.ema.module)
        scored = self._score(1.0, epoch, logits)
        say(f"epoch {epoch}: validation log-loss {scored.log_loss:.4f}, accuracy {scored.accuracy:.2%}")
        self.history.append(Epoch(epoch, rate, train_loss, scored.log_loss, scored.accuracy))
        if epoch == 0:
            self.val_logits["frozen"] = logits
        elif _best(self.history[1:]) == epoch:
            self.best_state = _on_cpu(self.ema.module.state_dict())
            self.val_logits["best"] = logits
        if self.tracking:
            self.tracking.epoch(self._rows(), len(self.losses), self.trainable, logits)

    def _val_logits(self, trainable: nn.Module) -> Tensor:
        """Logits (n, classes) of the validation photos in float32, by which every choice is made."""
        if self.val_activations is not None:
            trainable.eval()
            with torch.inference_mode(), cudnn_flags(tf32=False):
                batches = in_batches(range(len(self.val)), batch_size_on(self.runtime.device))
                parts = map(self.val_activations.rows, batches)
                outputs = [trainable(_channels_last(part.to(self.runtime.device))).cpu() for part in parts]
            return torch.cat(outputs)[:, : self.classes]
        # A network that is not split: the photos go through all of it.
        plain = copy.deepcopy(trainable).cpu().eval().to(memory_format=torch.contiguous_format)
        unfold_batch_norm(plain)
        return self.network.run_whole(plain, self.val, "validating")[:, : self.classes]

    def _score(self, alpha: float, epoch: int, logits: Tensor) -> Candidate:
        if not torch.isfinite(logits).all():
            advice = "Lower unfreeze_finetune.learning_rate. The frozen checkpoint is untouched."
            raise PipelineError(f"The network gives no finite outputs after epoch {epoch}. {advice}")
        return broadcast(self.runtime, lambda: Candidate.of(alpha, epoch, logits, self.val.labels, self.weight))

    def result(self) -> Finetuned:
        """The weights that are kept, once nothing frozen is shown to have moved."""
        if frozen_fingerprint(self.network.model) != self.frozen_before:
            raise PipelineError("A frozen tensor moved during fine-tuning. This is a defect: please report it.")
        best, logits = _best(self.history[1:] or self.history), {0.0: self.val_logits["frozen"]}  # epoch 0 is alpha 0
        if self.best_state:
            for alpha in ALPHAS:
                self.ema.module.load_state_dict(self._between(alpha))
                logits[alpha] = self._val_logits(self.ema.module)
            logits[1.0] = self.val_logits["best"]
        frozen, *candidates = (self._score(alpha, best if alpha else 0, values) for alpha, values in logits.items())
        choice = broadcast(self.runtime, lambda: choose(frozen, candidates, self.val.groups))
        say(choice.reason)
        alpha = choice.candidate.alpha
        self.trainable.load_state_dict(self._between(alpha))
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)  # or features would be computed in mixed precision
        self.trainable.cpu()  # torch.fx may have given it buffers of its own
        model = self.network.model.cpu()
        unfold_batch_norm(model)
        if alpha:  # the frozen weights carry their own temperature
            apply_temperature(model, fit_temperature(logits[alpha], self.val.labels, self.weight))
        state = {name: tensor.contiguous() for name, tensor in _on_cpu(model.state_dict()).items()}
        return Finetuned(state, choice, logits[alpha], tuple(self.history))

    def _between(self, alpha: float) -> dict[str, Tensor]:
        """Weights between the frozen and the best ones; integers are the same in both."""
        return {
            name: initial.lerp(self.best_state[name], alpha)
            if alpha and (initial.is_floating_point() or initial.is_complex())
            else initial
            for name, initial in self.initial_state.items()
        }

    def state(self) -> dict[str, Any]:
        """The general checkpoint: everything that a fresh trainer needs to go on, in tensors and primitives."""
        return {
            "epoch": self.history[-1].epoch,
            "photos_done": self.photos_done,
            "loss_sum": self.loss_sum,
            "model_state_dict": _on_cpu(self.trainable.state_dict()),
            "ema_state_dict": _on_cpu(self.ema.module.state_dict()),
            "optimizer_state_dict": self.optimizer.state_dict(),
            "scaler_state_dict": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
            "loss": self.history[-1].train_loss,
            "best_state_dict": self.best_state,
            "val_logits": self.val_logits,
            "history": self._rows(),
            "losses": self.losses,
        }

    def where(self) -> str:
        """The step that is running, for messages."""
        return f"step {len(self.losses) + 1:,} (epoch {len(self.history)})"

    def _rows(self) -> list[dict[str, Any]]:
        return [epoch._asdict() for epoch in self.history]


def _best(history: list[Epoch]) -> int:
    return min(history, key=lambda one: one.val_log_loss).epoch


def _channels_last(inputs: Tensor) -> Tensor:
    return inputs.contiguous(memory_format=torch.channels_last) if inputs.ndim == 4 else inputs


def _on_cpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
