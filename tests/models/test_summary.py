"""A summary tells the truth about a network, and the catalogue about timm."""

from pathlib import Path

import pytest
import timm
from torch import nn
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.errors import PipelineError
from pipeline.models.backbone import create_backbone
from pipeline.models.freezing import set_trainable
from pipeline.models.head import replace_head
from pipeline.models.summary import describe, show_backbones, show_summary, summarise


def test_the_summary_counts_what_is_there() -> None:
    backbone = create_backbone("test_resnet", "none")
    replace_head(backbone.model, 2)
    set_trainable(backbone.model, "head")
    keys, training = list(backbone.model.state_dict()), backbone.model.training
    text = summarise(backbone.model, backbone.preprocessing)
    total = sum(parameter.numel() for parameter in backbone.model.parameters())
    head = sum(parameter.numel() for parameter in backbone.model.fc.parameters())
    assert f"{total:,}: {head:,} learn, {total - head:,} are frozen" in text
    assert "fc (Linear(" in text
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in backbone.model.modules())
    assert f"{norms} layers, {norms} of them held in eval" in text
    assert "[1, 2]" in text
    assert "mult-adds (M): " in text
    assert f"{backbone.preprocessing.input_size[1]} x {backbone.preprocessing.input_size[2]}" in text
    assert list(backbone.model.state_dict()) == keys
    assert backbone.model.training == training


def test_show_summary_refuses_what_it_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PipelineError, match=r"nearest names are.*resnet18"):
        show_summary("resnet_18", "none", outputs=2, unfrozen="head", depth=1)
    with pytest.raises(PipelineError, match="head, all or a number"):
        show_summary("test_resnet", "none", outputs=2, unfrozen="most", depth=1)
    show_summary("test_vit", "none", outputs=3, unfrozen="1", depth=1)
    shown = capsys.readouterr().out
    assert "test_vit" in shown
    assert "[1, 3]" in shown


def test_the_list_of_backbones_says_what_timm_says(capsys: pytest.CaptureFixture[str]) -> None:
    config = timm.get_pretrained_cfg("resnet18")
    _, parameters, size, licence, pretrained = describe("resnet18")
    assert parameters == "11.69 M"  # 11,689,512, as of its public implementations
    assert (size, licence) == ("224x224", config.license)
    assert pretrained == f"{config.tag} and {len(timm.list_pretrained('resnet18.*')) - 1} more"
    with pytest.raises(PipelineError, match=r"nearest names are.*convnext"):
        show_backbones("convnexd*")
    show_backbones("test_*net")
    shown = capsys.readouterr().out
    assert "test_resnet" in shown
    assert "0.47 M" in shown


def test_the_commands_print_what_the_functions_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # no params.yaml: a name on the command line needs none
    shown = CliRunner().invoke(app, ["summary", "--backbone", "test_resnet", "--unfrozen", "all", "--depth", "1"])
    assert shown.exit_code == 0, shown.output
    assert "0 are frozen" in shown.output
    shown = CliRunner().invoke(app, ["backbones", "test_resne?"])
    assert shown.exit_code == 0, shown.output
    assert "test_resnet" in shown.output
    assert CliRunner().invoke(app, ["backbones", "no such"]).exit_code == 1
    assert CliRunner().invoke(app, ["summary"]).exit_code == 1
