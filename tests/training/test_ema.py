"""The weights that are kept are a moving average of those that learn, over a share of the steps."""

from pathlib import Path

import pytest
import torch

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
    trainer = Trainer(tiny.network(), task(tmp_path, epochs=4, ema_share=0.2))  # 20 steps, so 4 count
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
    trainer = Trainer(tiny.network(), task(tmp_path, epochs=4, ema_share=0.0))
    *_, last = steps_of(trainer)
    averaged = trainer.average.module.state_dict()
    assert all(torch.equal(averaged[name], tensor) for name, tensor in last.items())


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_what_is_frozen_stays_to_the_bit(tmp_path: Path, share: float) -> None:
    trainer = Trainer(tiny.network(), task(tmp_path, epochs=4, ema_share=share, unfrozen_blocks=1))
    frozen = {name for name, parameter in trainer.model.named_parameters() if not parameter.requires_grad}
    steps_of(trainer)
    averaged = trainer.average.module.state_dict()
    assert frozen
    assert all(torch.equal(averaged[name], trainer.initial_state[name]) for name in frozen)
