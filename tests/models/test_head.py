"""The head is found, replaced and initialised, and nothing else of the network is touched."""

import math

import pytest
import timm
import torch
import torchvision
from timm.models.volo import VOLO
from torch import nn

from pipeline.checkpoint import HeadInfo
from pipeline.errors import PipelineError
from pipeline.models import head as heads_module
from pipeline.models.backends import export_onnx
from pipeline.models.freezing import frozen_fingerprint, set_trainable
from pipeline.models.head import (
    INITIALISATIONS,
    Head,
    MlpHead,
    apply_temperature,
    find_head,
    find_heads,
    initialise_new,
    initialise_weight,
    replace_head,
    replace_head_as_set,
    set_linear_head,
)
from pipeline.models.outputs import FeatureExtractor
from pipeline.params import Head as HeadSettings

TIMM = {
    "test_resnet": "fc",
    "test_vit": "head",
    "test_convnext": "head.fc",
    "test_efficientnet": "classifier",
    "test_nfnet": "head.fc",
}
TORCHVISION = {
    "resnet18": ("fc",),
    "mobilenet_v2": ("classifier.1",),
    "vit_b_16": ("heads.head",),
    "swin_t": ("head",),
    "alexnet": ("classifier.6",),
    "squeezenet1_0": ("classifier.1",),
    "googlenet": ("fc", "aux1.fc2", "aux2.fc2"),
    "inception_v3": ("fc", "AuxLogits.fc"),
}
# Several classifiers: distilled ones side by side, and one that timm's configuration names but half.
SEVERAL = {
    "deit_tiny_distilled_patch16_224": ("head", "head_dist"),
    "levit_128s": ("head.linear", "head_dist.linear"),
    "levit_conv_384_s8": ("head.linear", "head_dist.linear"),
    "pit_ti_distilled_224": ("head", "head_dist"),
    "crossvit_9_240": ("head.0", "head.1"),
}


def rest_of(model: nn.Module, head: str) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items() if not name.startswith(f"{head}.")}


def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name)


@pytest.mark.parametrize("hidden", [(), (8, 4)])
@pytest.mark.parametrize(("name", "path"), TIMM.items())
def test_timm_heads(name: str, path: str, hidden: tuple[int, ...]) -> None:
    model = timm.create_model(name)
    before = rest_of(model, path)
    assert replace_head(model, 3, hidden=hidden, norm="layer") == path == find_head(model)
    assert model.num_classes == 3
    assert model.eval()(torch.zeros(1, 3, 160, 160)).shape == (1, 3)
    after = rest_of(model, path)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize(("name", "paths"), TORCHVISION.items())
@pytest.mark.filterwarnings("ignore:The default weight initialization")
def test_torchvision_heads(name: str, paths: tuple[str, ...]) -> None:
    with torch.device("meta"):
        model = torchvision.models.get_model(name).eval()
        assert find_heads(model) == paths
        assert replace_head(model, 3, initialisation="zeros") == paths[0]
        assert model(torch.zeros(2, 3, 299, 299) if name == "inception_v3" else torch.zeros(2, 3, 224, 224)).shape == (2, 3)


@pytest.mark.parametrize(("name", "paths"), SEVERAL.items())
def test_all_of_several_classifiers_are_replaced_and_are_the_head(name: str, paths: tuple[str, ...]) -> None:
    model = on_meta(name)
    assert find_heads(model) == paths
    replace_head(model, 3)
    assert {model.get_submodule(path).out_features for path in paths} == {3}
    set_trainable(model, "head")
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning == {f"{path}.{part}" for path in paths for part in ("weight", "bias")}


def test_a_distilled_network_gives_the_mean_and_starts_from_equal_heads() -> None:
    model = timm.create_model("deit_tiny_distilled_patch16_224", img_size=32, depth=1).eval()
    replace_head(model, 2, seed=3)
    assert torch.equal(model.head.weight, model.head_dist.weight)
    weight, bias = torch.randn(2, model.num_features), torch.randn(2)
    set_linear_head(model, weight, bias)
    images = torch.randn(2, 3, 32, 32)
    features = model.forward_head(model.forward_features(images), pre_logits=True)
    torch.testing.assert_close(model(images), features @ weight.T + bias)


