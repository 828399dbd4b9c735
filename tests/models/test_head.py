"""The head is found, replaced and initialised in networks of every kind, and nothing else of them is touched."""

import math
from typing import Any

import pytest
import timm
import torch
import torchvision
from timm.models.volo import VOLO
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.checkpoint import HeadInfo
from pipeline.models import head as heads_module
from pipeline.models.backends import export_onnx
from pipeline.models.freezing import frozen_fingerprint, set_trainable
from pipeline.models.head import INITIALISATIONS, Head, find_heads, replace_head, replace_head_as_set, set_linear_head
from pipeline.models.outputs import FeatureExtractor, LogitsAndFeatures
from pipeline.models.splitting import split_model
from pipeline.params import Head as HeadSettings
from tests.models.sweep import check, create
from tests.refusals import refused

# Each has its classifier in a place or of a kind of its own; `python -m tests.models.sweep` checks all of timm's.
TIMM = (
    *("test_resnet", "test_vit", "test_convnext3", "test_efficientnet", "test_nfnet", "test_mambaout"),
    *("crossvit_9_dagger_240", "deit_tiny_distilled_patch16_224", "efficientvim_m1", "efficientvit_b0", "inception_v3"),
    *("levit_128s", "naflexvit_base_patch16_par_gap", "rdnet_tiny", "repvit_m1", "volo_d1_224", "vgg11_bn"),
)
TORCHVISION = ("alexnet", "googlenet", "inception_v3", "maxvit_t", "regnet_y_400mf", "squeezenet1_0", "vit_b_32")
# Small enough to be computed: name -> side of the square images, in pixels.
COMPUTED = dict.fromkeys(("test_convnext", "test_efficientnet", "test_vit", "test_nfnet", "crossvit_tiny_240"), 64)
COMPUTED |= dict.fromkeys(("caformer_s18", "ghostnet_050", "repghostnet_050", "efficientvit_m0"), 64)
COMPUTED |= dict.fromkeys(("efficientvim_m1", "efficientvim_m1_dist"), 128)
COMPUTED |= dict.fromkeys(("deit_tiny_distilled_patch16_224", "pit_ti_224"), 224)
PATHS = {
    "test_convnext": ("head.fc",),
    "levit_128s": ("head.linear", "head_dist.linear"),
    "pit_ti_distilled_224": ("head", "head_dist"),
    "crossvit_9_240": ("head.0", "head.1"),
    "torchvision/mobilenet_v2": ("classifier.1",),
    "torchvision/vit_b_16": ("heads.head",),
    "torchvision/googlenet": ("fc", "aux1.fc2", "aux2.fc2"),
    "torchvision/inception_v3": ("fc", "AuxLogits.fc"),
}


@pytest.mark.parametrize("name", [*TIMM, *(f"torchvision/{name}" for name in TORCHVISION)])
def test_the_contract_holds(name: str) -> None:
    check(name)


@pytest.mark.parametrize(("name", "paths"), PATHS.items())
def test_all_of_several_classifiers_are_the_head(name: str, paths: tuple[str, ...]) -> None:
    assert find_heads(create(name)) == paths


def test_a_network_without_a_classifier_is_told() -> None:
    refused("No classifier found", replace_head, create("qwen3_vit_88m_enc"), 2)


@pytest.mark.parametrize(("name", "side"), COMPUTED.items())
def test_just_the_head_learns_and_a_probe_on_the_features_gives_the_logits(name: str, side: int) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name)
    replace_head(model, 2)
    set_trainable(model, "head")
    before, images = frozen_fingerprint(model), torch.randn(2, 3, side, side)
    nn.functional.cross_entropy(model.train()(images), torch.tensor([0, 1])).backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    assert all((parameter.grad is not None) == parameter.requires_grad for parameter in model.parameters())
    assert frozen_fingerprint(model) == before
    as_if_trained(model.eval())
    probe_gives_the_logits(model, images)


