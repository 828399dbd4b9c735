"""Fine-tuning: the same bits after any stop, averaged weights, what each setting does, and what is kept."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from accelerate.state import AcceleratorState
from torch import Tensor
from torch.nn.functional import cross_entropy

from pipeline.models.freezing import frozen_fingerprint, parameter_groups
from pipeline.models.head import replace_head
from pipeline.models.ood import Pooled
from pipeline.training.finetune import Epoch, Trainer
from pipeline.training.selection import ALPHAS, fit_temperature
from tests.refusals import refused
from tests.training import tiny


class Stopping:
    """In the place of a tracking: ends the run at the first sight of each step and of each epoch."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, int]] = set()

    def start(self, losses: Sequence[float], history: Sequence[Mapping[str, Any]], **_: Any) -> None: ...

    def step(self, losses: Sequence[float]) -> None:
        self._stop_once("step", len(losses))

    def epoch(self, history: Sequence[Mapping[str, Any]], *_: Any) -> None:
        self._stop_once("epoch", len(history))

    def _stop_once(self, *what: Any) -> None:
        if what not in self.seen:
            self.seen.add(what)
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "changes",
    [
        {"ema_fraction": 0.5, "gradient_accumulation": 2, "epochs": 3, "patience": 1, "learning_rate": 0.05},
        {"unfrozen_blocks": "all", "optimizer": "lamb", "gradient_clipping": 1.0, "learning_rate": 0.01},
    ],
    ids=["split", "whole"],
)
def test_a_run_that_is_stopped_at_every_step_and_epoch_ends_with_the_same_bits(tmp_path: Path, changes: dict[str, Any]) -> None:
    changes |= {"batch_size": 16}
    unbroken = tiny.train(tmp_path / "unbroken", **changes)
    stopping: Any = Stopping()
    for _ in range(20):
        try:
            broken = tiny.train(tmp_path, resume=tiny.resume_folder(tmp_path), watching=stopping, **changes)
        except KeyboardInterrupt:
            continue
        break
    steps = 3 * (len(unbroken.history) - 1)
    assert len(stopping.seen) == steps + len(unbroken.history)
    assert unbroken.choice.candidate.alpha > 0
    assert broken.history == unbroken.history
    assert broken.choice.reason == unbroken.choice.reason
    torch.testing.assert_close(broken.model_state, unbroken.model_state, rtol=0, atol=0)


def test_patience_begins_with_photos_of_the_own_size(tmp_path: Path) -> None:
    trainer = tiny.trainer(tmp_path, epochs=8, augmented_copies=8, patience=2)

    def after(epochs: int) -> bool:
        trainer.history = [Epoch(epoch, 0.0, 1.0, float(epoch), 0.5) for epoch in range(epochs + 1)]  # ever worse
        return trainer.finished()

    assert [after(epochs) for epochs in range(1, 9)] == 5 * [False] + 3 * [True]


def test_training_stops_early_and_the_best_epoch_is_not_the_last(tmp_path: Path) -> None:
    result = tiny.train(tmp_path, epochs=20, augmented_copies=1, patience=2, learning_rate=0.02, ema_fraction=0.0)
    losses = [epoch.val_log_loss for epoch in result.history]
    assert len(losses) < 21
    assert losses.index(min(losses[1:])) == result.choice.candidate.epoch == len(losses) - 3


def test_no_weights_are_scored_twice_and_the_logits_of_the_ends_are_those_of_their_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[Tensor] = []
    measure = Trainer._val_logits
    monkeypatch.setattr(Trainer, "_val_logits", lambda self, part: scored.append(measure(self, part)) or scored[-1])
    trainer = tiny.trainer(tmp_path, epochs=3, learning_rate=0.02)
    trainer.run(tiny.resume_folder(tmp_path, 1e6))
    assert len(scored) == 1 + 3 + len(ALPHAS)  # the frozen weights, the epochs, and the points between
    for alpha, name in ((0.0, "frozen"), (1.0, "best")):
        trainer.ema.module.load_state_dict(trainer._between(alpha))
        torch.testing.assert_close(trainer.val_logits[name], measure(trainer, trainer.ema.module), rtol=0, atol=0)


def steps_of(trainer: Trainer) -> list[dict[str, Tensor]]:
    """The weights after each step of one epoch."""
    states = []
    trainer.model.train()
    for step, (inputs, labels) in enumerate(trainer._batches(1)):
        trainer._step(step, inputs, labels, len(labels))
        states.append({name: tensor.clone() for name, tensor in trainer.trainable.state_dict().items()})
    return states


