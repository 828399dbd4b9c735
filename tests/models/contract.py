"""What holds for every architecture, checked on the meta device: shapes and names only, no memory and hardly any time.

check_timm("resnet50")             # raises AssertionError or what timm raises
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import timm
import torch
import torchvision
from torch import nn
from torchvision.models.regnet import BlockParams

from pipeline.models.freezing import set_trainable
from pipeline.models.head import find_heads, replace_head

# Architecture -> why timm itself cannot: nothing of ours would help.
NO_CLASSIFIER = "timm: the image encoder of a larger model, which gives feature maps; it has no classifier, nor a place for one"
EXCEPTIONS = {
    "deepseek_vit_412m_enc": NO_CLASSIFIER,
    "gemma4_vit_167m_enc": NO_CLASSIFIER,
    "gemma4_vit_570m_enc": NO_CLASSIFIER,
    "mobilenetv5_300m_enc": NO_CLASSIFIER,
    "qwen3_vit_88m_enc": NO_CLASSIFIER,
    "qwen3_vit_306m_enc": NO_CLASSIFIER,
    "qwen3_vit_416m_enc": NO_CLASSIFIER,
}


def create_timm(name: str) -> nn.Module:
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return timm.create_model(name)


def create_torchvision(name: str) -> nn.Module:
    with torch.device("meta"), _widths_computed_on_the_processor(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torchvision.models.get_model(name)


def check_timm(name: str) -> None:
    model = create_timm(name)
    check(model, model.pretrained_cfg.get("input_size", (3, 224, 224)))


def check_torchvision(name: str) -> None:
    side = 299 if name == "inception_v3" else 224
    check(create_torchvision(name), (3, side, side))


def check(model: nn.Module, input_size: tuple[int, int, int]) -> None:
    """Replace the head with 2 outputs: only the head changes, the output has 2 columns, and freezing leaves just the head."""
    before = {name: (id(tensor), tensor.shape) for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    modules_before = {name: id(module) for name, module in model.named_modules()}
    mode = model.training
    path = replace_head(model, 2)
    heads = find_heads(model)
    assert path == heads[0]

    def of_head(name: str) -> bool:
        return any(f"{name}.".startswith(f"{head}.") for head in heads)

    after = {name: (id(tensor), tensor.shape) for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    others = {name for name in before if not of_head(name)}
    assert others == {name for name in after if not of_head(name)}, "other names"
    assert all(before[name] == after[name] for name in others), "another tensor was touched"
    modules = {name: id(module) for name, module in model.named_modules()}
    assert {name for name in modules_before if not of_head(name)} == {name for name in modules if not of_head(name)}
    assert model.training == mode
    assert model.num_classes == 2
    assert all(tensor.device.type == "meta" for tensor in model.parameters())

    keys = list(model.state_dict())
    set_trainable(model, "head")
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning == {name for name, _ in model.named_parameters() if of_head(name)}
    assert learning
    assert list(model.state_dict()) == keys
    model.train()
    batch_norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert not any(module.training for module in batch_norms)
    set_trainable(model, 1)
    more = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning < more or learning == more == {name for name, _ in model.named_parameters()}, "no block below the head"

    with torch.device("meta"):
        output = model.eval()(torch.empty(2, *input_size))
    assert output.shape == (2, 2), tuple(output.shape)


@contextmanager
def _widths_computed_on_the_processor() -> Iterator[None]:
    """torchvision computes a RegNet's widths with tensors, which have no values on the meta device."""
    original = BlockParams.__dict__["from_init_params"]

    def on_the_processor(*arguments: object, **options: object) -> BlockParams:
        with torch.device("cpu"):
            return original.__func__(BlockParams, *arguments, **options)

    BlockParams.from_init_params = on_the_processor
    try:
        yield
    finally:
        BlockParams.from_init_params = original