def as_if_trained(model: nn.Module) -> None:
    """Norm layers that do something: as a network is made, BatchNorm in eval mode passes everything on as it is."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            is_norm = isinstance(model.get_submodule(name.rpartition(".")[0]), nn.LayerNorm | _BatchNorm)
            if name.endswith("running_var") or (is_norm and name.endswith(".weight")):
                tensor.mul_(torch.empty_like(tensor).uniform_(0.7, 1.4))
            elif name.endswith("running_mean") or (is_norm and name.endswith(".bias")):
                tensor.add_(torch.empty_like(tensor).normal_(std=0.1))


@torch.inference_mode()
def probe_gives_the_logits(model: nn.Module, images: Tensor) -> FeatureExtractor:
    extractor = FeatureExtractor(model).eval()
    features = extractor(images)
    weight, bias = torch.randn(2, features.shape[1]), torch.randn(2)
    set_linear_head(model, weight, bias)
    logits = model(images)
    torch.testing.assert_close(logits, features @ weight.T + bias, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(LogitsAndFeatures(model).eval()(images), torch.cat([logits, features], 1), rtol=1e-4, atol=1e-4)
    return extractor


@pytest.mark.filterwarnings("ignore:The default weight initialization")
@pytest.mark.parametrize("name", ["resnet18", "googlenet", "densenet121"])
def test_a_probe_gives_the_logits_of_torchvisions_networks(name: str) -> None:
    torch.manual_seed(0)
    model = torchvision.models.get_model(name).eval()
    replace_head(model, 2)
    modules = dict(model.named_modules())
    extractor = probe_gives_the_logits(model, torch.randn(2, 3, 224, 224))
    assert dict(model.named_modules()) == modules, "the network itself was changed"
    assert {id(tensor) for tensor in extractor.parameters()} < {id(tensor) for tensor in model.parameters()}


class Own(nn.Module):
    """A network of one's own, whose features are maps that its 1x1 convolution classifies."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Conv2d(8, 5, 1), nn.Flatten())

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.body(images))


