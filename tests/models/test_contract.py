"""The contract over a spread of architectures; `python -m tests.models.sweep` checks all of them."""

import pytest
import timm
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.errors import PipelineError
from pipeline.models.freezing import frozen_fingerprint, set_trainable
from pipeline.models.head import FeatureExtractor, replace_head, set_linear_head
from tests.models.contract import EXCEPTIONS, check_timm, check_torchvision, create_timm
from tests.models.families import COMPUTED, ONE_OF_EACH_FAMILY

TORCHVISION = (
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "googlenet",
    "inception_v3",
    "maxvit_t",
    "mobilenet_v3_small",
    "regnet_x_400mf",
    "regnet_y_400mf",
    "resnet18",
    "shufflenet_v2_x0_5",
    "squeezenet1_0",
    "swin_t",
    "vgg11",
    "vit_b_32",
)


def test_families_are_those_of_timm() -> None:
    modules = {timm.model_entrypoint(name).__module__ for name in ONE_OF_EACH_FAMILY}
    assert len(modules) == len(ONE_OF_EACH_FAMILY) >= 80
    assert len(COMPUTED) >= 30
    assert set(EXCEPTIONS) <= set(timm.list_models())


@pytest.mark.parametrize("name", ONE_OF_EACH_FAMILY)
def test_timm(name: str) -> None:
    check_timm(name)


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name: str) -> None:
    check_torchvision(name)


@pytest.mark.parametrize("name", ["qwen3_vit_88m_enc"])
def test_exceptions_are_told_by_name(name: str) -> None:
    with pytest.raises(PipelineError, match="No classifier found"):
        replace_head(create_timm(name), 2)


@pytest.mark.parametrize(("name", "side"), COMPUTED.items())
def test_forward_and_backward_reach_the_head_and_nothing_else(name: str, side: int) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name)
    replace_head(model, 2)
    set_trainable(model, "head")
    before = frozen_fingerprint(model)
    head = [parameter for parameter in model.parameters() if parameter.requires_grad]
    values = [parameter.detach().clone() for parameter in head]
    images = torch.randn(2, 3, side, side)
    nn.functional.cross_entropy(model.train()(images), torch.tensor([0, 1])).backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    assert any(not torch.equal(parameter, value) for parameter, value in zip(head, values, strict=True))
    assert all(parameter.grad is not None for parameter in head)
    assert all(torch.isfinite(parameter).all() for parameter in head)
    assert {parameter.grad is None for parameter in model.parameters() if not parameter.requires_grad} == {True}
    assert frozen_fingerprint(model) == before

    _as_if_trained(model.eval())
    with torch.inference_mode():
        features = FeatureExtractor(model)(images)
        weight, bias = torch.randn(2, features.shape[1]), torch.randn(2)
        set_linear_head(model, weight, bias)
        torch.testing.assert_close(model(images), features @ weight.T + bias, rtol=1e-4, atol=1e-4)


def _as_if_trained(model: nn.Module) -> None:
    """Norm layers that do something: as a network is made, BatchNorm in eval mode passes everything on as it is."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            module = model.get_submodule(name.rpartition(".")[0])
            if name.endswith("running_var") or (isinstance(module, nn.LayerNorm | _BatchNorm) and name.endswith(".weight")):
                tensor.mul_(torch.empty_like(tensor).uniform_(0.7, 1.4))
            elif name.endswith("running_mean") or (isinstance(module, nn.LayerNorm | _BatchNorm) and name.endswith(".bias")):
                tensor.add_(torch.empty_like(tensor).normal_(std=0.1))
