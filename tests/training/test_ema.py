"""The weights that are kept are a moving average of those that learn, over a share of the steps."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.models.freezing import set_trainable
from pipeline.training.finetune import Trainer
from tests.training import tiny
from tests.training.test_trunk import task


def steps_of(trainer: Trainer) -> list[dict[str, torch.Tensor]]:
    """The weights after each step of one epoch."""
    states = []
    trainer.model.train()
    for step, (inputs, labels) in enumerate(trainer._batches(1)):
        trainer._step(step, inputs, labels, len(labels))
        states.append({name: tensor.clone() for name, tensor in trainer.model.state_dict().items()})
    return states


def test_the_average_follows_the_steps(tmp_path: Path) -> None:
    trainer = Trainer(tiny.network(), task(tmp_path, epochs=4, ema_fraction=0.2))  # 20 steps, so 4 count
    first, *others = steps_of(trainer)
    assert others
    expected = first
    for step, state in enumerate(others, start=1):
        decay = min(0.75, 1 - (1 + step) ** (-2 / 3)) if step > 0 else 0.0
        expected = {
            name: expected[name].lerp(tensor, 1 - decay) if tensor.is_floating_point() else tensor
            for name, tensor in state.items()
        }
    averaged = trainer.average.module.state_dict()
    for name, tensor in expected.items():
        torch.testing.assert_close(averaged[name], tensor)
    assert any(not torch.equal(averaged[name], tensor) for name, tensor in trainer.model.state_dict().items())


def test_without_a_share_the_last_weights_are_kept(tmp_path: Path) -> None:
    trainer = Trainer(tiny.network(), task(tmp_path, epochs=4, ema_fraction=0.0))
    *_, last = steps_of(trainer)
    averaged = trainer.average.module.state_dict()
    assert all(torch.equal(averaged[name], tensor) for name, tensor in last.items())


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_what_is_frozen_stays_to_the_bit(tmp_path: Path, share: float) -> None:
    trainer = Trainer(tiny.network(), task(tmp_path, epochs=4, ema_fraction=share, unfrozen_blocks=1))
    frozen = {name for name, parameter in trainer.model.named_parameters() if not parameter.requires_grad}
    steps_of(trainer)
    averaged = trainer.average.module.state_dict()
    assert frozen
    assert all(torch.equal(averaged[name], trainer.initial_state[name]) for name in frozen)


def test_epochs_are_compared_calibrated_and_the_temperature_goes_into_the_head(tmp_path: Path) -> None:
    given = task(tmp_path, epochs=3, learning_rate=1e-2)
    wrong = torch.arange(16) % 5 == 0  # a few labels, so that being ever surer does not pay
    given = replace(given, val=replace(given.val, labels=given.val.labels ^ wrong.long()))
    trainer = Trainer(tiny.network(), given)
    resume = tiny.resume_folder(tmp_path)
    trainer.start()
    while not trainer.finished():
        trainer.train_epoch(resume)
    result = trainer.result()
    assert all(epoch.val_calibrated_log_loss <= epoch.val_log_loss + 1e-6 for epoch in result.history)
    best = min(result.history[1:], key=lambda epoch: epoch.val_calibrated_log_loss)
    assert result.best == best
    assert result.kept.share > 0
    assert result.kept.val_log_loss == result.kept.val_calibrated_log_loss <= best.val_calibrated_log_loss
    model = tiny.network()
    set_trainable(model, given.settings.unfrozen_blocks)  # so that it is cut as in training
    model.load_state_dict(result.model_state)
    loss, accuracy, temperature, calibrated = trainer.validation.score(model, "read again")
    assert loss == pytest.approx(result.kept.val_log_loss, rel=1e-4)
    assert calibrated == pytest.approx(loss, rel=1e-4)
    assert temperature == pytest.approx(1, abs=0.02)
    assert accuracy == result.kept.val_accuracy
