"""Fine-tune a network from its converged probe: the training loop.

    result = finetune(model, task, resume, trackers)
    result.model_state, result.best_epoch, result.history

The recipe: AdamW with layer-wise learning-rate decay, linear warm-up and a cosine, BatchNorm in eval, channels_last, bfloat16
where the processor has it, and early stopping on validation log-loss. What is judged and kept is a moving average of the
weights (Polyak and Juditsky, Acceleration of stochastic approximation by averaging, 1992). At the end the best epoch's are
interpolated with those that came in (Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022) and the point between
the two that does best on validation is kept. The weights that came in are one end of the line, so what comes out is never worse
on validation. Epochs and points are compared by log-loss after temperature scaling (Guo et al., On calibration of modern neural
networks, ICML 2017), because being too sure is what one number mends: the head that is kept is divided by that temperature.

Nothing about order is state. Dropout is seeded by (seed, step), photos are ordered and changed by (seed, epoch, id), so a run
that starts again after any step makes the same further steps as one that was never stopped, bit for bit.
"""

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from timm.optim import param_groups_layer_decay
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pipeline.data.dataset import Batch, epoch_order, shares_of_batches, training_batches
from pipeline.data.transforms import TrainingTransform, normalise
from pipeline.errors import PipelineError
from pipeline.models.folding import fold_batch_norm
from pipeline.models.freezing import frozen_fingerprint, set_trainable
from pipeline.models.solved_head import apply_temperature
from pipeline.progress import progress, say
from pipeline.training.distributed import mean_loss_and_gradients
from pipeline.training.faults import check_loss, faults_told
from pipeline.training.resume import ResumeFolder
from pipeline.training.schedule import default_epochs, default_views, learning_rate, view_of_epoch
from pipeline.training.task import Task
from pipeline.training.tracking import Trackers
from pipeline.training.trunk import Trunk, build_trunk, random_images
from pipeline.training.validation import Validation

