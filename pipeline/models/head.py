"""The head (classifier) of a network: find it, replace it, initialise it, set it to a linear probe.

    model = timm.create_model("resnet18", pretrained=True)
    replace_head(model, num_outputs=2)                # "fc"
    features = FeatureExtractor(model)(images)        # (n, width), the classifier's input
    set_linear_head(model, weight, bias)              # model(images) == features @ weight.T + bias
    apply_temperature(model, temperature)             # divides the logits by the temperature

Some networks have several classifiers: distilled ones (DeiT, LeViT) two side by side, whose mean is the output; Inception and
GoogLeNet auxiliary ones halfway down. All are replaced, with equal initial weights, and all are the head when freezing.

A head type of one's own is a subclass of `Head` and an entry of `HEADS` (and its name in pipeline/params.py).
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from timm.layers import LayerNorm2d, create_act_layer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from pipeline.checkpoint import HeadInfo
from pipeline.errors import PipelineError
from pipeline.params import Head as HeadSettings

USUAL_PATHS = ("fc", "heads.head", "head", "classifier")  # of the classifier, in networks that do not say it themselves
INITIALISATIONS: dict[str, Callable[..., Tensor]] = {
    "zeros": lambda weight, generator: nn.init.zeros_(weight),
    "normal": partial(nn.init.normal_, std=0.01),
    "trunc_normal": partial(nn.init.trunc_normal_, std=0.02),
    "xavier_uniform": nn.init.xavier_uniform_,  # Glorot and Bengio, 2010
    "xavier_normal": nn.init.xavier_normal_,
    "kaiming_uniform": nn.init.kaiming_uniform_,  # He et al., 2015
    "kaiming_normal": nn.init.kaiming_normal_,
    "orthogonal": nn.init.orthogonal_,  # Saxe et al., 2014
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


def _activation(name: str) -> nn.Module:
    try:
        if layer := create_act_layer(name):
            return layer
    except (KeyError, AssertionError):
        pass
    raise PipelineError(f"head.activation = {name!r}: timm has no such activation. Try gelu, relu, silu, tanh or leaky_relu.")


# Head type -> what makes one of (in_features, num_outputs) and the options of `replace_head`.
HEADS: dict[str, Callable[..., nn.Module]] = {"linear": _linear, "mlp": MlpHead}


def replace_head(
    model: Any,
    num_outputs: int,
    *,
    type: str | None = None,
    hidden: Sequence[int] = (),
    activation: str = "gelu",
    norm: str = "none",
    dropout: float = 0.0,
    initialisation: str = "trunc_normal",
    seed: int = 0,
) -> str:
    """Replace a network's classifier, or all of several, by a fresh one of `num_outputs`, and nothing else of it.

    Device, dtype, mode, pooling and layers before the classifier stay; `num_classes` is set. The new weights are a function of
    shape, initialisation and seed alone; biases are zero. Returns the main classifier's dotted path.

    Args:
        type: a key of `HEADS`; None is mlp with hidden layers and linear without.
        hidden: widths of hidden layers; activation (timm's name), norm (none, batch or layer) and dropout are of these.
        initialisation: of the output layer's weight, a key of `INITIALISATIONS`; hidden layers get `initialise_new`'s.

    A PipelineError says that no classifier is found, or there is no such activation or initialisation.
    """
    if initialisation not in INITIALISATIONS:
        raise PipelineError(f"head.initialisation = {initialisation!r}, but should be one of {', '.join(INITIALISATIONS)}.")
    options = {"hidden": hidden, "activation": activation, "norm": norm, "dropout": dropout}
    build = partial(HEADS[type or ("mlp" if hidden else "linear")], **options)
    paths = find_heads(model)
    if isinstance(model.get_submodule(paths[0]), nn.Identity):  # made without a classifier: timm knows how to make one
        if not hasattr(model, "reset_classifier"):
            raise PipelineError(
                f"{model.__class__.__name__} has nn.Identity for a classifier, at {paths[0]!r}, which does not say how wide "
                "its input is. Put nn.Linear(width, 1) there; it is replaced."
            )
        like = next(model.parameters())
        model.reset_classifier(num_outputs)
        model.to(like.device, like.dtype)
        paths = find_heads(model)
    heads = {}
    for path in paths:
        old = model.get_submodule(path)
        in_features = old.in_channels if isinstance(old, nn.Conv2d) else old.in_features
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):  # constructors draw from the global generator
            new = build(in_features, num_outputs, convolutional=isinstance(_output(old), nn.Conv2d))
        initialise_new(new, seed=seed)
        initialise_weight(_output(new).weight, initialisation, seed=seed)
        like = next(old.parameters())
        heads[path] = new.to(like.device, like.dtype).train(model.training)
    for path, new in heads.items():
        model.set_submodule(path, new)
    model.num_classes = num_outputs
    for name, module in model.named_modules():  # on the way to the heads
        if hasattr(module, "num_classes") and any(is_within(path, [name]) for path in paths):
            module.num_classes = num_outputs
    return paths[0]


def replace_head_as_set(model: Any, num_outputs: int, settings: HeadSettings, *, seed: int = 0) -> HeadInfo:
    """Replace the head by the one that section `head` of params.yaml describes; settings that are null get their defaults.

    A linear head starts at zero, because it is solved. Returns what a checkpoint holds, from which `backbone.rebuild` makes it.
    A PipelineError is that of `replace_head`, or says that an MLP is asked for where the classifier is more than one layer on
    the features.
    """
    info = HeadInfo(path="", type=settings.type, num_outputs=num_outputs, initialisation="zeros")
    if settings.type != "linear":
        paths = find_heads(model)
        if len(paths) > 1 or _own_norm(model, paths[0]):
            why = f"{len(paths)} classifiers" if len(paths) > 1 else "a norm of its own in its head"
            raise PipelineError(f"head.type = {settings.type}: {type(model).__name__} has {why}. Set head.type to linear.")
        defaults = {"hidden": (256,), "norm": "layer", "activation": "gelu", "dropout": 0.1, "initialisation": "trunc_normal"}
        given = settings.model_dump(include=set(HeadInfo.model_fields) - {"type"}, exclude_none=True)
        info = HeadInfo.model_validate(info.model_dump() | defaults | given)
    path = replace_head(model, seed=seed, **info.model_dump(exclude={"path"}))
    return info.model_copy(update={"path": path})


def find_heads(model: Any) -> tuple[str, ...]:
    """The dotted paths of all of a network's classifiers, such as ("fc",), ("head", "head_dist") or ("fc", "aux1.fc2").

    timm's networks name them; in others the usual places are searched. Where a `Sequential` stands there, it is the last linear
    layer (or 1x1 convolution) of that. Raises PipelineError where there is none.

    >>> import timm
    >>> find_heads(timm.create_model("test_resnet"))
    ('fc',)
    """
    modules = dict(model.named_modules())
    main = _named_by_timm(model, modules) or _classifiers_within(modules, USUAL_PATHS)[:1]
    if not main:
        raise PipelineError(f"No classifier found in {type(model).__name__}: looked at {', '.join(USUAL_PATHS)}.")
    auxiliary = _classifiers_within(modules, [name for name in modules if is_auxiliary(name) and "." not in name])
    return tuple(dict.fromkeys((*main, *auxiliary)))


def gives_pre_logits(model: Any) -> bool:
    """Whether a network itself gives its classifier's input, as timm's do; MetaFormer gives that of the MLP before it."""
    if not (hasattr(model, "forward_features") and hasattr(model, "forward_head")):
        return False
    width = getattr(model.get_submodule(find_heads(model)[0]), "in_features", 0)
    return width <= getattr(model, "head_hidden_size", width)


def is_auxiliary(path: str) -> bool:
    """Whether a dotted path is that of an auxiliary classifier, which deep supervision puts halfway down."""
    return path.lower().startswith("aux")


def is_within(name: str, paths: Iterable[str]) -> bool:
    """Whether a dotted name is one of the paths or below one."""
    return any(f"{name}.".startswith(f"{path}.") for path in paths)


def set_linear_head(model: nn.Module, weight: Tensor, bias: Tensor) -> None:
    """Give a network's linear head the weights of a linear probe that was solved on `FeatureExtractor(model)(images)`.

    Of several classifiers side by side each gets the probe, or where each has features of its own (CrossViT) its columns of it;
    auxiliary ones, which VOLO adds to the output, are set to zero. Where a head begins with BatchNorm (LeViT, EfficientViT,
    RepViT), the probe is solved for that norm, which stays as it is. Weight and bias are (classes, features) and (classes,). A
    PipelineError says that the head has hidden layers, the probe is of another shape, or the head's own norm multiplies a
    feature by zero; the network is untouched then.
    """
    paths = find_heads(model)
    main = [path for path in paths if not is_auxiliary(path)]
    layers: list[Any] = [model.get_submodule(path) for path in main]
    if not all(map(_is_linear, layers)):
        raise PipelineError(f"The head at {main[0]!r} has hidden layers; a linear probe cannot be its solution.")
    parts = _parts_of_probe(model, layers, weight)
    if not parts or len(layers[0].weight) != len(weight):
        raise PipelineError(
            f"The probe is of {tuple(weight.shape)} (classes, features), but the head at {main[0]!r} of "
            f"{tuple(layers[0].weight.shape[:2])}."
        )
    solved = [_behind_own_norm(model, path, part, bias) for path, part in zip(main, parts, strict=True)]
    with torch.no_grad():
        for layer, (own_weight, own_bias) in zip(layers, solved, strict=True):
            layer.weight.copy_(own_weight.reshape(layer.weight.shape))
            layer.bias.copy_(own_bias)
        for path in set(paths) - set(main):
            for tensor in model.get_submodule(path).parameters():
                tensor.zero_()


def apply_temperature(model: nn.Module, temperature: float) -> None:
    """Divide the logits by a temperature, in the weights of all classifiers (Guo et al., On calibration, ICML 2017)."""
    with torch.no_grad():
        for path in find_heads(model):
            for tensor in _output(model.get_submodule(path)).parameters():
                tensor.div_(temperature)


def initialise_weight(weight: Tensor, name: str, *, seed: int = 0) -> None:
    """Fill a weight in place by a key of `INITIALISATIONS`; name, shape and seed alone decide the values, on any device."""
    _fill(weight, INITIALISATIONS[name], torch.Generator().manual_seed(seed))


def initialise_new(module: nn.Module, *, seed: int = 0) -> None:
    """Initialise every layer of a new module in place, from a generator of its own.

    Convolutions and linear layers: Kaiming normal (He et al., 2015), a convolution by its fan-out; norm layers: scale 1, shift
    0, and BatchNorm's running mean 0 and variance 1; every bias 0. Others keep what their constructor gave them.
    """
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, _BatchNorm | nn.LayerNorm | nn.GroupNorm):
            layer.reset_parameters()
        elif isinstance(layer, _ConvNd | nn.Linear):
            mode: Any = "fan_out" if isinstance(layer, _ConvNd) else "fan_in"
            _fill(layer.weight, partial(nn.init.kaiming_normal_, mode=mode, nonlinearity="relu"), generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


@torch.no_grad()
def _fill(weight: Tensor, initialise: Callable[..., Tensor], generator: torch.Generator) -> None:
    weight.copy_(initialise(torch.empty(weight.shape, device="cpu"), generator=generator))


def _is_linear(module: nn.Module | None) -> bool:
    """A linear layer, or a 1x1 convolution over pooled maps."""
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and set(module.kernel_size) == {1})


def _output(head: nn.Module) -> Any:
    return head.get_submodule("output") if isinstance(head, Head) else head


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
        layers = whole or [name for name in below if _is_linear(modules[name])]
        if not layers and isinstance(modules.get(path), nn.Identity):
            layers = [path]
        found += layers[-1:]
    return tuple(dict.fromkeys(found))


def _parts_of_probe(model: Any, layers: Sequence[Any], weight: Tensor) -> list[Tensor]:
    """What each of several classifiers gets of a probe's weight; none where its width fits neither way."""
    widths = [layer.weight.shape[1] for layer in layers]
    if set(widths) == {weight.shape[1]}:
        return [weight] * len(layers)
    sets = 2 if hasattr(model, "weights_dist") else 1  # of a distilled EfficientViM, whose mean is the output
    count = len(layers) // sets
    if sum(widths[:count]) != weight.shape[1]:
        return []
    # EfficientViM learns how to weigh its classifiers; elsewhere it is their mean.
    fractions: list[float] = []
    for name in ("weights", "weights_dist")[:sets]:
        learnt: Any = getattr(model, name, None)
        is_learnt = isinstance(learnt, nn.Parameter) and learnt.shape == (count,)
        fractions += learnt.detach().softmax(0).tolist() if is_learnt else [1 / count] * count
    parts = weight.split(widths[:count], dim=1) * sets
    return [part / fraction for part, fraction in zip(parts, fractions, strict=True)]


def _own_norm(model: nn.Module, path: str) -> _BatchNorm | None:
    """The BatchNorm that a classifier begins with.

    LeViT's head and its like are a module of norm, dropout and linear layer, all of which pre_logits=True leaves out.
    Elsewhere such a norm comes before the features.
    """
    if not gives_pre_logits(model):
        return None
    siblings = model.get_submodule(path.rpartition(".")[0]).children()
    layers = [module for module in siblings if not isinstance(module, nn.Dropout)]
    if len(layers) != 2 or not isinstance(norm := layers[0], _BatchNorm) or not _is_linear(layers[1]):
        return None
    return norm


def _behind_own_norm(model: nn.Module, path: str, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The weight and bias with which a classifier behind a BatchNorm in eval mode computes weight @ features + bias.

    The norm gives a * x + c, so the weight is divided by a, and what c then adds is subtracted from the bias.
    """
    norm = _own_norm(model, path)
    if norm is None:
        return weight, bias
    mean, variance = norm.running_mean.double(), norm.running_var.double()  # type: ignore[union-attr]
    a = norm.weight.detach().double() / (variance + norm.eps).sqrt()
    c = norm.bias.detach().double() - mean * a
    if not (a != 0).all():
        raise PipelineError(
            f"The norm in the head before {path!r} multiplies {int((a == 0).sum())} features by zero, so no probe on all of "
            "them can be put behind it. Choose another backbone or other weights."
        )
    solved = weight.to(a) / a
    return solved, bias.to(a) - solved @ c
