"""The head (classifier) of a network: find it, replace it, set it to a linear probe, and take the features that it is given.

    model = timm.create_model("resnet18", pretrained=True)
    replace_head(model, num_outputs=2)                # "fc"
    features = FeatureExtractor(model)(images)        # (n, width), the classifier's input
    set_linear_head(model, weight, bias)              # model(images) == features @ weight.T + bias
    apply_temperature(model, temperature)             # model(images) is what it was, divided by the temperature

Some networks have several classifiers. Distilled ones (DeiT, LeViT) have two side by side, whose mean is the output; deeply
supervised ones (Inception, GoogLeNet) have auxiliary ones halfway down. All are replaced with equal initial weights, and all
are the head when freezing; `find_heads` lists them, the main one first.

A head type of one's own is a subclass of `Head` and an entry of `HEADS` (and its name in pipeline/params.py).
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from timm.layers import LayerNorm2d, create_act_layer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from pipeline.checkpoint import HeadInfo
from pipeline.errors import PipelineError
from pipeline.params import Head as HeadSettings

# Where torchvision's classifiers are, tried for networks that do not say it themselves.
USUAL_PATHS = ("fc", "heads.head", "head", "classifier")

INITIALISATIONS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "zeros": lambda weight, generator: nn.init.zeros_(weight),
    "normal": lambda weight, generator: nn.init.normal_(weight, std=0.01, generator=generator),
    "trunc_normal": lambda weight, generator: nn.init.trunc_normal_(weight, std=0.02, generator=generator),
    "xavier_uniform": lambda weight, generator: nn.init.xavier_uniform_(weight, generator=generator),
    "xavier_normal": lambda weight, generator: nn.init.xavier_normal_(weight, generator=generator),
    "kaiming_uniform": lambda weight, generator: nn.init.kaiming_uniform_(weight, generator=generator),
    "kaiming_normal": lambda weight, generator: nn.init.kaiming_normal_(weight, generator=generator),
    "orthogonal": lambda weight, generator: nn.init.orthogonal_(weight, generator=generator),
}


class Head(nn.Sequential):
    """A classifier of several layers: `in_features` wide at its input, and its last layer, `output`, is linear."""

    in_features: int


class MlpHead(Head):
    """A classifier with hidden layers: (linear, norm, activation, dropout) for each, then the linear output layer.

    Over pooled maps that were not flattened (`convolutional`), linear layers are 1x1 convolutions.
    """

    def __init__(
        self,
        in_features: int,
        num_outputs: int,
        *,
        hidden: Sequence[int],
        activation: str = "gelu",
        norm: str = "none",
        dropout: float = 0.0,
        convolutional: bool = False,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        norms: dict[str, Any] = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
        if convolutional:
            norms = {"batch": nn.BatchNorm2d, "layer": LayerNorm2d}
        width = in_features
        for number, next_width in enumerate(hidden):
            self.add_module(f"linear{number}", _linear(width, next_width, convolutional=convolutional))
            if norm != "none":
                self.add_module(f"norm{number}", norms[norm](next_width))
            self.add_module(f"activation{number}", _activation(activation))
            self.add_module(f"dropout{number}", nn.Dropout(dropout))
            width = next_width
        self.add_module("output", _linear(width, num_outputs, convolutional=convolutional))


def _linear(in_features: int, num_outputs: int, *, convolutional: bool = False, **_: Any) -> nn.Module:
    return nn.Conv2d(in_features, num_outputs, 1) if convolutional else nn.Linear(in_features, num_outputs)


# Head type -> what makes one of (in_features, num_outputs) and the options of `replace_head`.
HEADS: dict[str, Callable[..., nn.Module]] = {"linear": _linear, "mlp": MlpHead}


def replace_head(
    model: Any,
    num_outputs: int,
    *,
    head: str | None = None,
    type: str | None = None,
    hidden: Sequence[int] = (),
    activation: str = "gelu",
    norm: str = "none",
    dropout: float = 0.0,
    initialisation: str = "trunc_normal",
    seed: int = 0,
) -> str:
    """Replace a network's classifier, or all of several, by a fresh one of `num_outputs`, and nothing else of it.

    Device, dtype, memory format, mode, pooling and layers before the classifier stay; `num_classes` is set. The new weights are
    a function of shape, initialisation and seed alone; biases are zero.

    Args:
        model: a timm or torchvision network, or any module together with `head`.
        num_outputs: one logit a class.
        head: the dotted path of the classifier, a linear layer or 1x1 convolution, where it is not to be searched for.
        type: a key of `HEADS`; None is mlp with hidden layers and linear without.
        hidden: widths of hidden layers.
        activation: of the hidden layers, by timm's name: gelu, relu, silu, tanh ...
        norm: of the hidden layers: "none", "batch" or "layer".
        dropout: of the hidden layers, in [0, 1).
        initialisation: of the output layer's weight, a key of `INITIALISATIONS`; hidden layers get `initialise_new`'s.

    Returns:
        The main classifier's dotted path.

    Raises:
        PipelineError: no classifier is found, or an argument is not allowed; the network is untouched then.

    >>> import timm
    >>> model = timm.create_model("test_resnet")
    >>> replace_head(model, 2, hidden=[16], norm="layer", dropout=0.1)
    'fc'
    >>> model.eval()(torch.zeros(1, 3, 32, 32)).shape, model.num_classes
    (torch.Size([1, 2]), 2)
    """
    _check(num_outputs, hidden, norm, dropout, initialisation)
    _activation(activation)
    build = HEADS[type or ("mlp" if hidden else "linear")]
    paths = (_existing(model, head),) if head else find_heads(model)
    if isinstance(model.get_submodule(paths[0]), nn.Identity):
        paths = _recreated(model, num_outputs)
    options = {"hidden": hidden, "activation": activation, "norm": norm, "dropout": dropout}
    for path in paths:
        old = _classifier(model.get_submodule(path), path)
        convolutional = isinstance(_output(old), nn.Conv2d)
        in_features = old.in_channels if isinstance(old, nn.Conv2d) else old.in_features
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):  # constructors draw from the global generator
            new = build(in_features, num_outputs, convolutional=convolutional, **options)
        initialise_new(new, seed=seed)
        initialise_weight(_output(new).weight, initialisation, seed=seed)
        model.set_submodule(path, _like(new, old))
    for path in ("", *paths):
        _set_num_classes(model, path, num_outputs)
    return paths[0]


def replace_head_as_set(model: Any, num_outputs: int, settings: HeadSettings, *, seed: int = 0) -> HeadInfo:
    """Replace the head by the one that section `head` of params.yaml describes; settings that are null get their defaults.

    A linear head starts at zero, because it is solved. An mlp has by default one hidden layer of 256 features, LayerNorm, GELU,
    dropout of 0.1, and its output layer starts from a truncated normal distribution.

    Returns:
        What a checkpoint holds about the head, so that `backbone.rebuild` makes the same one.

    >>> import timm
    >>> replace_head_as_set(timm.create_model("test_resnet"), 2, HeadSettings(type="mlp")).hidden
    (256,)
    """
    info = HeadInfo(path="", type=settings.type, num_outputs=num_outputs, initialisation="zeros")
    if settings.type != "linear":
        defaults = {"hidden": (256,), "norm": "layer", "activation": "gelu", "dropout": 0.1, "initialisation": "trunc_normal"}
        given = {name: value for name, value in settings.model_dump(exclude={"type"}).items() if value is not None}
        info = HeadInfo.model_validate(info.model_dump() | defaults | given)
    path = replace_head(model, seed=seed, **info.model_dump(exclude={"path"}))
    return info.model_copy(update={"path": path})


def find_heads(model: Any) -> tuple[str, ...]:
    """The dotted paths of all of a network's classifiers, such as ("fc",), ("head", "head_dist") or ("fc", "aux1.fc2").

    timm's networks name them; in others the usual places are searched. In a `Sequential` it is the last linear layer (or 1x1
    convolution).

    Raises:
        PipelineError: there is none.

    >>> import timm
    >>> find_heads(timm.create_model("test_resnet"))
    ('fc',)
    """
    modules = dict(model.named_modules())
    main = _named_by_timm(model, modules) or _classifiers_within(modules, USUAL_PATHS)[:1]
    main = main or tuple(name for name, module in modules.items() if isinstance(module, Head))
    if not main:
        raise PipelineError(
            f"No classifier found in {type(model).__name__}: looked at {', '.join(USUAL_PATHS)}. Give its dotted path as head=."
        )
    auxiliary = _classifiers_within(modules, [name for name in modules if is_auxiliary(name) and "." not in name])
    return (*main, *(path for path in auxiliary if path not in main))


def find_head(model: nn.Module) -> str:
    """The dotted path of a network's main classifier: the first of `find_heads`."""
    return find_heads(model)[0]


