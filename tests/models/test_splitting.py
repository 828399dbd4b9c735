"""The network split below what learns: the same outputs and gradients, and nothing frozen in the trainable part."""

import copy

import pytest
import timm
import torch
from torch import nn

from pipeline.models.folding import fold_batch_norm
from pipeline.models.freezing import set_trainable
from pipeline.models.outputs import LogitsAndFeatures
from pipeline.models.splitting import SplitModel, share_frozen_part, split_model
from tests.training.tiny import Branching

# Convolutional networks, a transformer with class and distillation tokens, and one whose blocks are nested.
NAMES = ["test_efficientnet", "test_convnext", "deit_tiny_distilled_patch16_224", "levit_128s"]


def network(name: str, unfrozen: int | str = 1, **arguments: float) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=2, **arguments)
    set_trainable(model, unfrozen)
    return model.train(), torch.randn(2, *model.pretrained_cfg["input_size"])


def split(model: nn.Module, images: torch.Tensor) -> SplitModel:
    found = split_model(model, images)
    assert found is not None
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_parts_give_what_the_whole_gives_and_the_same_gradients(name: str) -> None:
    model, images = network(name)
    model = LogitsAndFeatures(model).train()
    parts = split(model, images)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert not any(parameter.requires_grad for parameter in parts.frozen.parameters())
    assert {id(parameter) for parameter in parts.trainable.parameters()} >= {id(parameter) for parameter in learning}
    gradients = []
    for run in (model, lambda given: parts.trainable(parts.frozen(given).detach())):
        torch.manual_seed(1)
        gradients.append(torch.autograd.grad(run(images)[:, :2].square().sum(), learning))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_the_trainable_part_learns_in_the_network_itself_folded_or_not() -> None:
    model, images = network("test_resnet", unfrozen=2)
    parts = split(model, images)
    assert fold_batch_norm(model, images)
    before = model.state_dict()["fc.weight"].clone()
    optimizer = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.1)
    activations = parts.frozen(images).detach()
    parts.trainable(activations).sum().backward()
    optimizer.step()
    assert not torch.equal(model.state_dict()["fc.weight"], before)
    torch.testing.assert_close(parts.trainable(activations), model(images), rtol=1e-3, atol=1e-3)


def test_dropout_draws_as_in_the_whole_network_and_the_check_leaves_no_trace() -> None:
    model, images = network("vit_tiny_patch16_224", drop_rate=0.5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    drawn = torch.get_rng_state()
    parts = split(model, images)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    activations = parts.frozen(images)
    assert not torch.equal(parts.trainable(activations), parts.trainable(activations))


class TwoTensors(Branching):
    """Two frozen tensors reach what learns."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        images = self.stem(images)
        return self.fc(self.pool(self.body(images))) * images.sum()


class Paired(nn.Linear):
    """Gives two tensors, or takes them."""

    def forward(self, x: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor | tuple[torch.Tensor, ...]:
        return super().forward(x[0] + x[1]) if isinstance(x, tuple) else 2 * (super().forward(x),)


class Spectrum(nn.Linear):
    """Gives complex numbers, or takes them."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.real) if x.is_complex() else torch.fft.fft(super().forward(x))


class NoTensor(nn.Module):
    """What leads from the frozen part to the part that learns is no tensor of floating-point numbers."""

    def __init__(self, kind: type[nn.Linear]) -> None:
        super().__init__()
        self.stem, self.fc = kind(32, 4), kind(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.stem(x))


def test_a_network_that_has_no_single_split_is_left_whole() -> None:
    assert split_model(*network("test_resnet", unfrozen="all")) is None
    assert split_model(*network("test_resnet", drop_rate=0.5)) is None  # its forward calls dropout, traced in training alone
    for model in (Branching(), TwoTensors(), NoTensor(Paired), NoTensor(Spectrum)):
        set_trainable(model, "head")
        assert split_model(model, torch.randn(2, 3, 32, 32)) is None


def finetuned(model: nn.Module) -> nn.Module:
    """A copy whose topmost block has moved."""
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.add_(0.1 * parameter.requires_grad)
    return moved.requires_grad_(True)


@pytest.mark.parametrize("name", NAMES)
def test_networks_that_share_their_frozen_part_compute_it_once(name: str) -> None:
    model, images = network(name)
    other = finetuned(model.eval())
    together = share_frozen_part([model, other], images)
    assert together is not None
    with torch.no_grad():
        torch.testing.assert_close(together(images), torch.cat([model(images), other(images)], 1), rtol=1e-3, atol=1e-4)
    assert all(parameter.requires_grad for parameter in other.parameters())
    frozen, parameters = (sum(p.numel() for p in part.parameters()) for part in (together.frozen, model))
    shared = sum(p.numel() for p, q in zip(model.parameters(), other.parameters(), strict=True) if torch.equal(p, q))
    assert 0 < frozen <= shared < parameters


def test_networks_that_differ_from_the_stem_on_or_in_a_buffer_share_nothing() -> None:
    model, images = network("test_resnet")
    in_a_buffer, from_the_stem = finetuned(model.eval()), copy.deepcopy(model)
    next(in_a_buffer.buffers()).add_(1)
    with torch.no_grad():
        next(from_the_stem.parameters()).add_(1)
    for other in (in_a_buffer, from_the_stem):
        assert share_frozen_part([model, other], images) is None
