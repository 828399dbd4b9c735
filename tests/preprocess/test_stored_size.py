"""The stored size: what the backbone's evaluation transform needs, whatever its input size."""

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.params import Backbone, OneBackbone
from pipeline.preprocess.stored_size import choose_stored_size, needed_size
from tests.refusals import refused


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
    assert needed_size(*Backbone(name=name, weights=weights, **settings).parts, Path("none")) == needed


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], OneBackbone]]:
    """Writes a module of the present folder, and gives the backbone that it builds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    def own(source: str) -> OneBackbone:
        (tmp_path / "net_of_mine.py").write_text(source)
        importlib.invalidate_caches()
        return Backbone(name="net_of_mine:build", weights="none").parts[0]

    yield own
    sys.modules.pop("net_of_mine", None)


@pytest.mark.parametrize(
    ("source", "needed"),
    [
        ("preprocessing = {'input_size': (3, 384, 384), 'crop_pct': 1.0}\ndef build(): ...", 384),
        ("preprocessing = {'crop_pct': 0.7}\ndef build(): ...", 320),
        ("class build:\n    preprocessing = {'crop_pct': 0.7}", 320),
        ("def build(): ...", 256),
        ("def build(:", "SyntaxError|invalid syntax"),
        ("def build(): raise OSError('no such disk')", "cannot be found: OSError: no such disk"),
        ("preprocessing = {'input_size': 64}\ndef build(): ...", r"its preprocessing cannot be used \(input_size "),
    ],
)
def test_a_network_of_ones_own_says_it_or_its_module(own: Callable[[str], OneBackbone], source: str, needed: int | str) -> None:
    if isinstance(needed, str):
        refused(needed, needed_size, own(source), Path("none"))
    else:
        assert needed_size(own(source), Path("none")) == needed


@pytest.mark.parametrize("content", ["[]", '{"input_size": 224}', '{"crop_pct": 0}', "{"])
def test_each_key_beside_the_weights_goes_before_the_networks_where_it_can_be_used(tmp_path: Path, content: str) -> None:
    weights = tmp_path / "pets.pth"
    weights.touch()
    [backbone] = Backbone(name="test_resnet", weights="pets.pth").parts
    for description, needed in (({"input_size": [3, 96, 128]}, 160), ({"input_size": None}, 200)):
        weights.with_suffix(".json").write_text(json.dumps(description | {"crop_pct": 0.8}))
        assert needed_size(backbone, weights) == needed
    weights.with_suffix(".json").write_text(content)
    refused(r"pets\.json cannot be used \(.*\): input_size is three numbers", needed_size, backbone, weights)


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


@pytest.mark.parametrize("name", ["nosuch", "fcn_resnet50"])  # which segments
def test_an_unknown_name_is_an_error(name: str) -> None:
    backbone = Backbone(name=f"torchvision/{name}", weights="none")
    refused(f"torchvision .* has no classifier '{name}'", choose_stored_size, "auto", backbone)
