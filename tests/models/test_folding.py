"""Folding changes what a training step costs and nothing of what it computes: same outputs, same gradients, same keys."""

import copy

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from pipeline.models.folding import fold_batch_norm, unfold_batch_norm
from pipeline.models.freezing import set_trainable

# Plain and depthwise convolutions, 'same' padding, squeeze-and-excitation, BatchNorm with and without an activation of its own.
NETWORKS = ("test_resnet", "test_efficientnet", "tf_mobilenetv3_small_minimal_100")


def network(name: str) -> nn.Module:
    """In double precision, with statistics and scales as unlike their defaults as training leaves them."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    set_trainable(model, "all")
    return model.train()


def outputs_and_gradients(model: nn.Module, images: Tensor) -> list[Tensor]:
    torch.manual_seed(1)
    model.zero_grad()
    outputs = model(images)
    outputs.square().sum().backward()
    return [outputs.detach(), *(parameter.grad for parameter in model.parameters() if parameter.grad is not None)]


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_and_gradients_stay(name: str) -> None:
    model, images = network(name), torch.randn(2, 3, 64, 64).double()
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    expected, keys = outputs_and_gradients(model, images), list(model.state_dict())
    assert len(fold_batch_norm(model, images)) == norms
    got = outputs_and_gradients(model, images)
    assert len(got) == len(expected) == 1 + len(list(model.parameters()))
    for ours, theirs in zip(got, expected, strict=True):
        assert (ours - theirs).abs().max() <= 1e-10 * theirs.abs().max()
    assert list(model.state_dict()) == keys


@torch.no_grad()
def test_a_copy_is_folded_for_itself_and_unfolding_gives_the_plain_network_back() -> None:
    model, images = network("test_efficientnet"), torch.randn(2, 3, 64, 64).double()
    plain = model(images)
    fold_batch_norm(model, images)
    folded, twin = model(images), copy.deepcopy(model)
    for parameter in twin.parameters():
        parameter.zero_()
    assert torch.equal(model(images), folded)
    assert not torch.equal(twin(images), folded)
    unfold_batch_norm(model)
    assert torch.equal(model(images), plain)
    assert not any("forward" in vars(module) for module in model.modules())


def test_layers_that_learn_their_statistics_are_left_alone() -> None:
    model = timm.create_model("test_resnet").train()
    assert fold_batch_norm(model, torch.randn(2, 3, 64, 64)) == ()
    assert model.training


class UsesTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        nn.init.constant_(self.norm.running_mean, 1)

    def forward(self, images: Tensor) -> Tensor:
        convolved = self.convolution(images)
        return self.norm(convolved) + convolved


@pytest.mark.parametrize("model", [UsesTwice(), nn.Sequential(weight_norm(nn.Conv2d(3, 3, 1)), nn.BatchNorm2d(3))])
def test_a_convolution_of_another_use_or_with_a_computed_weight_is_left_as_it_was(model: nn.Module) -> None:
    model.eval()
    assert fold_batch_norm(model, torch.randn(1, 3, 4, 4)) == ()
    assert not any("forward" in vars(module) for module in model.modules())


def test_the_comparison_is_made_in_float32_on_a_gpu_too() -> None:
    model, allowed = timm.create_model("test_resnet").eval(), []
    model.register_forward_pre_hook(lambda *_: allowed.append(torch.backends.cudnn.allow_tf32))
    assert fold_batch_norm(model, torch.randn(1, 3, 32, 32))
    assert allowed == [False, False]