def is_auxiliary(path: str) -> bool:
    """Whether a dotted path is that of an auxiliary classifier, which deep supervision puts halfway down.

    >>> is_auxiliary("AuxLogits.fc"), is_auxiliary("fc")
    (True, False)
    """
    return path.lower().startswith("aux")


def is_linear(module: nn.Module) -> bool:
    """Whether a layer can be a classifier: linear, or a 1x1 convolution over pooled maps.

    >>> is_linear(nn.Conv2d(8, 2, 1)), is_linear(nn.Conv2d(8, 2, 3))
    (True, False)
    """
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and set(module.kernel_size) == {1})


def is_within(name: str, paths: Iterable[str]) -> bool:
    """Whether a dotted name is one of the paths or below one.

    >>> is_within("fc.weight", ["fc"]), is_within("fc2.weight", ["fc"])
    (True, False)
    """
    return any(f"{name}.".startswith(f"{path}.") for path in paths)


class FeatureExtractor(nn.Module):
    """A network up to the input of its classifier: (n, channels, height, width) -> (n, width).

    It shares the network's modules and weights and leaves the network as it is. timm's networks are asked for it
    (`forward_head(pre_logits=True)`); others are run without their classifier.

    Raises:
        PipelineError: what follows the classifier is not linear (SqueezeNet's ReLU), so its logits are no linear probe.
    """

    model: Any

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.by_timm = hasattr(model, "forward_features") and hasattr(model, "forward_head")
        self.model = model if self.by_timm else _without_heads(model)

    def forward(self, images: Tensor) -> Tensor:
        """The classifier's input; where several classifiers have inputs of their own, all side by side."""
        if self.by_timm:
            return self.model.forward_head(self.model.forward_features(images), pre_logits=True).flatten(1)
        return self.model(images).flatten(1)


