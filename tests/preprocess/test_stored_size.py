"""The stored size: what the backbone's evaluation transform needs, whatever its input size."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.params import Backbone
from pipeline.preprocess.stored_size import choose_stored_size, needed_size


@pytest.mark.parametrize(
    ("name", "weights", "needed", "settings"),
    [
        ("tf_efficientnet_lite0", "package", 256, {}),  # 224 / 0.875
        ("resnet50.a1_in1k", "pretrained", 236, {}),  # 224 / 0.95; its test size is another
        ("vit_base_patch16_384", "none", 384, {}),
        ("test_resnet", "none", 169, {}),
        ("test_resnet", "none", 160, {"crop": "squash"}),
        ("resnet50.a1_in1k", "none", 337, {"input_size": 320}),
        ("vit_tiny_patch16_224_in21k", "none", 320, {"input_size": 320, "crop": "pad"}),  # a former name
        ("torchvision/efficientnet_v2_s", "pretrained", 384, {}),
        ("torchvision/resnet50", "ResNet50_Weights.IMAGENET1K_V1", 256, {}),
        ("resnet50", "ResNet50_Weights.IMAGENET1K_V2", 232, {}),
    ],
)
def test_what_is_needed_is_the_input_size_over_the_crop(name: str, weights: str, needed: int, settings: dict) -> None:
    assert needed_size(*Backbone(name=name, weights=weights, **settings).parts, Path("none.json")) == needed


@pytest.mark.parametrize(
    ("preprocessing", "needed"),
    [("{'input_size': (3, 384, 384), 'crop_pct': 1.0}", 384), ("{'crop_pct': 0.7}", 320), (None, 256)],
)
def test_a_network_of_ones_own_says_it_in_its_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preprocessing: str | None, needed: int
) -> None:
    said = f"preprocessing = {preprocessing}\n" if preprocessing else ""
    (tmp_path / "net_of_mine.py").write_text(f"{said}def build(): ...\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "net_of_mine", raising=False)
    importlib.invalidate_caches()
    assert needed_size(*Backbone(name="net_of_mine:build", weights="none").parts, Path("none.json")) == needed
    monkeypatch.delitem(sys.modules, "net_of_mine")


def test_a_description_of_the_weights_goes_before_the_network(tmp_path: Path) -> None:
    (tmp_path / "pets.json").write_text(json.dumps({"input_size": [3, 96, 128], "crop_pct": 0.8}))
    assert needed_size(*Backbone(name="test_resnet", weights="pets.pth").parts, tmp_path / "pets.json") == 160


@pytest.mark.parametrize(
    ("name", "size"),
    [("test_resnet", 192), ("tf_efficientnet_lite0", 256), (["test_resnet", "vit_base_patch16_384"], 384)],
)
def test_auto_is_what_the_largest_backbone_needs_rounded_up_and_printed(
    name: str | list[str], size: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert choose_stored_size("auto", Backbone(name=name, weights="none")) == size
    assert f"photos are stored at {size} px" in capsys.readouterr().out


@pytest.mark.parametrize(("setting", "warns"), [(128, True), (400, False)])
def test_a_number_that_is_too_small_warns(setting: int, warns: bool, capsys: pytest.CaptureFixture[str]) -> None:
    assert choose_stored_size(setting, Backbone(name="vit_base_patch16_384", weights="none")) == setting
    assert ("warning: preprocess.stored_size is 128 px" in (printed := capsys.readouterr().out)) == warns
    assert ("384 px" in printed) == warns


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(PipelineError, match="The input size of backbone torchvision/nosuch with weights none cannot be found"):
        choose_stored_size("auto", Backbone(name="torchvision/nosuch", weights="none"))
