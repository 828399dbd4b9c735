"""Backends agree with eager torch, whatever the batch and the threads, and the rule that chooses one repeats."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from pipeline.errors import PipelineError
from pipeline.models import backends
from pipeline.models.backends import TOLERANCE, Backend, build_backend, candidates, relative_rms_error
from pipeline.models.freezing import set_trainable
from pipeline.models.splitting import split_model
from tests.clones import ROOT, run

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
@pytest.mark.parametrize("choice", ["openvino", "torch"])
def test_backends_agree_with_eager_torch_at_any_batch_size(name: str, choice: str) -> None:
    model = timm.create_model(name).eval()
    images = torch.randn(5, 3, 160, 160)
    backend = build_backend(model, images[:2], choice=choice, device=CPU, threads=2)
    assert backend.name.split()[0] == choice
    with torch.inference_mode():
        assert relative_rms_error(backend.run(images), model(images)) <= TOLERANCE[backend.name]


@pytest.mark.parametrize("name", ["mobilenetv2_035", "test_vit"])
@pytest.mark.parametrize("float32", [False, True])
def test_a_photo_gets_the_same_bits_in_any_batch_by_any_number_of_threads(name: str, *, float32: bool) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    images = torch.randn(11, 3, 160, 160)
    one, two = (build_backend(model, images[:2], choice="openvino", device=CPU, threads=n, float32=float32) for n in (1, 2))
    expected = one.run(images)
    assert torch.equal(two.run(images), expected)
    assert torch.equal(torch.cat([two.run(images[:3]), two.run(images[3:])]), expected)


@pytest.mark.parametrize("name", ["mobilenetv2_035", "resnet18"])
def test_a_part_of_a_network_gives_what_it_gives_inside_the_whole(name: str) -> None:
    """OpenVINO keeps float32 at the end of a graph, so an inner layer that is made the last would give other values."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    images = torch.randn(4, 3, 96, 96)
    set_trainable(model, 2)
    cut = split_model(model, images)
    assert cut is not None
    whole, lower = (backend_of(module, images) for module in (model, cut.frozen))
    assert torch.equal(backend_of(cut.trainable, lower.run(images)).run(lower.run(images)), whole.run(images))


class CudnnSettings(nn.Module):
    """Gives whether cuDNN is on, and whether it may convolve in TF32."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        flags = [torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32]
        return torch.tensor([flags], dtype=torch.float32).expand(len(images), -1)


@pytest.mark.parametrize(("autocast", "tf32"), [(None, 0), (torch.bfloat16, 1)])
def test_torch_computes_by_cudnn_and_in_float32_where_that_is_meant(autocast: torch.dtype | None, tf32: int) -> None:
    assert backends._torch(CudnnSettings(), CPU, autocast)(torch.zeros(2, 3, 8, 8)).tolist() == [[1, tf32]] * 2


def test_weights_are_in_the_format_of_convolutions_but_those_of_5_dimensions() -> None:
    """As in a LambdaResNet."""
    flat, deep = backends.channels_last(nn.ModuleList([nn.Conv2d(3, 4, 3), nn.Conv3d(1, 2, 3)])).children()
    assert flat.weight.is_contiguous(memory_format=torch.channels_last)
    assert deep.weight.is_contiguous()


def backend_of(module: nn.Module, example: torch.Tensor) -> Backend:
    return build_backend(module.eval(), example, choice="auto", device=CPU, threads=2)


@pytest.mark.parametrize("flag", ["avx512_bf16", "amx_bf16"])
def test_a_processor_computes_in_bfloat16_where_it_multiplies_in_it_but_what_must_be_float32(
    monkeypatch: pytest.MonkeyPatch, flag: str
) -> None:
    for capabilities, bfloat16 in ({flag: True}, ["openvino bfloat16"]), ({"avx2": True}, []):
        monkeypatch.setattr("torch.cpu.get_capabilities", lambda known=capabilities: known)
        assert candidates("auto", CPU, float32=False) == [*bfloat16, "openvino", "torch"]
        assert candidates("openvino", CPU, float32=False) == [*bfloat16, "openvino"]
        assert candidates("auto", CPU, float32=True) == ["openvino", "torch"]
        assert candidates("openvino", CPU, float32=True) == ["openvino"]
        assert candidates("torch", CPU, float32=False) == ["torch"]


@pytest.mark.parametrize("capabilities", [{"avx512_bf16": True}, {"avx2": True}])
def test_float32_is_float32_on_any_processor(monkeypatch: pytest.MonkeyPatch, capabilities: dict) -> None:
    model, images = timm.create_model("test_resnet").eval(), torch.randn(2, 3, 64, 64)
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities)
    backend = build_backend(model, images, choice="openvino", device=CPU, threads=1, float32=True)
    assert backend.name == "openvino"
    assert backend.relative_rms_error <= 1e-5


@pytest.mark.parametrize(("bfloat16", "first"), [(True, "torch bfloat16"), (False, "torch float16")])
def test_a_gpu_computes_in_16_bits_that_it_has_and_in_float32_where_it_must(
    monkeypatch: pytest.MonkeyPatch, bfloat16: bool, first: str
) -> None:
    gpu = torch.device("cuda")
    monkeypatch.setattr(backends, "has_bfloat16", lambda device: bfloat16)
    assert candidates("auto", gpu, float32=False) == [first, "torch"]
    assert candidates("torch", gpu, float32=True) == ["torch"]
    assert candidates("auto", torch.device("mps"), float32=False) == ["torch"]
    with pytest.raises(PipelineError, match=r"backend = openvino computes on a processor, but runtime\.device is cuda"):
        candidates("openvino", gpu, float32=False)


class Function(nn.Module):
    """A network without parameters."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.function(images)