def set_linear_head(model: nn.Module, weight: Tensor, bias: Tensor, *, head: str | None = None) -> None:
    """Give a network's linear head the weights of a linear probe that was solved on `FeatureExtractor(model)(images)`.

    Of several classifiers side by side each gets the probe, or where each has features of its own (CrossViT) its columns of it;
    auxiliary ones, which VOLO adds to the output, are set to zero. Where a head begins with BatchNorm (LeViT, EfficientViT,
    RepViT), the probe is solved for that norm, which stays as it is.

    Args:
        model: a network with a linear head in place (`replace_head`).
        weight: (classes, features).
        bias: (classes,).
        head: the dotted path of the classifier where it is not to be searched for.

    Raises:
        PipelineError: the head has hidden layers, the probe is of another shape than the head, or the head's own norm multiplies
            a feature by zero; the network is untouched then.

    >>> import timm
    >>> model = timm.create_model("test_resnet", num_classes=2)
    >>> set_linear_head(model, torch.ones(2, model.num_features), torch.tensor([0.0, 1.0]))
    >>> model.fc.bias
    Parameter containing:
    tensor([0., 1.], requires_grad=True)
    """
    paths = find_heads(model) if head is None else (head,)
    auxiliary = [path for path in paths if is_auxiliary(path)]
    main = [path for path in paths if path not in auxiliary]
    layers = [_linear_at(model, path) for path in main]
    parts = _parts_of_probe(model, layers, weight)
    if not parts or len(layers[0].weight) != len(weight) or len(bias) != len(weight):
        raise PipelineError(
            f"The probe is of {tuple(weight.shape)} (classes, features), but the head at {main[0]!r} of "
            f"{tuple(layers[0].weight.shape[:2])}. Solve it on the inputs of this classifier, for its classes."
        )
    solved = [_behind_own_norm(model, path, part, bias) for path, part in zip(main, parts, strict=True)]
    with torch.no_grad():
        for layer, (own_weight, own_bias) in zip(layers, solved, strict=True):
            layer.weight.copy_(own_weight.reshape(layer.weight.shape))
            layer.bias.copy_(own_bias)
        for path in auxiliary:
            for tensor in model.get_submodule(path).parameters():
                tensor.zero_()


