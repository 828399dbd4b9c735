"""The contract of heads and freezing, on the meta device: shapes and names only, no memory and hardly any time.

    python -m tests.models.sweep               # every architecture of timm and torchvision: about ten minutes on one core
    python -m tests.models.sweep 'convnext*'   # timm's that match

Prints what fails and, at the end, the counts; exits with status 1 if anything failed that `EXCEPTIONS` does not list.
"""

import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import timm
import torch
import torchvision
from torch import nn
from torchvision.models.regnet import BlockParams

from pipeline.models.freezing import set_trainable
from pipeline.models.head import find_heads, is_within, replace_head

# Image encoders of larger models, which give feature maps: they have no classifier, nor a place for one.
EXCEPTIONS = {
    *("deepseek_vit_412m_enc", "gemma4_vit_167m_enc", "gemma4_vit_570m_enc", "mobilenetv5_300m_enc"),
    *("qwen3_vit_88m_enc", "qwen3_vit_306m_enc", "qwen3_vit_416m_enc"),
}


def create(name: str) -> nn.Module:
    """One of timm's, or torchvision/NAME."""
    with torch.device("meta"), _widths_computed_on_the_processor(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library, _, plain = name.rpartition("/")
        return torchvision.models.get_model(plain) if library else timm.create_model(name)


def check(name: str) -> None:
    """Replace the head with 2 outputs: only the head changes, the output has 2 columns, and freezing leaves just the head."""
    model = create(name)
    of_torchvision = (3, 299, 299) if name == "torchvision/inception_v3" else (3, 224, 224)
    input_size = getattr(model, "pretrained_cfg", {}).get("input_size", of_torchvision)
    before = tensors_of(model)
    path = replace_head(model, 2)
    heads = find_heads(model)
    assert path == heads[0]
    after = tensors_of(model)
    others = {name for name in before if not is_within(name, heads)}
    assert others == {name for name in after if not is_within(name, heads)}, "other names"
    assert all(before[name] == after[name] for name in others), "another tensor was touched"
    assert model.num_classes == 2
    assert all(tensor.device.type == "meta" for tensor in model.parameters())

    keys = list(model.state_dict())
    set_trainable(model, "head")
    learning = learning_in(model)
    assert learning == {name for name, _ in model.named_parameters() if is_within(name, heads)} != set()
    assert list(model.state_dict()) == keys
    model.train()
    assert not any(module.training for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))
    set_trainable(model, 1)
    more = learning_in(model)
    assert learning < more or learning == more == {name for name, _ in model.named_parameters()}, "no block below the head"

    with torch.device("meta"):
        output = model.eval()(torch.empty(2, *input_size))
    assert output.shape == (2, 2), tuple(output.shape)


def tensors_of(model: nn.Module) -> dict[str, tuple[int, torch.Size]]:
    return {name: (id(tensor), tensor.shape) for name, tensor in [*model.named_parameters(), *model.named_buffers()]}


def learning_in(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


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


def main(pattern: str) -> int:
    started, unexpected = time.monotonic(), 0
    architectures = {"timm": timm.list_models(pattern), "torchvision": []}
    if pattern == "*":
        architectures["torchvision"] = [f"torchvision/{name}" for name in torchvision.models.list_models(torchvision.models)]
    for library, names in architectures.items():
        failed = 0
        for name in names:
            try:
                check(name)
            except Exception as error:  # of any kind: the sweep goes on and tells
                failed += 1
                unexpected += name not in EXCEPTIONS
                where = traceback.extract_tb(error.__traceback__)[-1]
                known = "known, " if name in EXCEPTIONS else ""
                print(f"{name}: {known}{type(error).__name__} {error} ({where.filename}:{where.lineno})", flush=True)
        print(f"{library}: {len(names) - failed} of {len(names)} architectures pass")
    print(f"{time.monotonic() - started:.0f} s")
    return int(unexpected > 0)


if __name__ == "__main__":
    sys.exit(main(*(sys.argv[1:2] or ["*"])))