# Shares of the fine-tuned weights that are tried besides none and all of them.
SHARES = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave; epoch 0 is the network as it came, whose training loss is unknown."""

    epoch: int
    learning_rate: float
    train_loss: float | None
    val_log_loss: float
    val_accuracy: float
    val_temperature: float  # that makes the validation log-loss least
    val_calibrated_log_loss: float  # the log-loss with it, by which epochs are compared


@dataclass(frozen=True)
class Interpolated:
    """What weights did on validation that hold `share` of the fine-tuned ones and 1 - `share` of those that came in."""

    share: float
    val_log_loss: float
    val_accuracy: float
    val_temperature: float
    val_calibrated_log_loss: float


@dataclass(frozen=True)
class Finetuned:
    """The weights kept, the course of training, the general checkpoint of the last epoch, and what frozen blocks gave.

    `kept` is how far the kept weights lie on the way from those that came in (share 0) to those of `best` (share 1), the best
    epoch of training.
    """

    model_state: dict[str, Tensor]
    kept: Interpolated
    best: Epoch
    history: tuple[Epoch, ...]
    training_state: dict[str, Any]
    trunk: Trunk | None


def finetune(model: nn.Module, task: Task, resume: ResumeFolder, trackers: Trackers | None = None) -> Finetuned:
    """Train until the validation log-loss has not improved for `settings.patience` epochs, or all epochs are done.

    Raises:
        PipelineError: the loss is no longer finite or has exploded, memory or the disk is full, or a frozen tensor has moved.
    """
    trainer: Trainer | None = None

    def where() -> str:
        return trainer.where() if trainer else "the first look at the photos"

    with faults_told(task.settings, task.runtime.workers, where=where):
        trainer = Trainer(model, task, trackers)
        state = resume.read()
        if state is None:
            trainer.start()
        else:
            trainer.load_state(state)
            say(f"going on after {trainer.photos_done:,} photos of epoch {len(trainer.history)}, as an earlier run left it")
        while not trainer.finished():
            trainer.train_epoch(resume)
        return trainer.result()


class Trainer:
    """The state of a training and the steps that move it on."""

    def __init__(self, model: nn.Module, task: Task, trackers: Trackers | None = None) -> None:
        self.task, self.trackers = task, trackers
        self.train, self.val, self.settings, self.runtime = task.train, task.val, task.settings, task.runtime
        settings, runtime, train = task.settings, task.runtime, task.train
        set_trainable(model, settings.unfrozen_blocks)
        self.frozen_before = frozen_fingerprint(model)
        self.transform = TrainingTransform(task.preprocessing, settings.augmentation, settings.seed)
        self.trunk = build_trunk(model.train(), task)
        self.validation = Validation(task, self.trunk)
        self.epochs = self._default_epochs() if settings.epochs == "auto" else settings.epochs
        views = default_views(len(train)) if settings.augmented_copies == "auto" else settings.augmented_copies
        self.views = min(views, self.epochs)  # so that the unchanged photos, which cost nothing, have their turn
        self.model = model.to(runtime.device).to(memory_format=torch.channels_last)
        fold_batch_norm(self.model, random_images(task.preprocessing).to(runtime.device))
        groups = param_groups_layer_decay(model, settings.weight_decay, layer_decay=settings.layer_decay)
        fused = runtime.device.type in ("cpu", "cuda")
        self.optimiser = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=fused)
        self.steps_an_epoch = math.ceil(len(train) / settings.batch_size)
        # Over a share of the steps, whatever their number; it starts short, so that it does not remember the beginning.
        decay = max(0.0, 1 - 1 / max(1.0, settings.ema_fraction * self.epochs * self.steps_an_epoch))
        self.average = ModelEmaV3(self.model, decay, use_warmup=True)
        self.history: list[Epoch] = []
        self.losses: list[float] = []  # of every step
        self.photos_done, self.loss_sum = 0, 0.0  # of the epoch that is running
        self.initial_state = _on_cpu(model.state_dict())
        self.best_state: dict[str, Tensor] = {}

    def _default_epochs(self) -> int:
        """More where an epoch costs the upper blocks alone; through the whole network as many as there would be views."""
        return default_epochs(len(self.train)) if self.trunk else default_views(len(self.train))

    def start(self) -> None:
        """Score the network as it came: epoch 0."""
        self._start_trackers()
        self._finish_epoch(train_loss=None)

    def finished(self) -> bool:
        """Whether all epochs are done or patience is at its end, which begins with photos of the network's own size."""
        last, best = self.history[-1].epoch, min(self.history, key=_log_loss).epoch
        of_smaller = sum(self.view_of(epoch)[1] for epoch in range(1, self.epochs + 1))
        return last >= self.epochs or last - max(best, of_smaller) >= self.settings.patience

    def train_epoch(self, resume: ResumeFolder) -> None:
        """The rest of a pass over the training photos, then validation."""
        epoch, batch_size = len(self.history), self.settings.batch_size
        self.model.train()
        batches = self._batches(epoch)
        with progress(f"epoch {epoch} of {self.epochs}", total=len(self.train), done=self.photos_done) as advance:
            for images, labels in batches:
                step = (epoch - 1) * self.steps_an_epoch + self.photos_done // batch_size
                photos = min(batch_size, len(self.train) - self.photos_done)  # of all processes
                self.loss_sum += self._step(step, images, labels, photos) * photos
                self.photos_done += photos
                if self.trackers:
                    self.trackers.step(self.losses)
                advance(photos, note=self._note())
                resume.write_when_due(self.state)
        resume.write(self.state())
        self._finish_epoch(train_loss=self.loss_sum / self.photos_done)
        self.photos_done, self.loss_sum = 0, 0.0
        resume.write(self.state())

    def _batches(self, epoch: int) -> Iterable[Batch]:
        """What is left of an epoch: photos (n, height, width, channels) uint8, or what the frozen blocks made of them.

        Of several processes each takes its share of every batch.
        """
        seed, batch_size, start = self.settings.seed, self.settings.batch_size, self.photos_done
        rank, processes = self.runtime.rank, self.runtime.processes
        if self.trunk is None:
            return training_batches(
                self.train,
                self.transform,
                seed=seed,
                epoch=epoch,
                start=start,
                batch_size=batch_size,
                workers=self.runtime.workers,
                rank=rank,
                processes=processes,
                pinned=self.runtime.pinned,
            )
        number, smaller = self.view_of(epoch)
        values = self.trunk.view(number, smaller=smaller)
        view, labels = (part.to(self.runtime.device) for part in (values, self.train.labels))
        order = epoch_order(len(self.train), seed=seed, epoch=epoch)[start:].tolist()
        return ((view[part], labels[part]) for part in shares_of_batches(order, batch_size, rank, processes))

    def view_of(self, epoch: int) -> tuple[int, bool]:
        """Which view an epoch takes, and whether it is one of smaller photos; of training with a trunk."""
        number, smaller = view_of_epoch(epoch, epochs=self.epochs, views=self.views)
        return number, smaller and self.trunk is not None and self.trunk.smaller is not None

    def _step(self, step: int, inputs: Tensor, labels: Tensor, photos: int) -> float:
        """One update from a batch that `_batches` gave, of `photos` in all processes; returns the mean loss over those."""
        rank, processes = self.runtime.rank, self.runtime.processes
        # Dropout and stochastic depth read the global generator; the seeds of params.yaml end below 2**32.
        torch.manual_seed(_mixed(self.settings.seed + rank * 2**32, step))
        rate = self._learning_rate(step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["lr_scale"]
        device = self.runtime.device
        inputs = inputs.to(device, non_blocking=True)
        inputs = normalise(inputs, self.task.preprocessing) if self.trunk is None else inputs.float()
        if inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        logits, loss = self._logits_and_loss(inputs, labels.to(device, non_blocking=True))
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        share = len(range(rank, photos, processes)) / photos
        value = mean_loss_and_gradients(self.runtime, loss, self.model.parameters(), weight=share)
        self.losses.append(value)
        check_loss(self.losses, num_classes=logits.shape[1], learning_rate=rate)
        self.optimiser.step()
        self.average.update(self.model, step + 1)
        return value

    def _logits_and_loss(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(n, classes), and the mean over the batch."""
        network = self.trunk.upper if self.trunk else self.model
        with torch.autocast(self.runtime.device.type, torch.bfloat16, enabled=self.runtime.bfloat16):
            logits = network(inputs)
        return logits, cross_entropy(logits.float(), labels)

    def _learning_rate(self, step: int) -> float:
        total_steps = self.epochs * self.steps_an_epoch
        return learning_rate(
            step,
            total_steps=total_steps,
            warmup_steps=round(self.settings.warmup_fraction * total_steps),
            peak=self.settings.learning_rate,
        )

    def _finish_epoch(self, train_loss: float | None) -> None:
        epoch = len(self.history)
        rate = 0.0 if epoch == 0 else self._learning_rate(epoch * self.steps_an_epoch - 1)
        what = "before fine-tuning" if epoch == 0 else f"after epoch {epoch}"
        self.history.append(Epoch(epoch, rate, train_loss, *self.validation.score(self.average.module, what)))
        if epoch > 0 and self._best().epoch == epoch:
            self.best_state = _on_cpu(self.average.module.state_dict())
        if self.trackers:
            self.trackers.epoch([vars(one) for one in self.history], self.model, self.validation.outputs)

    def _best(self) -> Epoch:
        """The best epoch of training, which epoch 0 is not."""
        return min(self.history[1:], key=_log_loss)

    def _interpolate(self) -> tuple[Interpolated, dict[str, Tensor]]:
        """The best point on the straight line from the weights that came in to those of the best epoch."""
        first, best = self.history[0], self._best()
        tried = [
            Interpolated(share, one.val_log_loss, one.val_accuracy, one.val_temperature, one.val_calibrated_log_loss)
            for share, one in ((0.0, first), (1.0, best))
        ]
        model = copy.deepcopy(self.model)
        for share in SHARES:
            model.load_state_dict(self._between(share))
            tried.append(Interpolated(share, *self.validation.score(model, f"with {share:.0%} of epoch {best.epoch}")))
        kept = min(tried, key=_log_loss)
        return kept, self._between(kept.share)

    def _calibrated(self, kept: Interpolated, state: dict[str, Tensor]) -> tuple[Interpolated, dict[str, Tensor]]:
        """The weights with the temperature in their head; the frozen checkpoint's, where those are kept, stay what they are."""
        if kept.share == 0:
            return kept, state
        model = copy.deepcopy(self.model).cpu()
        model.load_state_dict(state)
        apply_temperature(model, kept.val_temperature)
        scaled = replace(kept, val_log_loss=kept.val_calibrated_log_loss, val_temperature=1.0)
        return scaled, _on_cpu(model.state_dict())

    def _between(self, share: float) -> dict[str, Tensor]:
        """Weights between the initial and the best ones; what is no floating-point number is the same in both."""
        return {
            name: initial.lerp(self.best_state[name], share) if initial.is_floating_point() else initial
            for name, initial in self.initial_state.items()
        }

    def state(self) -> dict[str, Any]:
        """Everything that a fresh trainer needs to go on: tensors and primitives only."""
        return {
            "epoch": self.history[-1].epoch,
            "photos_done": self.photos_done,
            "loss_sum": self.loss_sum,
            "model_state_dict": _on_cpu(self.model.state_dict()),
            "ema_state_dict": _on_cpu(self.average.module.state_dict()),
            "optimizer_state_dict": self.optimiser.state_dict(),
            "loss": self.history[-1].train_loss,
            "best_state_dict": self.best_state,
            "history": [vars(epoch) for epoch in self.history],
            "losses": self.losses,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up a state that `state` gave."""
        self.model.load_state_dict(state["model_state_dict"])
        self.average.module.load_state_dict(state["ema_state_dict"])
        self.optimiser.load_state_dict(state["optimizer_state_dict"])
        self.photos_done, self.loss_sum = state["photos_done"], state["loss_sum"]
        self.best_state = state["best_state_dict"]
        self.history = [Epoch(**epoch) for epoch in state["history"]]
        self.losses = state["losses"]
        self._start_trackers()

    def where(self) -> str:
        """The step that is running, for messages."""
        return f"step {len(self.losses) + 1:,} (epoch {len(self.history)})"

    def _note(self) -> str:
        loss, last = self.loss_sum / self.photos_done, self.history[-1]
        return f"loss {loss:.4f}, last validation accuracy {last.val_accuracy:.2%}"

    def _start_trackers(self) -> None:
        if self.trackers is None:
            return
        history = [vars(epoch) for epoch in self.history]
        total_steps = self.epochs * self.steps_an_epoch
        self.trackers.start(self.losses, history, total_steps=total_steps, rate_of=self._learning_rate)

    def result(self) -> Finetuned:
        """What came out, once nothing frozen is shown to have moved."""
        if {frozen_fingerprint(model) for model in (self.model, self.average.module)} != {self.frozen_before}:
            raise PipelineError(
                "A frozen parameter or a BatchNorm statistic moved during fine-tuning. This is a defect: please report it "
                "with your params.yaml."
            )
        kept, model_state = self._calibrated(*self._interpolate())
        training_state = self.state()
        for only_to_resume in ("photos_done", "loss_sum", "best_state_dict", "history", "losses"):
            del training_state[only_to_resume]
        return Finetuned(model_state, kept, self._best(), tuple(self.history), training_state, self.trunk)


def _log_loss(scored: Epoch | Interpolated) -> float:
    return scored.val_calibrated_log_loss


def _on_cpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}


def _mixed(seed: int, step: int) -> int:
    """One seed from two, without the collisions of a sum."""
    return (seed * 1_000_003 + step) % 2**63
