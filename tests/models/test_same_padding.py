"""Constant "same" padding gives timm's outputs and gradients at any size, in a trace and in ONNX, under the same names."""

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from torch import nn

from pipeline.models.backends import export_onnx
from pipeline.models.folding import fix_same_padding


def two(name: str) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    plain, fixed = timm.create_model(name, num_classes=2).eval(), timm.create_model(name, num_classes=2).eval()
    fixed.load_state_dict(plain.state_dict())
    fix_same_padding(fixed)
    assert any(type(module) is not type(own) for module, own in zip(fixed.modules(), plain.modules(), strict=True))
    return plain, fixed


@pytest.mark.parametrize("size", [(64, 64), (65, 50)])
@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "tf_mobilenetv3_small_minimal_100"])
def test_outputs_and_gradients_are_timms_at_any_size(name: str, size: tuple[int, int]) -> None:
    plain, fixed = two(name)
    assert list(plain.state_dict()) == list(fixed.state_dict())
    images = torch.randn(2, 3, *size)
    for model in (plain, fixed):
        model(images).square().sum().backward()
    torch.testing.assert_close(fixed(images), plain(images), rtol=1e-4, atol=1e-5)
    for (name, expected), found in zip(plain.named_parameters(), fixed.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_a_trace_and_onnx_give_the_same() -> None:
    plain, fixed = two("tf_efficientnet_lite0")
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = plain(images)
        traced = torch.fx.symbolic_trace(fixed)
        torch.testing.assert_close(traced(images), expected, rtol=1e-4, atol=1e-5)
        other = torch.randn(2, 3, 49, 80)
        torch.testing.assert_close(traced(other), plain(other), rtol=1e-4, atol=1e-5)
    session = onnxruntime.InferenceSession(export_onnx(fixed, images))
    (outputs,) = session.run(None, {"images": images.numpy()})
    np.testing.assert_allclose(outputs, expected.numpy(), rtol=1e-3, atol=1e-5)
