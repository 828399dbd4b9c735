"""Weights come in from any file, wholly or in part; what does not fit is listed, and nothing hostile runs."""

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from pipeline.errors import PipelineError
from pipeline.models.backbone import AUXILIARY
from pipeline.models.head import find_heads
from pipeline.models.weights import PREFIXES, load_weights, read_weights
from tests.refusals import refused


def network(classes: int = 3) -> nn.Module:
    model = nn.Sequential()
    model.conv = nn.Conv2d(3, 4, 3)
    model.norm = nn.BatchNorm2d(4)
    model.fc = nn.Linear(4, classes)
    with torch.no_grad():
        for number, tensor in enumerate(model.state_dict().values()):
            tensor.fill_(number)
    return model


def zeros() -> nn.Module:
    model = network()
    for tensor in model.state_dict().values():
        tensor.zero_()
    return model


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def under(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pth.tar", ".bin", ".safetensors"])
@pytest.mark.parametrize("kind", ["zip", "pickle", "safetensors"])
def test_every_kind_of_file_loads(tmp_path: Path, suffix: str, kind: str) -> None:
    file, state = tmp_path / f"weights{suffix}", network().state_dict()
    if kind == "safetensors" or suffix == ".safetensors":
        save_file(state, file)
    else:
        torch.save(state, file, _use_new_zipfile_serialization=kind == "zip")
    model = zeros()
    assert load_weights(model, file, strict=True).complete
    assert equal(model.state_dict(), state)


def test_old_files_and_averaged_models_load() -> None:
    without_counts = {name: tensor for name, tensor in network().state_dict().items() if "num_batches" not in name}
    for state in (without_counts, torch.optim.swa_utils.AveragedModel(network()).state_dict()):
        assert load_weights(zeros(), state, strict=True).complete


@given(prefixes=st.lists(st.sampled_from(PREFIXES), max_size=3), wrapped=st.booleans())
@settings(max_examples=40)
def test_wrappers_prefixes_are_seen_through_on_either_side(prefixes: list[str], wrapped: bool) -> None:
    prefix = "".join(prefixes)
    model = zeros()
    target: nn.Module = nn.ModuleDict({"backbone": model}) if wrapped else model
    assert load_weights(target, under(prefix, network().state_dict()), strict=True).complete
    assert equal(model.state_dict(), network().state_dict())


BESIDE = {"head.mlp.0.weight": torch.zeros(2)}  # a projection head, or a loss with weights
EXTRA = {
    "args": argparse.Namespace(lr=0.1),
    "best": np.float64(0.9),
    "step": np.int64(7),
    "loss": 0.5,
    "optimizer": torch.optim.AdamW(network().parameters()).state_dict(),
}
TRAINED: dict[str, Callable[[dict[str, torch.Tensor]], dict]] = {
    "state_dict": lambda state: {"state_dict": state} | EXTRA,
    "model": lambda state: {"model": state} | EXTRA,
    "an average beside the model": lambda state: {"model_state_dict": zeros().state_dict(), "ema_state_dict": state} | EXTRA,
    "timm's average": lambda state: {"state_dict": zeros().state_dict(), "state_dict_ema": state} | EXTRA,
    "DINO": lambda state: {
        "student": under("module.backbone.", zeros().state_dict()) | under("module.", BESIDE),
        "teacher": under("backbone.", state) | BESIDE,
        "args": argparse.Namespace(out_dim=65536),
    },
    "Lightning": lambda state: {
        "state_dict": under("model.", state) | {"loss_fn.weight": torch.zeros(2)},
        "hyper_parameters": {"data": Path("photos")},
        "confusion": np.zeros((2, 2)),
    },
    "Lightning, self.net": lambda state: {"state_dict": under("net.", state)},
    "DataParallel": lambda state: under("module.", state),
    "ema-pytorch": lambda state: (
        under("ema_model.", state) | under("online_model.", zeros().state_dict()) | {"step": torch.tensor(1)}
    ),
}


@pytest.mark.parametrize("script", TRAINED)
def test_what_training_scripts_write_loads_strictly(tmp_path: Path, script: str) -> None:
    torch.save(TRAINED[script](network().state_dict()), tmp_path / "c.pth")
    model = zeros()
    load_weights(model, tmp_path / "c.pth", strict=True)
    assert equal(model.state_dict(), network().state_dict())


def test_a_first_convolution_over_grey_photos_sees_grey_in_colours_and_one_over_four_channels_is_refused() -> None:
    model, grey = zeros(), torch.randn(1, 1, 5, 5)
    state = network().state_dict() | {"conv.weight": torch.rand(4, 1, 3, 3)}
    load_weights(model, state, strict=True)
    expected = nn.functional.conv2d(grey, state["conv.weight"], state["conv.bias"])
    torch.testing.assert_close(model.conv(grey.expand(1, 3, 5, 5)), expected)
    with pytest.raises(PipelineError, match=r"conv\.weight: \(4, 4, 3, 3\) in the file, \(4, 3, 3, 3\) in the network"):
        load_weights(model, state | {"conv.weight": torch.rand(4, 4, 3, 3)}, strict=True)


def test_auxiliary_classifiers_are_left_out() -> None:
    with torch.device("meta"):
        published, model = timm.create_model("inception_v3", aux_logits=True), timm.create_model("inception_v3")
    state = published.state_dict()
    assert any(name.startswith("AuxLogits") for name in state)
    load_weights(model, state, leave_out=[*find_heads(model), *AUXILIARY], strict=True)


def test_of_several_models_one_is_asked_for(tmp_path: Path) -> None:
    torch.save({"generator": network().state_dict(), "critic": zeros().state_dict()}, tmp_path / "two.pt")
    refused("several models: generator, critic", read_weights, tmp_path / "two.pt")
    assert equal(read_weights(tmp_path / "two.pt", part="generator"), network().state_dict())
    refused("no part 'encoder'; it holds generator, critic", read_weights, tmp_path / "two.pt", part="encoder")


def test_what_differs_is_reported_and_the_rest_is_loaded() -> None:
    state = network(classes=5).state_dict()
    state["norm.bias"] = state["norm.bias"] * 0 + 9
    del state["conv.bias"]
    state["extra"] = torch.zeros(1)
    model = zeros()
    report = load_weights(model, state)
    assert report.missing == ("conv.bias",)
    assert report.unexpected == ("extra",)
    assert report.other_shape == (("fc.weight", (5, 4), (3, 4)), ("fc.bias", (5,), (3,)))
    assert set(report.loaded) == set(model.state_dict()) - {"conv.bias", "fc.weight", "fc.bias"}
    assert torch.equal(model.norm.bias, torch.full((4,), 9.0))
    assert torch.equal(model.fc.weight, torch.zeros(3, 4))
    with pytest.raises(PipelineError, match=r"of another shape: fc\.weight: \(5, 4\) in the file, \(3, 4\) in the network"):
        load_weights(zeros(), state, strict=True)
    left_out = load_weights(zeros(), network(classes=5).state_dict(), leave_out=["fc"], strict=True).left_out
    assert left_out == ("fc.weight", "fc.bias")


@pytest.mark.parametrize("state", [{"other.weight": torch.zeros(1)}, dict.fromkeys(network().state_dict(), torch.zeros(7, 7))])
def test_what_hardly_fits_is_refused_and_nothing_is_overwritten(state: dict[str, torch.Tensor]) -> None:
    model = network()
    refused(r"[01] of 9 tensors match.*nothing was loaded", load_weights, model, state)
    assert equal(model.state_dict(), network().state_dict())


def test_two_candidates_for_one_place_are_refused() -> None:
    state = network().state_dict()
    with pytest.raises(PipelineError, match=r"Both module\.conv\.weight and ema_model\.conv\.weight"):
        load_weights(zeros(), under("module.", state) | under("ema_model.", state))


def test_a_model_on_meta_takes_the_files_tensors() -> None:
    with torch.device("meta"):
        model = nn.Linear(2, 2)
    load_weights(model, {"weight": torch.ones(2, 2), "bias": torch.zeros(2)})
    assert model(torch.ones(1, 2)).tolist() == [[2.0, 2.0]]
    assert model.weight.requires_grad


class Hostile:
    """A pickle that makes a folder when it is loaded, as another would remove one."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return Path.mkdir, (self.mark,)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_hostile_pickle_is_refused_and_does_not_run(tmp_path: Path, legacy: bool) -> None:
    state = network().state_dict() | {"surprise": Hostile(tmp_path / "mark")}
    torch.save(state, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    model = network()
    with pytest.raises(
        PipelineError, match=r"w\.pth cannot be read as weights: it holds more than tensors \(Unsupported global[^.]*\)\. "
    ):
        load_weights(model, tmp_path / "w.pth")
    assert not (tmp_path / "mark").exists()
    assert equal(model.state_dict(), network().state_dict())


def test_the_line_that_a_refusal_ends_with_takes_the_weights_out(tmp_path: Path) -> None:
    torch.save({"model": network()}, tmp_path / "whole.pth")
    with pytest.raises(PipelineError) as told:
        read_weights(tmp_path / "whole.pth")
    exec(re.fullmatch(r'python -c "(.*)"', str(told.value).splitlines()[-1].strip())[1], {})
    assert equal(read_weights(tmp_path / "whole.plain.pth"), network().state_dict())


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_a_truncated_file_is_refused_by_name(tmp_path: Path, suffix: str, fraction: float) -> None:
    file = tmp_path / f"weights{suffix}"
    save_file(network().state_dict(), file) if suffix == ".safetensors" else torch.save(network().state_dict(), file)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * fraction)])
    refused(f"weights{suffix} cannot be read as weights", read_weights, file)


def test_what_is_no_state_dict_is_refused(tmp_path: Path) -> None:
    refused("no such file", read_weights, tmp_path / "none.pt")
    for content, told in [([1, 2], "holds a list"), ({"epoch": 3}, "no tensors")]:
        torch.save(content, tmp_path / "c.pt")
        refused(told, read_weights, tmp_path / "c.pt")
    (tmp_path / "c.json").write_text(json.dumps({"a": 1}))
    refused(r"c\.json cannot be read", read_weights, tmp_path / "c.json")


def old_swin(name: str) -> str:
    """As in the checkpoints of Swin's authors, where a stage ends with the downsampling that timm puts before the next."""
    stage = re.match(r"layers\.(\d)\.downsample", name)
    return name.replace(stage[0], f"layers.{int(stage[1]) - 1}.downsample") if stage else name.replace("head.fc", "head")


@pytest.mark.parametrize(
    ("architecture", "published", "extra"),
    [
        (
            "swin_s3_tiny_224",
            old_swin,
            {f"layers.0.blocks.1.attn{name}": torch.zeros(1) for name in ("_mask", ".relative_position_index")},
        ),
        ("densenet121", lambda name: re.sub(r"denselayer(\d+)\.(norm|conv)(\d)", r"denselayer\1.\2.\3", name), {}),
        ("vit_small_patch14_dinov2", lambda name: name, {"mask_token": torch.zeros(1, 384)}),
    ],
)
def test_published_names_come_right_by_timms_filters(architecture: str, published: Callable[[str], str], extra: dict) -> None:
    with torch.device("meta"):
        model = timm.create_model(architecture, num_classes=10)
    names = [name for name in model.state_dict() if "num_batches_tracked" not in name]  # which old files do not have
    given = {f"module.{published(name)}": torch.rand(model.state_dict()[name].shape) for name in names}
    assert load_weights(model, given | extra, strict=True).complete
    state = model.state_dict()
    assert all(torch.equal(state[name], given[f"module.{published(name)}"]) for name in names)
    refused("unknown to the network: foreign", load_weights, model, given | extra | {"foreign": torch.zeros(1)}, strict=True)