@pytest.mark.parametrize("name", ["levit_128s", "efficientvit_m0", "shvit_s1", "repvit_m0_9", "iformer_t"])
def test_a_probe_goes_behind_the_norm_that_a_head_begins_with(name: str) -> None:
    """Of the whole network just the head is run: on features of made-up photos."""
    model = timm.create_model(name).eval()
    replace_head(model, 2)
    norms = [module for path in find_heads(model) for module in model.get_submodule(path.rpartition(".")[0]).children()]
    norms = [module for module in norms if isinstance(module, nn.BatchNorm1d)]
    assert len(norms) == len(find_heads(model)) >= 1
    for norm in norms:  # each its own, as distillation leaves them
        for tensor in (norm.weight, norm.running_var):
            nn.init.uniform_(tensor, 0.2, 2.0)
        for tensor in (norm.bias, norm.running_mean):
            nn.init.normal_(tensor)
    before = frozen_fingerprint_of(norms)
    maps = torch.randn(3, norms[0].num_features, 2, 2)
    maps = maps.flatten(2).transpose(1, 2) if name.startswith("levit") else maps
    features = model.forward_head(maps, pre_logits=True).flatten(1)
    weight, bias = torch.randn(2, features.shape[1]), torch.randn(2)
    set_linear_head(model, weight, bias)
    torch.testing.assert_close(model.forward_head(maps), features @ weight.T + bias, rtol=1e-4, atol=1e-4)
    assert frozen_fingerprint_of(norms) == before
    nn.init.zeros_(norms[-1].weight[:3])
    with pytest.raises(PipelineError, match="multiplies 3 features by zero"):
        set_linear_head(model, weight, bias)


def frozen_fingerprint_of(norms: list[nn.Module]) -> str:
    return frozen_fingerprint(nn.ModuleList(norms).requires_grad_(False))


def test_an_auxiliary_classifier_that_adds_to_the_output_is_silent_under_a_probe() -> None:
    model = VOLO((1, 1, 1, 1), img_size=64, embed_dims=(32, 64, 64, 64), num_heads=(2, 4, 4, 4)).eval()
    replace_head(model, 2)
    images, weight, bias = torch.randn(1, 3, 64, 64), torch.randn(2, model.num_features), torch.randn(2)
    features = model.forward_head(model.forward_features(images), pre_logits=True)
    assert find_heads(model) == ("head", "aux_head")
    set_linear_head(model, weight, bias)
    torch.testing.assert_close(model(images), features @ weight.T + bias)


@pytest.mark.filterwarnings("ignore:The default weight initialization")
def test_deep_supervision_gives_every_output_the_new_classes() -> None:
    with torch.device("meta"):
        model = torchvision.models.get_model("googlenet").train()
        replace_head(model, 2)
        outputs = model(torch.zeros(2, 3, 224, 224))
    assert [tuple(output.shape) for output in outputs] == [(2, 2)] * 3