class OwnWithNorm(Own):
    """Its classifier begins with a norm, and in training mode it gives two outputs, as deep supervision does."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Sequential(nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 5))

    def forward(self, images: Tensor) -> Any:
        logits = self.classifier(self.body(images).flatten(1))
        return [logits, -logits] if self.training else logits


@pytest.mark.parametrize("kind", [Own, OwnWithNorm])
def test_a_network_of_ones_own_whose_head_is_several_layers(kind: type[Own]) -> None:
    model, images = kind().eval(), torch.randn(4, 3, 9, 9)
    replace_head(model, 2)
    as_if_trained(model)
    assert export_onnx(probe_gives_the_logits(model, images), images)
    set_trainable(model, "head")
    both = LogitsAndFeatures(model).train()
    assert both(images).shape == (4, 2 + 8)
    assert (split_model(both, images) is None) == (kind is Own)  # whose maps a convolution and the output take
    info = replace_head_as_set(model, 2, HeadSettings(type="mlp", hidden=[4]))
    output = model.get_submodule(info.path).output
    assert isinstance(output, nn.Conv2d) == (kind is Own)
    assert model.eval()(images).shape == (4, 2)


def test_a_network_whose_logits_are_not_linear_in_its_features_is_refused() -> None:
    refused("ReLU follows the classifier", FeatureExtractor, torchvision.models.get_model("squeezenet1_0"))


def test_a_probe_goes_behind_the_norm_that_a_head_begins_with_unless_that_loses_features() -> None:
    """As distillation leaves a network: each of two heads has a norm of its own."""
    model = timm.create_model("repvit_m0_9").eval()
    replace_head(model, 2)
    norms = [module for module in model.head.modules() if isinstance(module, nn.BatchNorm1d)]
    assert len(norms) == len(find_heads(model)) == 2
    for norm in norms:
        for tensor in (norm.weight, norm.running_var):
            nn.init.uniform_(tensor, 0.2, 2.0)
        for tensor in (norm.bias, norm.running_mean):
            nn.init.normal_(tensor)
    probe_gives_the_logits(model, torch.randn(2, 3, 64, 64))
    nn.init.zeros_(norms[-1].weight[:3])
    refused("multiplies 3 features by zero", set_linear_head, model, torch.randn(2, model.num_features), torch.zeros(2))


def test_an_auxiliary_classifier_that_adds_to_the_output_is_silent_under_a_probe() -> None:
    model = VOLO((1, 1, 1, 1), img_size=64, embed_dims=(32, 64, 64, 64), num_heads=(2, 4, 4, 4)).eval()
    replace_head(model, 2)
    assert find_heads(model) == ("head", "aux_head")
    probe_gives_the_logits(model, torch.randn(1, 3, 64, 64))


def test_a_network_made_without_a_classifier_gets_one_in_its_dtype_and_mode() -> None:
    model = timm.create_model("test_vit", num_classes=0).to(torch.bfloat16).eval()
    assert replace_head(model, 2, hidden=[4], norm="batch") == "head"
    assert {parameter.dtype for parameter in model.head.parameters()} == {torch.bfloat16}
    assert not any(module.training for module in model.modules())
    assert model(torch.zeros(1, 3, 160, 160, dtype=torch.bfloat16)).shape == (1, 2)
    replace_head(model, 2)
    assert isinstance(model.head, nn.Linear)


@pytest.mark.parametrize("name", INITIALISATIONS)
def test_the_seed_alone_decides_the_head(name: str) -> None:
    heads = []
    for drawn_before, seed in ((0, 1), (5, 1), (0, 2)):
        model = timm.create_model("test_resnet")
        torch.rand(drawn_before)
        state = torch.get_rng_state()
        replace_head(model, 2, initialisation=name, seed=seed)
        assert torch.equal(torch.get_rng_state(), state), "the global generator was touched"
        heads.append(model.fc.weight.detach().clone())
        assert not model.fc.bias.any()
    assert torch.equal(heads[0], heads[1])
    assert torch.equal(heads[0], heads[2]) == (name == "zeros") == (not heads[0].any())


SPREAD = {"normal": 0.01, "trunc_normal": 0.02, "xavier_uniform": math.sqrt(2 / (400 + 300))}
SPREAD |= {"kaiming_normal": math.sqrt(2 / 400), "orthogonal": 1 / math.sqrt(400)}


@pytest.mark.parametrize(("name", "deviation"), SPREAD.items())
def test_initialisations_have_the_spread_that_their_papers_give(name: str, deviation: float) -> None:
    weight = torch.empty(300, 400)
    heads_module.initialise_weight(weight, name)
    assert weight.std().item() == pytest.approx(deviation, rel=0.02)


def test_new_layers_get_what_their_kind_wants() -> None:
    layers = nn.Sequential(nn.Conv2d(8, 64, 3), nn.BatchNorm2d(64), nn.LayerNorm(4), nn.Linear(300, 200))
    with torch.no_grad():
        for tensor in (*layers.parameters(), layers[1].running_mean, layers[1].running_var):
            tensor.fill_(7)
    heads_module.initialise_new(layers)
    assert layers[0].weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.05)
    assert layers[3].weight.std().item() == pytest.approx(math.sqrt(2 / 300), rel=0.05)
    assert all(torch.equal(norm.weight, torch.ones_like(norm.weight)) for norm in layers[1:3])
    assert (layers[1].running_mean.sum(), layers[1].running_var.sum()) == (0, 64)
    assert not any(layer.bias.any() for layer in layers)


def test_the_head_of_params_yaml_gets_its_defaults_and_is_recorded() -> None:
    model = timm.create_model("test_resnet")
    linear = HeadInfo(path="fc", num_outputs=2, initialisation="zeros")
    assert replace_head_as_set(model, 2, HeadSettings()) == linear
    assert not model.fc.weight.any()
    mlp = {"type": "mlp", "hidden": (256,), "norm": "layer", "dropout": 0.3, "initialisation": "trunc_normal"}
    assert replace_head_as_set(model, 2, HeadSettings(type="mlp", dropout=0.3), seed=1) == linear.model_copy(update=mlp)
    assert [type(layer).__name__ for layer in model.fc] == ["Linear", "LayerNorm", "GELU", "Dropout", "Linear"]


@pytest.mark.parametrize(
    ("name", "why"), [("repvit_m0_9", "2 classifiers"), ("efficientvit_m0", "a norm of its own in its head")]
)
def test_an_mlp_is_refused_where_the_classifier_is_more_than_one_layer_on_the_features(name: str, why: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    refused(f"{type(model).__name__} has {why}", replace_head_as_set, model, 2, HeadSettings(type="mlp"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"initialisation": "xavier"}, r"head\.initialisation = 'xavier', but should be one of zeros, normal"),
        ({"activation": "gellu"}, r"head\.activation = 'gellu': timm has no such activation"),
    ],
)
def test_an_unknown_name_is_told_and_touches_nothing(change: dict[str, str], message: str) -> None:
    model = timm.create_model("test_resnet")
    before = frozen_fingerprint(model.requires_grad_(False))
    refused(message, replace_head_as_set, model, 2, HeadSettings(type="mlp", **change))
    assert frozen_fingerprint(model) == before


def test_a_probe_of_another_shape_or_for_a_hidden_layer_is_refused() -> None:
    model = timm.create_model("test_resnet")
    replace_head(model, 2)
    refused(r"of \(3, 4\) \(classes, features\)", set_linear_head, model, torch.zeros(3, 4), torch.zeros(3))
    replace_head(model, 2, hidden=[4])
    refused("hidden layers", set_linear_head, model, torch.zeros(2, model.num_features), torch.zeros(2))


class ScaledHead(Head):
    """A head type of one's own: features divided by their length."""

    def __init__(self, in_features: int, num_outputs: int, **_: object) -> None:
        super().__init__()
        self.in_features, self.output = in_features, nn.Linear(in_features, num_outputs)

    def forward(self, features: Tensor) -> Tensor:
        return self.output(nn.functional.normalize(features))


