"""The network cut below what learns: the same outputs and gradients, and nothing frozen above its price."""

import copy

import pytest
import timm
import torch
from torch import nn

from pipeline.models.folding import fold_batch_norm
from pipeline.models.freezing import set_trainable
from pipeline.models.splitting import computed_together, split_model

# Convolutional networks, transformers with class and distillation tokens, and one whose blocks are nested.
NAMES = [
    "test_resnet",
    "mobilenetv2_035",
    "convnext_atto",
    "vit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "levit_128s",
]


def _network(name: str, unfrozen: int = 1) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=2)
    set_trainable(model, unfrozen)
    return model, torch.randn(2, *model.pretrained_cfg["input_size"])


@pytest.mark.parametrize("name", NAMES)
def test_the_parts_give_what_the_whole_gives_and_the_same_gradients(name: str) -> None:
    model, images = _network(name)
    model.train()
    cut = split_model(model, images)
    assert cut is not None
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert not any(parameter.requires_grad for parameter in cut.lower.parameters())
    assert {id(parameter) for parameter in cut.upper.parameters()} >= {id(parameter) for parameter in learning}

    torch.manual_seed(1)
    whole = torch.autograd.grad(model(images).square().sum(), learning)
    with torch.no_grad():
        kept = cut.lower(images)
    torch.manual_seed(1)
    parts = torch.autograd.grad(cut.upper(kept).square().sum(), learning)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_the_upper_part_learns_in_the_network_itself_folded_or_not() -> None:
    model, images = _network("test_resnet", unfrozen=2)
    cut = split_model(model.train(), images)
    assert cut is not None
    assert fold_batch_norm(model, images)
    before = model.state_dict()["fc.weight"].clone()
    optimiser = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.1)
    kept = cut.lower(images).detach()
    cut.upper(kept).sum().backward()
    optimiser.step()
    assert not torch.equal(model.state_dict()["fc.weight"], before)
    torch.testing.assert_close(cut.upper(kept), model(images), rtol=1e-3, atol=1e-3)


def test_dropout_draws_as_in_the_whole_network_and_the_check_leaves_no_trace() -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=2, drop_rate=0.5)
    set_trainable(model, 1)
    before, images = {name: tensor.clone() for name, tensor in model.state_dict().items()}, torch.randn(2, 3, 160, 160)
    drawn = torch.get_rng_state()
    cut = split_model(model.train(), images)
    assert cut is not None
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    kept = cut.lower(images)
    assert not torch.equal(cut.upper(kept), cut.upper(kept))


def test_a_network_that_learns_as_a_whole_is_not_cut() -> None:
    model, images = _network("test_resnet")
    set_trainable(model, "all")
    assert split_model(model, images) is None


class _Branching(nn.Module):
    """Branches on a value, so its graph is not one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.fc(x if x.sum() > 0 else -x)


class _TwoWays(nn.Module):
    """Two frozen tensors reach what learns."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.stem(x)) * self.stem(x).sum()


@pytest.mark.parametrize("network", [_Branching, _TwoWays])
def test_a_network_that_has_no_single_cut_is_left_whole(network: type[nn.Module]) -> None:
    model = network()
    set_trainable(model, "head", head="fc")
    assert split_model(model, torch.randn(2, 4)) is None


def _tuned(model: nn.Module, blocks: int) -> nn.Module:
    """A copy whose topmost blocks have moved."""
    tuned = copy.deepcopy(model)
    set_trainable(tuned, blocks)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(0.1 * parameter.requires_grad)
    return tuned.requires_grad_(True)


@pytest.mark.parametrize("name", NAMES)
def test_networks_that_share_their_lower_blocks_compute_them_once(name: str) -> None:
    model, images = _network(name)
    model.eval()
    tuned = _tuned(model, 1)
    together = computed_together([model, tuned], images)
    assert together is not None
    with torch.no_grad():
        torch.testing.assert_close(together(images), torch.cat([model(images), tuned(images)], 1), rtol=1e-3, atol=1e-4)
    assert all(parameter.requires_grad for parameter in tuned.parameters())
    lower, parameters = (sum(p.numel() for p in part.parameters()) for part in (together.lower, model))
    shared = sum(p.numel() for p, q in zip(model.parameters(), tuned.parameters(), strict=True) if torch.equal(p, q))
    assert 0 < lower <= shared < parameters


def test_networks_that_differ_from_the_bottom_or_in_a_buffer_are_left_apart() -> None:
    model, images = _network("test_resnet")
    model.eval()
    other = copy.deepcopy(model)
    with torch.no_grad():
        next(other.parameters()).add_(1)
    assert computed_together([model, other], images) is None
    tuned = _tuned(model, 1)
    next(tuned.buffers()).add_(1)
    assert computed_together([model, tuned], images) is None