def apply_temperature(model: nn.Module, temperature: float) -> None:
    """Divide the logits by a temperature, in the classifier's weights (Guo et al., On calibration, ICML 2017).

    Args:
        model: a network with a linear head or a `Head`; of several classifiers all are scaled.
        temperature: above 0; more than 1 makes the network less confident.

    >>> import timm
    >>> model, images = timm.create_model("test_resnet", num_classes=2).eval(), torch.randn(2, 3, 32, 32)
    >>> before = model(images)
    >>> apply_temperature(model, 2.0)
    >>> torch.allclose(model(images), before / 2, atol=1e-6)
    True
    """
    with torch.no_grad():
        for path in find_heads(model):
            for tensor in _output(model.get_submodule(path)).parameters():
                tensor.div_(temperature)


def initialise_weight(weight: Tensor, name: str, *, seed: int = 0) -> None:
    """Fill a weight in place; name, shape and seed alone decide the values, on any device and up to rounding in any dtype.

    Args:
        weight: (outputs, inputs) or a convolution's (outputs, inputs, height, width).
        name: a key of `INITIALISATIONS`: "normal" has the standard deviation 0.01, "trunc_normal" 0.02. Xavier is of Glorot and
            Bengio (2010), Kaiming of He et al. (2015), orthogonal of Saxe et al. (2014).

    >>> one, two = torch.empty(3, 4), torch.empty(3, 4, dtype=torch.float64)
    >>> initialise_weight(one, "orthogonal", seed=1)
    >>> _ = torch.rand(7)
    >>> initialise_weight(two, "orthogonal", seed=1)
    >>> torch.equal(one.double(), two)
    True
    """
    fresh = INITIALISATIONS[name](torch.empty(weight.shape, device="cpu"), torch.Generator().manual_seed(seed))
    with torch.no_grad():
        weight.copy_(fresh)


def initialise_new(module: nn.Module, *, seed: int = 0) -> None:
    """Initialise every layer of a new module in place, from a generator of its own.

    Convolutions and linear layers: Kaiming normal (He et al., 2015), a convolution by its fan-out; embeddings: truncated normal with the
    deviation 0.02; norm layers: scale 1, shift 0, and BatchNorm's running mean 0 and variance 1; every bias 0. Layers of other
    kinds keep what their constructor gave them.

    >>> block = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    >>> initialise_new(block, seed=1)
    >>> block[1].weight.sum().item(), block[0].bias.abs().sum().item()
    (8.0, 0.0)
    """
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, _BatchNorm | nn.LayerNorm | nn.GroupNorm):
            layer.reset_parameters()
        elif isinstance(layer, _ConvNd | nn.Linear | nn.Embedding):
            fresh = torch.empty(layer.weight.shape, device="cpu")
            if isinstance(layer, nn.Embedding):
                nn.init.trunc_normal_(fresh, std=0.02, generator=generator)
            else:
                fan: Any = "fan_out" if isinstance(layer, _ConvNd) else "fan_in"
                nn.init.kaiming_normal_(fresh, mode=fan, nonlinearity="relu", generator=generator)
            with torch.no_grad():
                layer.weight.copy_(fresh)
            if getattr(layer, "bias", None) is not None:
                nn.init.zeros_(layer.bias)


