"""Grad-CAM lands where the evidence is, for networks of both kinds, and leaves the network as it was."""

from pathlib import Path

import pytest
import timm
import torch
import torchvision
from PIL import Image
from torch import nn

from pipeline.evaluation.attribution import grad_cam, overlay
from pipeline.evaluation.error_analysis import grad_cam_gallery, most_confident
from pipeline.models.outputs import ConcatenatedNetwork
from tests.evaluation.reports import made_up
from tests.refusals import refused
from tests.training import tiny

SIZE = tiny.PREPROCESSING.model_copy(update={"input_size": (3, 8, 8), "std": (0.2,) * 3, "interpolation": "bilinear"})


class Corner(nn.Module):
    """A convolutional network that predicts class 0 where its picture is bright, and class 1 where it is dark."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 2, 4, stride=4, bias=False)
        self.head = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.features.weight[0], self.features.weight[1] = 1 / 48, -1 / 48
            self.head.weight.copy_(torch.eye(2))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(images).relu().mean((2, 3)))


def test_the_heat_lies_on_what_spoke_for_the_class() -> None:
    image = torch.zeros(1, 3, 32, 32)
    image[..., :8, :8], image[..., 24:, 24:] = 1.0, -1.0
    bright, dark = grad_cam(Corner().eval(), image.expand(2, -1, -1, -1), [0, 1])
    for heat, hot, cold in ((bright, (3, 3), (28, 28)), (dark, (28, 28), (3, 3))):
        assert heat.max() == 1
        assert heat[hot] > 0.9
        assert heat[cold] == 0
        assert heat[3, 28] == 0


def random_network(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    torch.manual_seed(0)
    if name == "torchvision/vit":
        model = torchvision.models.VisionTransformer(32, 8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=2)
        nn.init.normal_(model.heads.head.weight)
        return model.eval(), (3, 32, 32)
    if name.startswith("torchvision/"):
        return torchvision.models.get_model(name.removeprefix("torchvision/"), num_classes=2).eval(), (3, 64, 64)
    model = timm.create_model(name, num_classes=2, **({"depths": (1, 1, 1, 1)} if name.startswith("swin") else {})).eval()
    nn.init.normal_(model.get_classifier().weight, generator=torch.Generator().manual_seed(1))
    return model, model.pretrained_cfg["input_size"]


TIMM = ("test_resnet", "test_convnext", "test_vit", "swin_tiny_patch4_window7_224", "test_mambaout")


@pytest.mark.parametrize("name", [*TIMM, "torchvision/resnet18", "torchvision/vit"])
def test_networks_of_every_layout(name: str) -> None:
    """Maps with channels first and last, and tokens with a class token; a frozen network stays unchanged."""
    model, input_size = random_network(name)
    model.requires_grad_(False)
    images = torch.randn(2, *input_size)
    before = model(images)
    heat = grad_cam(model, images, [0, 1])
    assert heat.shape == (2, *images.shape[2:])
    assert torch.isfinite(heat).all()
    assert heat.min() >= 0
    assert heat.max() == 1
    assert torch.equal(model(images), before)
    assert not any(module._forward_hooks for module in model.modules())


def test_of_several_backbones_each_is_heard() -> None:
    """Each sees one corner: the heat lies on both, not on what the last backbone saw alone."""
    image = torch.zeros(1, 3, 32, 32)
    image[..., :8, :8], image[..., 24:, 24:] = 1.0, -1.0
    model = ConcatenatedNetwork([Corner(), Corner()], [2, 2]).eval()
    with torch.no_grad():
        model.head = nn.Linear(4, 1, bias=False)
        model.head.weight.copy_(torch.tensor([[1.0, 0.0, 0.0, 1.0]]))  # what is bright to the first, dark to the second
    heat = grad_cam(model, image, [0])[0]
    assert heat.max() == 1
    assert heat[[3, 28], [3, 28]].numpy() == pytest.approx(1, abs=0.01)
    assert heat[3, 28] == 0


def test_a_network_without_maps_is_refused_and_the_report_gives_the_reason(tmp_path: Path) -> None:
    """As with CrossViT and EfficientViM: the section stands, with the reason in place of the photos."""
    photos, scores = made_up(tmp_path, ("cat", "dog"), count=12)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2)).eval()
    refused("no layer with feature maps", grad_cam, model, torch.zeros(1, 3, 8, 8), [0])
    shown = most_confident(scores["finetuned"], photos, SIZE)
    gallery = grad_cam_gallery(scores, photos, {"frozen": model, "finetuned": model}, shown)
    assert gallery.cards == []
    assert gallery.text.startswith("Grad-CAM cannot show it for this network: Sequential has no layer with feature maps")


def test_the_gallery_shows_mistakes_first_and_each_class_in_turn(tmp_path: Path) -> None:
    photos, scores = made_up(tmp_path, ("cat", "dog"), count=12)
    shown = most_confident(scores["frozen"], photos, SIZE)
    gallery = grad_cam_gallery(scores | {"finetuned": scores["frozen"]}, photos, {"frozen": Corner()}, shown)
    wrong = scores["frozen"].mistakes[:4]
    shown = [card.note for card in gallery.cards]
    assert len(wrong) > 0
    assert shown[: len(wrong)] == photos["id"].iloc[wrong].tolist()
    assert {card.title for card in gallery.cards[len(wrong) :][:2]} == {"labelled cat", "labelled dog"}
    assert [picture.label.split(":")[0] for picture in gallery.cards[0].pictures] == ["photo", "frozen"]


def test_an_overlay_is_grey_where_the_heat_is_zero() -> None:
    heat = torch.zeros(8, 8)
    heat[:, 4:] = 1.0
    mixed = overlay(Image.new("RGB", (8, 8), (200, 100, 50)), heat)
    red, green, blue = mixed.getpixel((0, 4))
    assert red == green == blue
    red, green, blue = mixed.getpixel((7, 4))
    assert red > blue + 50