def large(images: torch.Tensor) -> torch.Tensor:
    """Through values that float16 cannot hold."""
    first = nn.functional.conv2d(images, torch.full((4, 3, 8, 8), 1e4))
    return nn.functional.conv2d(first, torch.full((4, 4, 1, 1), 1e-4)).flatten(1)


def test_a_network_that_16_bits_cannot_hold_is_computed_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU without bfloat16, with float16 on the processor."""
    monkeypatch.setattr(backends, "candidates", lambda *_, **__: ["torch float16", "torch"])
    images = torch.rand(2, 3, 8, 8)
    assert build_backend(Function(large), images, choice="auto", device=CPU, threads=1).name == "torch"
    model = timm.create_model("test_resnet").eval()
    assert build_backend(model, torch.randn(2, 3, 64, 64), choice="auto", device=CPU, threads=1).name == "torch float16"


def test_a_network_that_onnx_cannot_hold_runs_in_torch_unless_onnx_was_asked_for() -> None:
    images, network = torch.randn(2, 3, 8, 8), Function(lambda images: torch.linalg.svdvals(images.mean(1)))
    assert build_backend(network, images, choice="auto", device=CPU, threads=1).name == "torch"
    with pytest.raises(PipelineError, match="cannot run in openvino"):
        build_backend(network, images, choice="openvino", device=CPU, threads=1)


def test_a_backend_that_disagrees_is_not_trusted() -> None:
    forgetful = Function(lambda images: torch.rand(len(images), 4))
    with pytest.raises(PipelineError, match="something else than eager torch"):
        build_backend(forgetful, torch.randn(2, 3, 8, 8), choice="torch", device=CPU, threads=1)


def test_a_network_that_overflows_is_told_before_anything_is_computed_with_it() -> None:
    layer = nn.Conv2d(3, 4, 8)
    nn.init.constant_(layer.weight, 1e38)
    with pytest.raises(PipelineError, match="not finite numbers on the first photos"):
        build_backend(nn.Sequential(layer, nn.Flatten()), torch.ones(2, 3, 8, 8), choice="auto", device=CPU, threads=1)


def test_openvino_is_first_called_by_one_thread_and_reports_nothing(tmp_path: Path) -> None:
    code = """
import threading, timm, torch, sys
import pipeline.models.backends as backend
backend.openvino_core()
import openvino
infer, callers = openvino.InferRequest.infer, []
def recorded(self, *arguments, **named):
    callers.append(threading.current_thread() is threading.main_thread())
    return infer(self, *arguments, **named)
openvino.InferRequest.infer = recorded
images = torch.randn(4, 3, 64, 64)
model = timm.create_model("test_resnet").eval()
backend.build_backend(model, images, choice="openvino", device=torch.device("cpu"), threads=2).run(images)
print(callers[0], any(callers[1:]))
"""
    done = run(ROOT, sys.executable, "-c", code, PYTHONPATH=str(ROOT), HOME=str(tmp_path), CI="")
    assert done.stdout.split() == ["True", "False"]
    assert not (tmp_path / "intel").exists()  # where its telemetry counts


def test_a_signal_that_comes_when_backends_are_gone_is_handled() -> None:
    """In a process of its own, which OpenVINO's stack for signals, once it was taken away, would end."""
    code = """
import os, signal, timm, torch
from pipeline.models.backends import build_backend
images = torch.randn(2, 3, 64, 64)
def backend():
    return build_backend(timm.create_model("test_resnet").eval(), images, choice="auto", device=torch.device("cpu"), threads=1)
first, second = backend(), backend()
del first
del second
signal.signal(signal.SIGUSR1, lambda number, frame: print("handled"))
os.kill(os.getpid(), signal.SIGUSR1)
"""
    assert "handled" in run(ROOT, sys.executable, "-c", code, PYTHONPATH=str(ROOT)).stdout