def _check(num_outputs: int, hidden: Sequence[int], norm: str, dropout: float, initialisation: str) -> None:
    if num_outputs < 1:
        raise PipelineError(f"num_outputs = {num_outputs}: a head has at least one output.")
    if any(width < 1 for width in hidden):
        raise PipelineError(f"head.hidden = {list(hidden)}: each hidden layer has at least one feature.")
    if norm not in ("none", "batch", "layer"):
        raise PipelineError(f"head.norm = {norm!r}, but should be none, batch or layer.")
    if not 0 <= dropout < 1:
        raise PipelineError(f"head.dropout = {dropout}, but should be at least 0 and below 1.")
    if initialisation not in INITIALISATIONS:
        raise PipelineError(f"head.initialisation = {initialisation!r}, but should be one of {', '.join(INITIALISATIONS)}.")


def _activation(name: str) -> nn.Module:
    try:
        layer = create_act_layer(name)
    except (KeyError, AssertionError):
        layer = None
    if layer is None:
        raise PipelineError(
            f"head.activation = {name!r}: timm has no such activation. Try gelu, relu, silu, tanh or leaky_relu."
        )
    return layer


def _existing(model: nn.Module, path: str) -> str:
    try:
        model.get_submodule(path)
    except AttributeError as error:
        raise PipelineError(f"head = {path!r}: {type(model).__name__} has no such module ({error}).") from None
    return path


def _recreated(model: Any, num_outputs: int) -> tuple[str, ...]:
    """The classifiers of a network that was made without them: timm's networks know how to make them."""
    if not hasattr(model, "reset_classifier"):
        raise PipelineError(f"{type(model).__name__} was made without a classifier. Make it with one, of any size.")
    like = next(model.parameters())
    model.reset_classifier(num_outputs)
    paths = find_heads(model)
    for path in paths:
        model.get_submodule(path).to(like.device, like.dtype)
    return paths


def _classifier(module: nn.Module, path: str) -> Any:
    if not (isinstance(module, Head) or is_linear(module)):
        raise PipelineError(
            f"The module at {path!r} is a {type(module).__name__}; only linear layers and 1x1 convolutions can be replaced as "
            "a head. Give the dotted path of such a layer."
        )
    return module


def _output(head: nn.Module) -> Any:
    return head.get_submodule("output") if isinstance(head, Head) else head


def _like(new: nn.Module, old: nn.Module) -> nn.Module:
    """The new module on the old one's device, in its dtype, memory format and mode."""
    like = next(old.parameters())
    new = new.to(like.device, like.dtype).train(old.training)
    # Of a 1x1 convolution both formats are dense in the same order; only the stride of the last axis differs.
    if like.dim() == 4 and like.stride(-1) != 1:
        new = new.to(memory_format=torch.channels_last)
    return new


def _set_num_classes(model: nn.Module, path: str, num_outputs: int) -> None:
    """On the network, and on every module on the way to its head that has such an attribute."""
    names = path.split(".") if path else []
    for depth in range(len(names) + 1):
        module: Any = model.get_submodule(".".join(names[:depth]))
        if depth == 0 or hasattr(module, "num_classes"):
            module.num_classes = num_outputs


def _named_by_timm(model: Any, modules: dict[str, nn.Module]) -> tuple[str, ...]:
    """timm's configuration names the layers; `get_classifier()` gives modules that may hold more than the layer, and includes
    a distilled network's second one where the configuration forgets it.
    """
    named = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    paths = [named] if isinstance(named, str) else list(named)
    if hasattr(model, "get_classifier"):
        given = model.get_classifier()
        given = given if isinstance(given, tuple | list) else (given,)
        names = [name for name, module in modules.items() if any(module is one for one in given)]
        paths += [name for name in names if not any(is_within(path, [name]) for path in paths)]
    return _classifiers_within(modules, paths)


def _classifiers_within(modules: dict[str, nn.Module], paths: Iterable[str]) -> tuple[str, ...]:
    """The last layer at or below each path that can be a classifier; the place of one that was removed counts too."""
    found: list[str] = []
    for path in paths:
        below = [name for name in modules if is_within(name, [path])]
        whole = [name for name in below if isinstance(modules[name], Head)]
        layers = whole or [name for name in below if is_linear(modules[name])]
        if not layers and isinstance(modules.get(path), nn.Identity):
            layers = [path]
        found += layers[-1:]
    return tuple(dict.fromkeys(found))