@pytest.mark.parametrize("fraction", [0.0, 0.2])
def test_the_average_follows_the_steps_and_what_is_frozen_stays(tmp_path: Path, fraction: float) -> None:
    trainer = tiny.trainer(tmp_path, epochs=4, ema_fraction=fraction, unfrozen_blocks=1)  # of 20 steps 4 count
    before = frozen_fingerprint(trainer.network.model)
    expected, *others = steps_of(trainer)
    for step, state in enumerate(others, start=1):
        decay = min(0.75, 1 - (1 + step) ** (-2 / 3)) if fraction else 0.0
        expected = {
            name: expected[name].lerp(tensor, 1 - decay) if tensor.is_floating_point() else tensor
            for name, tensor in state.items()
        }
    averaged = trainer.ema.module.state_dict()
    for name, tensor in expected.items():
        torch.testing.assert_close(averaged[name], tensor)
    moved = {name for name, tensor in averaged.items() if not torch.equal(tensor, trainer.initial_state[name])}
    learning = {name for name, parameter in trainer.trainable.named_parameters() if parameter.requires_grad}
    assert moved == learning != set(averaged)
    assert frozen_fingerprint(trainer.network.model) == before


def test_gradients_add_up_over_parts_of_a_batch(tmp_path: Path) -> None:
    weights = []
    for parts in (1, 3):  # three parts of eight photos are uneven
        own = tiny.network(own=tiny.model(drop_path_rate=0.0))
        trainer = tiny.trainer(tmp_path, own, optimizer="sgd", learning_rate=0.1, gradient_accumulation=parts, loss="focal")
        weights.append(steps_of(trainer)[-1])
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-6)


def test_each_process_draws_its_own_dropout_and_all_take_the_same_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    for rank in range(2):
        trainer = tiny.trainer(tmp_path)
        trainer.runtime = replace(tiny.RUNTIME, rank=rank, processes=2)
        trainer.model.register_forward_pre_hook(lambda *_: drawn.append(torch.rand(1).item()))
        trainer.optimizer.optimizer.register_step_pre_hook(lambda *_: drawn.append(torch.rand(1).item()))
        trainer._step(0, *next(trainer._batches(1)), 8)
    assert drawn[0] != drawn[2]
    assert drawn[1] == drawn[3]


