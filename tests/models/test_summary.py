"""A summary tells the truth about a network, and the catalogue about timm."""

from pathlib import Path

import pytest
import timm
from torch import nn
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.models.backbone import create_backbone
from pipeline.models.freezing import set_trainable
from pipeline.models.head import replace_head
from pipeline.models.summary import describe, summarise


def test_the_summary_counts_what_is_there() -> None:
    backbone = create_backbone("test_resnet", "none")
    replace_head(backbone.model, 2)
    set_trainable(backbone.model, "head")
    keys, training = list(backbone.model.state_dict()), backbone.model.training
    text = summarise(backbone.model, backbone.preprocessing)
    total = sum(parameter.numel() for parameter in backbone.model.parameters())
    head = sum(parameter.numel() for parameter in backbone.model.fc.parameters())
    assert f"Trainable params: {head:,}\nNon-trainable params: {total - head:,}\n" in text
    assert "fc (Linear(" in text
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in backbone.model.modules())
    assert f"{norms} layers, {norms} of them held in eval" in text
    assert "[1, 2]" in text
    assert "mult-adds (M): " in text
    assert f"{backbone.preprocessing.input_size[1]} x {backbone.preprocessing.input_size[2]}" in text
    assert list(backbone.model.state_dict()) == keys
    assert backbone.model.training == training


def test_the_list_of_backbones_says_what_timm_says() -> None:
    config = timm.get_pretrained_cfg("resnet18")
    _, parameters, size, licence, pretrained = describe("resnet18")
    assert parameters == "11.69 M"  # 11,689,512, as of its public implementations
    assert (size, licence) == ("224x224", config.license)
    assert pretrained == f"{config.tag} and {len(timm.list_pretrained('resnet18.*')) - 1} more"


def test_the_commands_print_what_the_functions_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # no params.yaml: a name on the command line needs none
    for arguments, status, expected in (
        (["summary", "--backbone", "test_resnet", "--unfrozen", "all", "--depth", "1"], 0, "Non-trainable params: 0"),
        (["summary", "--backbone", "test_vit", "--unfrozen", "1", "--outputs", "3"], 0, "[1, 3]"),
        (["summary", "--backbone", "test_vit", "--unfrozen", "most"], 1, "head, all or a number"),
        (["summary"], 1, "params.yaml"),
        (["backbones", "test_resne?"], 0, "0.47 M"),
        (["backbones", "convnexd*"], 1, "nearest names are"),
    ):
        shown = CliRunner().invoke(app, arguments)
        assert shown.exit_code == status, shown.output
        assert expected in shown.output