def _without_heads(model: nn.Module) -> nn.Module:
    """The network with nn.Identity in the classifiers' places: the modules on the way to them are copied, no weight is."""
    bare = copy.copy(model)
    bare._modules = dict(model._modules)
    for path in find_heads(model):
        *names, last = path.split(".")
        parent = bare
        for name in names:
            child = copy.copy(parent._modules[name])
            assert child is not None
            child._modules = dict(child._modules)
            parent._modules[name] = child
            parent = child
        _refuse_nonlinear_end(parent, path)
        parent._modules[last] = nn.Identity()
    return bare


def _refuse_nonlinear_end(parent: nn.Module, path: str) -> None:
    if not isinstance(parent, nn.Sequential) or is_auxiliary(path):
        return
    after = list(parent)[list(parent._modules).index(path.rpartition(".")[2]) + 1 :]
    linear = (nn.Identity, nn.Dropout, nn.Flatten, nn.AdaptiveAvgPool2d, nn.AvgPool2d)
    others = [type(module).__name__ for module in after if not isinstance(module, linear)]
    if others:
        raise PipelineError(
            f"In this network {', '.join(others)} follows the classifier at {path!r}, so no linear probe can be its logits. "
            "Choose another backbone."
        )


def _linear_at(model: nn.Module, path: str) -> Any:
    layer = model.get_submodule(path)
    if isinstance(layer, Head):
        raise PipelineError(f"The head at {path!r} has hidden layers; a linear probe cannot be its solution.")
    if not is_linear(layer) or layer.bias is None:
        raise PipelineError(f"The classifier at {path!r} ({type(layer).__name__}) has no weight and bias of its own.")
    return layer


def _parts_of_probe(model: Any, layers: Sequence[Any], weight: Tensor) -> list[Tensor]:
    """What each of several classifiers gets of a probe's weight; none where its width fits neither way."""
    widths = [layer.weight.shape[1] for layer in layers]
    if set(widths) == {weight.shape[1]}:
        return [weight] * len(layers)
    if sum(widths) != weight.shape[1]:
        return []
    learnt = getattr(model, "weights", None)  # EfficientViM learns how to weigh its classifiers; elsewhere it is their mean
    is_learnt = isinstance(learnt, nn.Parameter) and learnt.shape == (len(layers),)
    fractions = learnt.detach().softmax(0).tolist() if is_learnt else [1 / len(layers)] * len(layers)
    return [part / fraction for part, fraction in zip(weight.split(widths, dim=1), fractions, strict=True)]


def _behind_own_norm(model: nn.Module, path: str, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The weight and bias with which a classifier behind a BatchNorm in eval mode computes weight @ features + bias.

    The norm gives a * x + c, so the weight is divided by a, and what c then adds is subtracted from the bias.
    """
    siblings = list(model.get_submodule(path.rpartition(".")[0]).children())
    # LeViT's head and its like are a module of norm, dropout and linear layer, all of which pre_logits=True leaves out.
    layers = [module for module in siblings if not isinstance(module, nn.Dropout)]
    if len(layers) != 2 or not isinstance(norm := layers[0], _BatchNorm) or not is_linear(layers[1]):
        return weight, bias
    assert norm.running_var is not None
    assert norm.running_mean is not None
    deviation = (norm.running_var.double() + norm.eps).sqrt()
    a = (norm.weight.detach().double() if norm.affine else 1) / deviation
    c = (norm.bias.detach().double() if norm.affine else 0) - norm.running_mean.double() * a
    if not (a != 0).all():
        raise PipelineError(
            f"The norm in the head before {path!r} multiplies {int((a == 0).sum())} features by zero, so no probe on all of "
            "them can be put behind it. Choose another backbone or other weights."
        )
    solved = weight.to(a) / a
    return solved, bias.to(a) - solved @ c
