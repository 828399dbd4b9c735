"""Submodules and tensors by dotted path."""

import pytest
import torch
from torch import nn

from pipeline.errors import PipelineError
from pipeline.models.submodules import add_module, delete_module, module_at, replace_module, tensor_at


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 3))
        self.norm = nn.BatchNorm1d(3)
        self.fc = nn.Linear(3, 2)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.fc(self.norm(self.body(inputs)))


def test_looking_gives_the_very_object() -> None:
    model = Network()
    assert module_at(model, "body.0") is model.body[0]
    assert module_at(model, "") is model
    assert tensor_at(model, "body.0.weight") is model.body[0].weight
    assert tensor_at(model, "norm.running_mean") is model.norm.running_mean


def test_what_is_misspelt_is_told_with_the_nearest() -> None:
    with pytest.raises(PipelineError, match=r"no module at 'bodi\.0'\. The nearest are body\.0"):
        module_at(Network(), "bodi.0")
    with pytest.raises(PipelineError, match=r"no parameter or buffer at 'fc\.weigth'\. The nearest are fc\.weight"):
        tensor_at(Network(), "fc.weigth")


def test_adding_runs_last_in_a_sequence_and_overwrites_nothing() -> None:
    model = Network()
    add_module(model, "body.extra", nn.Tanh())
    assert model.body(torch.full((1, 2), 100.0)).abs().max() <= 1
    for taken in ("fc", "body.0", "forward"):
        with pytest.raises(PipelineError, match="something at"):
            add_module(model, taken, nn.Tanh())
    with pytest.raises(PipelineError, match="no module at 'nowhere'"):
        add_module(model, "nowhere.extra", nn.Tanh())


def test_replacing_keeps_the_mode_and_gives_the_old_one() -> None:
    model = Network().eval()
    old = model.body[1]
    assert replace_module(model, "body.1", nn.Dropout()) is old
    assert not model.body[1].training
    with pytest.raises(PipelineError, match=r"no module at 'body\.9'"):
        replace_module(model, "body.9", nn.Dropout())
    with pytest.raises(PipelineError, match="the model itself"):
        replace_module(model, "", nn.Dropout())


def test_deleting_leaves_a_network_that_runs() -> None:
    model = Network().eval()
    assert isinstance(delete_module(model, "body.1"), nn.ReLU)
    assert len(model.body) == 2
    assert isinstance(delete_module(model, "norm"), nn.BatchNorm1d)
    assert model(torch.zeros(1, 2)).shape == (1, 2)
    assert "norm.weight" not in model.state_dict()
    with pytest.raises(PipelineError, match="the model itself"):
        delete_module(model, "")
