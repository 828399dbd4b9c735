"""The head is found, replaced and initialised, and nothing else of the network is touched."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from pipeline.errors import PipelineError
from pipeline.models.head import find_head, from_probe, replace_head
from pipeline.models.initialisation import INITIALISATIONS

TIMM = {
    "test_resnet": "fc",
    "test_vit": "head",
    "test_convnext": "head.fc",
    "test_efficientnet": "classifier",
    "test_nfnet": "head.fc",
}
TORCHVISION = {
    "resnet18": "fc",
    "mobilenet_v2": "classifier.1",
    "vit_b_16": "heads.head",
    "swin_t": "head",
    "alexnet": "classifier.6",
}


def rest_of(model: nn.Module, head: str) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items() if not name.startswith(f"{head}.")}


@pytest.mark.parametrize(("name", "path"), TIMM.items())
def test_timm_heads(name: str, path: str) -> None:
    model = timm.create_model(name)
    before = rest_of(model, path)
    assert replace_head(model, 3) == path
    assert model.num_classes == 3
    assert model.eval()(torch.zeros(1, 3, 160, 160)).shape == (1, 3)
    after = rest_of(model, path)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize(("name", "path"), TORCHVISION.items())
def test_torchvision_heads(name: str, path: str) -> None:
    with torch.device("meta"):
        model = torchvision.models.get_model(name)
        assert find_head(model) == path
        assert replace_head(model, 3, initialisation="zeros") == path
        assert model(torch.zeros(2, 3, 224, 224)).shape == (2, 3)


@pytest.mark.parametrize("name", INITIALISATIONS)
def test_the_seed_alone_decides_the_head(name: str) -> None:
    heads = []
    for drawn_before in (0, 5):
        model = timm.create_model("test_resnet")
        torch.rand(drawn_before)
        replace_head(model, 2, initialisation=name, seed=1)
        heads.append(model.fc.weight.detach().clone())
        assert torch.equal(model.fc.bias, torch.zeros(2))
    assert torch.equal(*heads)
    assert (heads[0].abs().sum() > 0) == (name != "zeros")


def test_another_seed_gives_another_head() -> None:
    model = timm.create_model("test_resnet")
    replace_head(model, 2, seed=1)
    first = model.fc.weight.detach().clone()
    replace_head(model, 2, seed=2)
    assert not torch.equal(first, model.fc.weight)


def test_dtype_is_kept() -> None:
    model = timm.create_model("test_resnet").double()
    replace_head(model, 2)
    assert model.fc.weight.dtype == torch.float64


def test_a_solved_head_computes_what_was_solved() -> None:
    model = timm.create_model("test_resnet").eval()
    replace_head(model, 2)
    weight, bias = torch.randn(2, model.num_features), torch.randn(2)
    from_probe(model, weight, bias)
    images = torch.randn(2, 3, 64, 64)
    features = model.forward_head(model.forward_features(images), pre_logits=True)
    torch.testing.assert_close(model(images), features @ weight.T + bias)


def test_what_cannot_be_replaced_is_told() -> None:
    with pytest.raises(PipelineError, match="No classifier found in Conv2d"):
        find_head(nn.Conv2d(3, 3, 1))
    with pytest.raises(PipelineError, match="Unknown initialisation 'xavier'"):
        replace_head(timm.create_model("test_resnet"), 2, initialisation="xavier")
