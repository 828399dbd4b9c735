"""How deep fine-tuning goes by itself: half of the operations at most, one block at least, and whatever a person says."""

from collections import OrderedDict

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.models.freezing import set_trainable
from pipeline.models.splitting import split_model
from pipeline.training.depth import default_depth, with_depth
from tests.training import tiny

SIZE = (3, 96, 96)


def operations(module: nn.Module, example: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(example)
    return counter.get_total_flops()


@pytest.mark.parametrize(("name", "blocks"), [("mobilenetv2_100", 3), ("mobilenetv1_100", 1), ("resnet18", 2)])
def test_what_learns_is_at_most_half_and_another_block_would_be_more(name: str, blocks: int) -> None:
    model = timm.create_model(name, num_classes=2).eval()
    images = torch.randn(1, *SIZE)
    assert default_depth(model, SIZE) == blocks
    whole = operations(model, images)
    shares = []
    for count in (blocks, blocks + 1):
        set_trainable(model, count)
        cut = split_model(model, images)
        assert cut is not None
        shares.append(operations(cut.upper, cut.lower(images)) / whole)
    assert shares[0] <= 0.5 < shares[1]


def test_a_network_whose_last_block_is_most_of_it_learns_that_block() -> None:
    body = nn.Sequential(nn.Conv2d(4, 64, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = nn.Sequential(OrderedDict(stem=nn.Conv2d(3, 4, 3), body=body, fc=nn.Linear(64, 2)))
    assert default_depth(model, SIZE) == 1


def test_operations_between_layers_count_with_their_block() -> None:
    """A transformer multiplies queries with keys outside any layer that has parameters."""
    assert default_depth(timm.create_model("vit_tiny_patch16_224"), (3, 224, 224)) == 6


def test_what_a_person_says_stays() -> None:
    for said in (1, 5, "all"):
        assert with_depth(tiny.settings(unfrozen_blocks=said), tiny.network(), tiny.PREPROCESSING).unfrozen_blocks == said
    settled = with_depth(tiny.settings(unfrozen_blocks="auto"), tiny.network(), tiny.PREPROCESSING)
    assert isinstance(settled.unfrozen_blocks, int)
