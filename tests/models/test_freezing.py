"""Frozen is frozen: no gradient, no moving statistics, and a hash that would tell."""

import copy
from typing import Literal

import pytest
import timm
import torch
from torch import nn

from pipeline.errors import PipelineError
from pipeline.models.freezing import frozen_fingerprint, set_trainable
from pipeline.models.head import replace_head


def network() -> nn.Module:
    model = timm.create_model("test_resnet")
    replace_head(model, 2)
    return model


def learning(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def train_steps(model: nn.Module, steps: int = 3) -> None:
    model.train()
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        images = 5 * torch.randn(8, 3, 32, 32, generator=generator) + 3
        nn.functional.cross_entropy(model(images), torch.tensor([0, 1] * 4)).backward()
        optimiser.step()
        optimiser.zero_grad()


def test_only_the_head_learns() -> None:
    model = network()
    set_trainable(model, "head")
    assert learning(model) == {"fc.weight", "fc.bias"}


def test_the_top_blocks_learn() -> None:
    model = network()
    set_trainable(model, 1)
    assert {name.split(".")[0] for name in learning(model)} == {"layer4", "fc"}
    set_trainable(model, 2)
    assert {name.split(".")[0] for name in learning(model)} == {"layer3", "layer4", "fc"}
    with pytest.raises(PipelineError, match="only 5 blocks"):
        set_trainable(model, 6)


def test_setting_is_idempotent_and_undone_by_setting_anew() -> None:
    model = network()
    set_trainable(model, "head")
    set_trainable(model, "all")
    set_trainable(model, "all")
    assert learning(model) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("unfrozen", ["head", 1])
def test_training_moves_nothing_frozen(unfrozen: Literal["head"] | int) -> None:
    model = network()
    keys = list(model.state_dict())
    set_trainable(model, unfrozen)
    before = frozen_fingerprint(model)
    head = model.fc.weight.detach().clone()
    train_steps(model)
    assert frozen_fingerprint(model) == before
    assert not torch.equal(model.fc.weight, head)
    assert list(model.state_dict()) == keys


def test_the_fingerprint_sees_live_batch_norm() -> None:
    """What plain requires_grad_(False) leaves open: the statistics move, and the hash tells."""
    model = network()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("fc"))
    before = frozen_fingerprint(model)
    train_steps(model)
    assert frozen_fingerprint(model) != before


def test_the_fingerprint_sees_one_changed_bit() -> None:
    model = network()
    set_trainable(model, "head")
    before = frozen_fingerprint(model)
    with torch.no_grad():
        model.conv1[0].weight.view(-1)[0] += 1e-6
    assert frozen_fingerprint(model) != before


def test_a_copy_stays_frozen_by_itself() -> None:
    model = network()
    set_trainable(model, "head")
    copied = copy.deepcopy(model)
    copied.train()
    assert not any(part.training for part in copied.modules() if isinstance(part, nn.BatchNorm2d))
    before = frozen_fingerprint(model)
    train_steps(copied)
    assert frozen_fingerprint(model) == before
