"""Grad-CAM lands where the evidence is, for networks of both kinds, and leaves the network as it was."""

from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from torch import nn

from pipeline.checkpoint import Preprocessing
from pipeline.errors import PipelineError
from pipeline.evaluation.attribution import grad_cam, overlay
from pipeline.evaluation.showcase import where_models_look
from tests.evaluation.reports import made_up


class Corner(nn.Module):
    """A convolutional network that says "1" where its picture is bright, and "0" where it is dark."""

    num_features = 2

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 2, 4, stride=4, bias=False)
        self.head = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.features.weight[0], self.features.weight[1] = 1 / 48, -1 / 48
            self.head.weight.copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(images).relu().mean((2, 3)))


def test_the_heat_lies_on_what_spoke_for_the_class() -> None:
    image = torch.zeros(1, 3, 32, 32)
    image[..., :8, :8], image[..., 24:, 24:] = 1.0, -1.0
    bright, dark = grad_cam(Corner().eval(), image.expand(2, -1, -1, -1), [1, 0])
    for heat, hot, cold in ((bright, (3, 3), (28, 28)), (dark, (28, 28), (3, 3))):
        assert heat.max() == 1
        assert heat[hot] > 0.9
        assert heat[cold] == 0
        assert heat[3, 28] == 0


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_vit", "swin_tiny_patch4_window7_224", "test_mambaout"])
def test_networks_of_every_layout(name: str) -> None:
    """Maps with channels first and last, and tokens with a class token; frozen or not, the network is unchanged."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=2, **({"depths": (1, 1, 1, 1)} if name.startswith("swin") else {})).eval()
    model.requires_grad_(False)
    images = torch.randn(2, *model.pretrained_cfg["input_size"])
    before = model(images)
    nn.init.normal_(model.get_classifier().weight, generator=torch.Generator().manual_seed(1))
    before = model(images)
    heat = grad_cam(model, images, [0, 1])
    assert heat.shape == (2, *images.shape[2:])
    assert torch.isfinite(heat).all()
    assert heat.min() >= 0
    assert heat.max() == 1
    assert torch.equal(model(images), before)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_network_without_maps_is_told() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    model.num_features = 12
    with pytest.raises(PipelineError, match="no grid of features"):
        grad_cam(model, torch.zeros(1, 3, 2, 2), [0])


def test_a_report_says_where_there_is_nothing_to_see(tmp_path: Path) -> None:
    """As with CrossViT and EfficientViM: the section stands, with the reason in place of the pictures."""
    photos, assessment = made_up(tmp_path, ("cat", "dog"), count=12)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2)).eval()
    model.num_features = 12
    size = Preprocessing(
        input_size=(3, 8, 8), mean=(0.5,) * 3, std=(0.2,) * 3, interpolation="bilinear", crop_pct=1.0, crop_mode="center"
    )
    models = {"frozen": model, "finetuned": model}
    gallery = where_models_look(assessment, photos, ("cat", "dog"), models, size)
    assert gallery.cards == []
    assert gallery.text.startswith("Grad-CAM cannot tell for this network: Sequential keeps no grid of features")


def test_an_overlay_is_grey_where_it_is_cold() -> None:
    heat = torch.zeros(20, 20)
    heat[:, 10:] = 1.0
    mixed = overlay(Image.new("RGB", (40, 40), (200, 100, 50)), heat)
    red, green, blue = mixed.getpixel((2, 20))
    assert red == green == blue
    red, green, blue = mixed.getpixel((37, 20))
    assert red > blue + 50