class Plain(nn.Module):
    """No convention of any library."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 6)
        self.deep = nn.ModuleDict({"answer": nn.Linear(6, 5, bias=False)})

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.deep["answer"](self.body(inputs))


def test_any_module_by_a_dotted_path() -> None:
    model = Plain()
    assert replace_head(model, 2, head="deep.answer", hidden=[3]) == "deep.answer"
    assert model(torch.zeros(1, 4)).shape == (1, 2)
    assert find_heads(model) == ("deep.answer",) if isinstance(model.deep["answer"], MlpHead) else False
    set_trainable(model, "head", head="deep.answer")
    assert not model.body.weight.requires_grad
    with pytest.raises(PipelineError, match="no such module"):
        replace_head(model, 2, head="deep.question")
    with pytest.raises(PipelineError, match="is a ModuleDict; only linear layers"):
        replace_head(model, 2, head="deep")


def test_a_network_made_without_a_classifier_gets_one() -> None:
    model = timm.create_model("test_vit", num_classes=0)
    before = rest_of(model, "head")
    assert replace_head(model, 2) == "head"
    assert model.eval()(torch.zeros(1, 3, 160, 160)).shape == (1, 2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in rest_of(model, "head").items())


def test_convolutional_heads_stay_convolutional() -> None:
    squeeze = torchvision.models.get_model("squeezenet1_1").to(memory_format=torch.channels_last)
    strides = squeeze.classifier[1].weight.stride()[1:]
    replace_head(squeeze, 2, hidden=[4], norm="layer")
    assert isinstance(squeeze.classifier[1].output, nn.Conv2d)
    assert squeeze.classifier[1].linear0.weight.stride()[1:] == strides
    assert squeeze.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 2)


def test_dtype_device_and_mode_are_kept() -> None:
    model = timm.create_model("test_resnet").to(torch.bfloat16).eval()
    replace_head(model, 2, hidden=[4], norm="batch")
    assert {parameter.dtype for parameter in model.fc.parameters()} == {torch.bfloat16}
    assert not any(module.training for module in model.modules())
    model = on_meta("test_resnet")
    replace_head(model, 2)
    assert model.fc.weight.is_meta


def test_pooling_is_kept() -> None:
    model = timm.create_model("test_resnet", global_pool="max")
    pooling = model.global_pool
    replace_head(model, 2)
    assert model.global_pool is pooling


@pytest.mark.parametrize("name", INITIALISATIONS)
def test_the_seed_alone_decides_the_head(name: str) -> None:
    heads = []
    for drawn_before in (0, 5):
        model = timm.create_model("test_resnet")
        torch.rand(drawn_before)
        state = torch.get_rng_state()
        replace_head(model, 2, initialisation=name, seed=1)
        assert torch.equal(torch.get_rng_state(), state), "the global generator was touched"
        heads.append(model.fc.weight.detach().clone())
        assert torch.equal(model.fc.bias, torch.zeros(2))
    assert torch.equal(*heads)
    assert (heads[0].abs().sum() > 0) == (name != "zeros")


def test_another_seed_gives_another_head() -> None:
    model = timm.create_model("test_resnet")
    replace_head(model, 2, seed=1)
    first = model.fc.weight.detach().clone()
    replace_head(model, 2, seed=2)
    assert not torch.equal(first, model.fc.weight)


@pytest.mark.parametrize(
    ("name", "deviation"),
    [
        ("normal", 0.01),
        ("trunc_normal", 0.02),
        ("xavier_uniform", math.sqrt(2 / (400 + 300))),
        ("xavier_normal", math.sqrt(2 / (400 + 300))),
        ("kaiming_uniform", math.sqrt(2 / 400)),
        ("kaiming_normal", math.sqrt(2 / 400)),
        ("orthogonal", 1 / math.sqrt(400)),
    ],
)
def test_initialisations_have_the_spread_that_their_papers_give(name: str, deviation: float) -> None:
    weight = torch.empty(300, 400)
    initialise_weight(weight, name)
    assert weight.std().item() == pytest.approx(deviation, rel=0.02)
    assert abs(weight.mean().item()) < deviation / 50


def test_new_layers_get_what_their_kind_wants() -> None:
    layers = nn.Sequential(nn.Conv2d(8, 64, 3), nn.BatchNorm2d(64), nn.GroupNorm(2, 64), nn.LayerNorm(4), nn.Linear(300, 200))
    with torch.no_grad():
        for tensor in (*layers.parameters(), layers[1].running_mean, layers[1].running_var):
            tensor.fill_(7)
    initialise_new(layers)
    assert layers[0].weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.05)
    assert layers[4].weight.std().item() == pytest.approx(math.sqrt(2 / 300), rel=0.05)
    for norm in layers[1:4]:
        assert torch.equal(norm.weight, torch.ones_like(norm.weight))
    assert layers[1].running_mean.sum() == 0
    assert layers[1].running_var.sum() == 64
    assert all(layer.bias.abs().sum() == 0 for layer in layers)


def test_a_probe_of_another_shape_or_for_a_hidden_layer_is_refused() -> None:
    model = timm.create_model("test_resnet")
    replace_head(model, 2)
    with pytest.raises(PipelineError, match=r"of \(3, 4\) \(classes, features\)"):
        set_linear_head(model, torch.zeros(3, 4), torch.zeros(3))
    replace_head(model, 2, hidden=[4])
    with pytest.raises(PipelineError, match="hidden layers"):
        set_linear_head(model, torch.zeros(2, model.num_features), torch.zeros(2))


@pytest.mark.filterwarnings("ignore:The default weight initialization")
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "googlenet", "densenet121"])
def test_a_probe_on_extracted_features_gives_the_logits_of_torchvisions_networks(name: str) -> None:
    torch.manual_seed(0)
    model = torchvision.models.get_model(name).eval()
    replace_head(model, 3)
    modules = dict(model.named_modules())
    images = torch.randn(2, 3, 224, 224)
    extractor = FeatureExtractor(model).eval()
    with torch.inference_mode():
        features = extractor(images)
        weight, bias = torch.randn(3, features.shape[1]), torch.randn(3)
        set_linear_head(model, weight, bias)
        assert features.std() > 0
        torch.testing.assert_close(model(images), features @ weight.T + bias, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(torch.fx.symbolic_trace(extractor)(images), features)
    assert dict(model.named_modules()) == modules, "the network itself was changed"
    assert {id(tensor) for tensor in extractor.parameters()} < {id(tensor) for tensor in model.parameters()}


class Own(nn.Module):
    """A network of one's own, whose features are maps that its 1x1 convolution classifies."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Conv2d(8, 5, 1), nn.Flatten())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.body(images))