def test_a_head_type_of_ones_own_is_an_entry_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(heads_module.HEADS, "scaled", ScaledHead)
    model, images = timm.create_model("test_resnet").eval(), torch.randn(2, 3, 32, 32)
    assert (replace_head(model, 2, type="scaled"),) == ("fc",) == find_heads(model)
    before = model(images)
    heads_module.apply_temperature(model, 2.0)
    torch.testing.assert_close(model(images), before / 2)


def test_a_hidden_layers_batch_norm_learns_while_the_backbones_is_held() -> None:
    model = timm.create_model("test_resnet")
    replace_head(model, 2, hidden=[4], norm="batch")
    set_trainable(model, "head")
    before, mean = frozen_fingerprint(model), model.fc.norm0.running_mean.clone()
    model.train()(torch.randn(4, 3, 32, 32))
    assert not torch.equal(model.fc.norm0.running_mean, mean)
    assert frozen_fingerprint(model) == before
    set_trainable(model, [])
    assert not model.train().fc.norm0.training


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "deit_tiny_distilled_patch16_224", "levit_128s"])
@pytest.mark.parametrize("hidden", [(), (8,)])
@torch.no_grad()
def test_a_temperature_in_the_head_divides_the_logits(name: str, hidden: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name)
    replace_head(model, 2, hidden=hidden, initialisation="normal")
    images = torch.randn(1, *model.eval().pretrained_cfg["input_size"])
    before = model(images)
    heads_module.apply_temperature(model, 3.0)
    torch.testing.assert_close(model(images), before / 3)