class Spectral(torch.nn.Module):
    """Filters photos by complex numbers, before a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = torch.nn.Parameter(torch.ones(64, 33, dtype=torch.complex64))
        self.fc = torch.nn.Linear(3 * 64, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(torch.fft.irfft2(torch.fft.rfft2(images) * self.filter).mean(3).flatten(1))


def test_complex_numbers_are_fine_tuned_too(tmp_path: Path) -> None:
    own = tiny.network("all", own=Spectral())
    result = tiny.train(tmp_path, own=own, unfrozen_blocks="all", learning_rate=0.01, epochs=3)
    assert result.choice.candidate.alpha > 0
    assert not torch.equal(result.model_state["filter"], Spectral().filter)


def test_clipping_bounds_the_norm_of_the_gradient(tmp_path: Path) -> None:
    norms = []
    for most in (None, 1e-3):
        trainer = tiny.trainer(tmp_path, gradient_clipping=most)
        steps_of(trainer)
        gradients = [parameter.grad for parameter in trainer.trainable.parameters() if parameter.grad is not None]
        norms.append(torch.nn.utils.get_total_norm(gradients).item())
    assert norms[0] > 0.01
    assert norms[1] == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize(("name", "kind"), [("adamw", "AdamW"), ("lamb", "Lamb")])
def test_the_optimizer_has_the_groups_and_rates_of_the_blocks(tmp_path: Path, name: str, kind: str) -> None:
    own = timm.create_model("test_vit3", num_classes=2, img_size=64)
    trainer = tiny.trainer(tmp_path, tiny.network("all", own=own), optimizer=name, weight_decay=0.1, layer_decay=0.5)
    assert kind in type(trainer.optimizer.optimizer).__name__
    expected = parameter_groups(own, weight_decay=0.1, layer_decay=0.5)
    trainer.model.train()
    inputs, labels = next(trainer._batches(1))
    trainer._step(3, inputs, labels, len(labels))
    for group, like in zip(trainer.optimizer.param_groups, expected, strict=True):
        assert [id(parameter) for parameter in group["params"]] == [id(parameter) for parameter in like["params"]]
        assert group["weight_decay"] == like["weight_decay"]
        assert group["lr"] == pytest.approx(trainer._learning_rate(3) * like["lr_scale"])
    without = [parameter for group in expected if not group["weight_decay"] for parameter in group["params"]]
    assert any(parameter is own.pos_embed for parameter in without)


def test_a_frozen_tensor_that_moved_is_a_defect(tmp_path: Path) -> None:
    trainer = tiny.trainer(tmp_path)
    trainer.start()
    trainer.train_epoch(tiny.resume_folder(tmp_path, 1e6))
    next(trainer.network.model.buffers()).add_(1)
    refused("moved during fine-tuning", trainer.result)


@pytest.mark.parametrize(("change", "reason"), [({"learning_rate": 1e-9}, "chance"), ({"epochs": 0}, "nothing was fine-tuned")])
def test_where_fine_tuning_gains_nothing_the_frozen_weights_are_kept_to_the_bit(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    result = tiny.train(tmp_path, **change)
    assert (result.choice.candidate.alpha, result.choice.candidate.epoch) == (0.0, 0)
    assert reason in result.choice.reason
    if "epochs" in change:
        assert (len(result.history), result.choice.gain) == (1, 0)
    for name, tensor in tiny.model().state_dict().items():
        assert torch.equal(result.model_state[name], tensor), name


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_what_is_kept_was_chosen_in_float32_and_carries_its_temperature(tmp_path: Path, precision: Any) -> None:
    network = tiny.network(runtime=replace(tiny.RUNTIME, mixed_precision=precision), cache=tiny.cache(tmp_path))
    photos = tiny.photos(tmp_path / "photos")
    val = replace(photos, labels=photos.labels ^ (torch.arange(len(photos)) % 7 == 0).long())  # so that confidence costs
    trainer = Trainer(network, photos, val, tiny.settings(epochs=3, learning_rate=0.05), 1.0)
    result = trainer.run(tiny.resume_folder(tmp_path, 1e6))
    assert result.choice.candidate.alpha > 0

    own = tiny.model()
    before = tiny.logits_of(own, val)
    frozen = cross_entropy(before / fit_temperature(before, val.labels), val.labels).item()
    assert result.history[0].val_log_loss == pytest.approx(frozen, rel=0.02)
    own.load_state_dict(result.model_state)
    logits, kept = tiny.logits_of(own, val), result.choice.candidate
    trainer.ema.module.load_state_dict(trainer._between(kept.alpha))
    chosen = trainer._val_logits(trainer.ema.module)
    assert torch.equal(result.val_logits, chosen)
    torch.testing.assert_close(logits, chosen / fit_temperature(chosen, val.labels), rtol=1e-3, atol=1e-4)
    assert cross_entropy(logits.double(), val.labels).item() <= kept.log_loss
    assert kept.accuracy == (logits.argmax(1) == val.labels).double().mean()
    found, before = network.pooled_activations("val", val, [5, 0, 9]), tiny.network().split
    assert before
    expected = Pooled()(tiny.logits_of(before.frozen, val.at([5, 0, 9])))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)  # what is out of distribution is not learnt away


def test_an_mlp_heads_batch_norm_keeps_its_statistics_and_takes_a_batch_of_one_photo(tmp_path: Path) -> None:
    own = tiny.model()
    replace_head(own, 2, hidden=[8], norm="batch")
    before = {name: tensor.clone() for name, tensor in own.named_buffers() if name.startswith("fc.")}
    result = tiny.train(tmp_path, own=tiny.network(own=own), batch_size=13)  # 40 photos
    assert len(result.history) == 3
    for name, tensor in before.items():
        assert torch.equal(result.model_state[name], tensor), name


def test_a_class_that_counts_nothing_is_not_learnt(tmp_path: Path) -> None:
    weight = torch.tensor([2.0, 0.0]).double()
    result = tiny.train(tmp_path, weight=weight, learning_rate=0.05, epochs=3)
    trained = tiny.model()
    trained.load_state_dict(result.model_state)
    assert (tiny.logits_of(trained, tiny.photos(tmp_path / "photos")).argmax(1) == 0).all()


def test_mixed_precision_is_that_of_the_steps_alone(tmp_path: Path) -> None:
    losses, logits = [], []
    for precision in ("no", "bf16"):
        AcceleratorState._reset_state(reset_partial_state=True)
        network = tiny.network(runtime=replace(tiny.RUNTIME, mixed_precision=precision))
        trainer = tiny.trainer(tmp_path, network)
        logits.append(trainer._val_logits(trainer.ema.module))
        steps_of(trainer)
        losses.append(trainer.losses[0])
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert torch.equal(*logits)