def test_a_probe_on_extracted_features_gives_the_logits_of_a_network_of_ones_own() -> None:
    model, images = Own().eval(), torch.randn(4, 3, 9, 9)
    replace_head(model, 2)
    features, weight, bias = FeatureExtractor(model)(images), torch.randn(2, 8), torch.randn(2)
    set_linear_head(model, weight, bias)
    torch.testing.assert_close(model(images), features @ weight.T + bias)
    assert export_onnx(FeatureExtractor(model).eval(), images)


def test_a_network_whose_logits_are_not_linear_in_its_features_is_refused() -> None:
    with pytest.raises(PipelineError, match="ReLU follows the classifier"):
        FeatureExtractor(torchvision.models.get_model("squeezenet1_0"))


def test_the_head_of_params_yaml_gets_its_defaults_and_is_recorded() -> None:
    model = timm.create_model("test_resnet")
    linear = replace_head_as_set(model, 2, HeadSettings())
    assert linear == HeadInfo(path="fc", num_outputs=2, initialisation="zeros")
    assert not model.fc.weight.any()
    mlp = replace_head_as_set(model, 2, HeadSettings(type="mlp", dropout=0.3), seed=1)
    assert mlp == HeadInfo(
        path="fc", type="mlp", num_outputs=2, hidden=(256,), norm="layer", dropout=0.3, initialisation="trunc_normal"
    )
    assert [type(layer).__name__ for layer in model.fc] == ["Linear", "LayerNorm", "GELU", "Dropout", "Linear"]
    with pytest.raises(PipelineError, match=r"head\.activation = 'gellu'"):
        replace_head_as_set(model, 2, HeadSettings(type="mlp", activation="gellu"))


class ScaledHead(Head):
    """A head type of one's own: features divided by their length."""

    def __init__(self, in_features: int, num_outputs: int, **_: object) -> None:
        super().__init__()
        self.in_features, self.output = in_features, nn.Linear(in_features, num_outputs)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.output(nn.functional.normalize(features))


def test_a_head_type_of_ones_own_is_an_entry_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(heads_module.HEADS, "scaled", ScaledHead)
    model, images = timm.create_model("test_resnet").eval(), torch.randn(2, 3, 32, 32)
    assert replace_head(model, 2, type="scaled") == "fc" == find_head(model)
    before = model(images)
    apply_temperature(model, 2.0)
    torch.testing.assert_close(model(images), before / 2)
    set_trainable(model, "head")
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == {
        "fc.output.weight",
        "fc.output.bias",
    }
    with pytest.raises(PipelineError, match="hidden layers"):
        set_linear_head(model, torch.zeros(2, model.num_features), torch.zeros(2))


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


def test_a_head_with_hidden_layers_can_be_made_linear_again() -> None:
    model = timm.create_model("test_resnet")
    replace_head(model, 2, hidden=[4, 3])
    replace_head(model, 2)
    assert isinstance(model.fc, nn.Linear)
    assert model.fc.in_features == model.num_features


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"initialisation": "xavier"}, "should be one of zeros, normal"),
        ({"hidden": [0]}, "1 at least"),
        ({"norm": "group"}, "should be one of none, batch, layer"),
        ({"dropout": 1.0}, "below 1"),
        ({"activation": "gellu", "hidden": [4]}, "timm has no such activation"),
        ({"num_outputs": 0}, "1 at least"),
    ],
)
def test_what_is_not_allowed_is_told_and_touches_nothing(change: dict, message: str) -> None:
    model = timm.create_model("test_resnet")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(PipelineError, match=message):
        replace_head(model, **{"num_outputs": 2} | change)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.num_classes == 1000


def test_a_network_without_a_classifier_is_told() -> None:
    with pytest.raises(PipelineError, match="No classifier found in Conv2d"):
        find_head(nn.Conv2d(3, 3, 1))


@pytest.mark.parametrize(
    "name",
    ["mobilenetv2_035", "mobilenetv3_small_050", "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "levit_128s"],
)
@pytest.mark.parametrize("hidden", [(), (8,)])
def test_a_temperature_in_the_head_divides_the_logits(name: str, hidden: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    replace_head(model, 2, hidden=hidden, initialisation="normal")
    model.eval()
    images = torch.randn(2, *model.pretrained_cfg["input_size"])
    with torch.no_grad():
        before = model(images)
        apply_temperature(model, 3.0)
        torch.testing.assert_close(model(images), before / 3)
