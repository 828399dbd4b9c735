"""Frozen is frozen: no gradient, no moving statistics, and a hash that would tell."""

import copy
from functools import partial

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.models import freezing
from pipeline.models.freezing import blocks_of, frozen_fingerprint, parameter_groups, set_trainable
from pipeline.models.head import replace_head
from pipeline.models.splitting import split_model
from tests.models.sweep import create
from tests.refusals import refused


def network() -> nn.Module:
    model = timm.create_model("test_resnet")
    replace_head(model, 2)
    return model


def learning(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    ("unfrozen", "expected"),
    [
        ("head", {"fc"}),
        (0, {"fc"}),
        (2, {"layer3", "layer4", "fc"}),
        (["layer4.0.conv1", "bn1.bias"], {"layer4", "bn1"}),
        ([], set()),
        ("all", {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"}),
    ],
)
def test_just_what_is_unfrozen_learns_and_batch_norm_is_held_through_any_train_call(unfrozen, expected: set[str]) -> None:
    model = network()
    keys = list(model.state_dict())
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    for one in ("all", "head", unfrozen):  # each call sets everything anew
        set_trainable(model, one)
    assert {name.split(".")[0] for name in learning(model)} == expected
    copied = copy.deepcopy(model)
    before = frozen_fingerprint(copied)
    copied.eval()
    copied.apply(lambda module: module.train())
    assert not any(module.training for module in copied.train().modules() if isinstance(module, nn.BatchNorm2d))
    loss = nn.functional.cross_entropy(copied.train()(torch.randn(8, 3, 32, 32)), torch.tensor([0, 1] * 4))
    if expected:
        loss.backward()
        torch.optim.SGD(copied.parameters(), lr=0.1).step()
    assert frozen_fingerprint(copied) == before == frozen_fingerprint(model)
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in copied.named_buffers())
    assert list(copied.state_dict()) == keys
    moved = {name for name, tensor in copied.named_parameters() if not torch.equal(tensor, model.get_parameter(name))}
    assert moved <= learning(model)
    assert bool(moved) == bool(expected)


def test_unknown_blocks_and_names_are_told() -> None:
    refused("only 5 blocks", set_trainable, network(), 6)
    refused(r"no parameters at 'layer9', 'layer'", set_trainable, network(), ["layer9", "layer4", "layer"])


def test_the_fingerprint_sees_live_batch_norm_and_one_changed_bit() -> None:
    """Plain requires_grad_(False) leaves the statistics moving."""
    model = network().requires_grad_(False)
    before = frozen_fingerprint(model)
    model.train()(torch.randn(4, 3, 32, 32))
    moved = frozen_fingerprint(model)
    model.conv1[0].weight.view(-1)[0] += 1e-6
    assert len({before, moved, frozen_fingerprint(model)}) == 3


def test_blocks_of_a_network_without_timms_matcher() -> None:
    of_transformer = [block[0].rpartition(".")[0] for block in blocks_of(create("torchvision/vit_b_32"))]
    assert of_transformer[-3:] == ["encoder.layers.encoder_layer_11.ln_1", "encoder.ln", "heads.head"]
    model = create("torchvision/resnet18")
    assert [name for block in blocks_of(model) for name in block] == [name for name, _ in model.named_parameters()]
    set_trainable(model, 2)
    assert {name.rpartition(".")[0][:8] for name in learning(model)} == {"layer4.0", "layer4.1", "fc"}


def decay_and_scale(model: nn.Module, weight_decay: float = 0.1) -> dict[str, tuple[float, float]]:
    """Parameter -> its weight decay and the scale of its rate in an optimizer of timm's."""
    groups = partial(parameter_groups, weight_decay=weight_decay, layer_decay=0.5)
    optimizer = create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.1, param_group_fn=groups)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = [(names[id(one)], group) for group in optimizer.param_groups for one in group["params"]]
    assert len(dict(found)) == len(found), "a parameter in two groups"
    return {name: (group["weight_decay"], group["lr_scale"]) for name, group in found}


@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("test_vit", {"pos_embed", "cls_token"}),
        ("swin_tiny_patch4_window7_224", {"layers.0.blocks.0.attn.relative_position_bias_table"}),
    ],
)
def test_what_timm_wants_without_weight_decay_has_none(name: str, without: set[str]) -> None:
    model = create(name)
    found = decay_and_scale(model)
    assert found.keys() == {parameter for parameter, _ in model.named_parameters()}
    not_decayed = {parameter for parameter, (decay, _) in found.items() if decay == 0}
    assert without <= not_decayed
    assert {parameter for parameter, tensor in model.named_parameters() if tensor.ndim <= 1} <= not_decayed < found.keys()
    assert {decay for decay, _ in decay_and_scale(model, weight_decay=0.0).values()} == {0}


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_the_blocks_of_layer_decay_are_those_of_unfreezing(name: str) -> None:
    model = timm.create_model(name, num_classes=2)
    for count in (0, 1, 2):
        set_trainable(model, count)
        scales = {parameter: scale for parameter, (_, scale) in decay_and_scale(model).items()}
        assert set(scales) == learning(model)
        assert set(scales.values()) == {0.5**distance for distance in range(count + 1)}
        for distance, block in enumerate(reversed(blocks_of(model))):
            assert {scales[parameter] for parameter in block if parameter in scales} <= {0.5**distance}


def operations(module: nn.Module, example: Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(example)
    return counter.get_total_flops()


@pytest.mark.parametrize("name", ["mobilenetv2_100", "mobilenetv1_100", "vit_tiny_patch16_224"])
def test_the_operations_of_the_topmost_blocks_are_those_of_the_part_that_learns(name: str) -> None:
    """Those between layers too: a transformer multiplies queries with keys outside any layer that has parameters."""
    model = timm.create_model(name, num_classes=2).eval()
    size = 224 if name.startswith("vit") else 96
    images = torch.randn(1, 3, size, size)
    fractions = freezing.fractions_of_operations(model, (3, size, size))
    assert fractions[-1] == pytest.approx(1)
    for count in (1, 2, len(fractions) // 2):
        set_trainable(model, count)
        split = split_model(model, images)
        assert split is not None
        part = operations(split.trainable, split.frozen(images)) / operations(model, images)
        assert part == pytest.approx(fractions[count], abs=0.01)
