"""Replace and initialise the head (the classifier) of a network, and nothing else of it.

    model = timm.create_model("resnet18", pretrained=True)
    replace_head(model, num_outputs=2, initialisation="trunc_normal", seed=0)

In plain torch: `model.fc = nn.Linear(model.fc.in_features, 2)`. What this adds: it finds the classifier of any timm or
torchvision network by itself, keeps device, dtype, memory format and pooling, sets the network's own `num_classes`, and draws
the new weights from a generator of its own, so that the same seed gives the same head whatever was drawn before.

Networks with several classifiers. Distilled ones (DeiT, LeViT, EfficientFormer ...) carry two side by side, and outside
distillation their output is the mean of both; deeply supervised ones (Inception, GoogLeNet) carry auxiliary classifiers
halfway down, whose outputs come beside the main one in training mode. The rule is the same for all: every classifier is
replaced, all get the same initial weights where their shapes agree, and all count as head when freezing. `find_heads`
lists them, the main one first.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from timm.layers import LayerNorm2d, create_act_layer
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from pipeline.errors import PipelineError
from pipeline.models.initialisation import INITIALISATIONS, TRUNC_NORMAL_STD, initialise_new, initialise_weight

# Where classifiers live: torchvision's conventions, tried for networks that do not say it themselves.
USUAL_PATHS = ("fc", "heads.head", "head", "classifier")
# Children that hold an auxiliary classifier: GoogLeNet's aux1 and aux2, Inception's AuxLogits.
AUXILIARY_PREFIX = "aux"

Norm = Literal["none", "batch", "layer"]


class MlpHead(nn.Sequential):
    """A classifier with hidden layers: (linear, norm, activation, dropout) for each, then the linear output layer.

    Over pooled maps that were not flattened, linear layers are 1x1 convolutions. `output` is the last layer.
    """

    def __init__(
        self,
        in_features: int,
        num_outputs: int,
        *,
        hidden: Sequence[int],
        activation: str = "gelu",
        norm: Norm = "none",
        dropout: float = 0.0,
        convolutional: bool = False,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        widths = [in_features, *hidden]
        for number, (width, next_width) in enumerate(zip(widths, hidden, strict=False)):
            self.add_module(f"linear{number}", _linear(width, next_width, convolutional))
            if norm != "none":
                self.add_module(f"norm{number}", _norm(norm, next_width, convolutional))
            self.add_module(f"activation{number}", _activation(activation))
            self.add_module(f"dropout{number}", nn.Dropout(dropout))
        self.add_module("output", _linear(widths[-1], num_outputs, convolutional))


def find_heads(model: nn.Module) -> tuple[str, ...]:
    """The dotted paths of all of a network's classifiers, such as ("fc",), ("head", "head_dist") or ("fc", "aux1.fc2").

    In plain torch one prints the model and looks. timm's networks say it (`pretrained_cfg["classifier"]`); for others
    the usual places are tried. In a `Sequential` it is the last linear layer (or 1x1 convolution).

    Raises:
        PipelineError: there is none.

    >>> import timm
    >>> find_heads(timm.create_model("test_resnet"))
    ('fc',)
    """
    modules = dict(model.named_modules())
    main = _stated(model, modules) or _usual(modules) or _made_here(modules)
    if not main:
        raise PipelineError(
            f"No classifier found in {type(model).__name__}: looked at {', '.join(USUAL_PATHS)}. Give its dotted path as head=."
        )
    auxiliary = [name for name in modules if name.lower().startswith(AUXILIARY_PREFIX) and "." not in name]
    beside = [path for name in auxiliary if (path := _classifier_within(modules, name)) is not None]
    return (*main, *(path for path in beside if path not in main))


def find_head(model: nn.Module) -> str:
    """The dotted path of a network's main classifier: the first of `find_heads`."""
    return find_heads(model)[0]


def replace_head(
    model: Any,
    num_outputs: int,
    *,
    head: str | None = None,
    hidden: Sequence[int] = (),
    activation: str = "gelu",
    norm: Norm = "none",
    dropout: float = 0.0,
    initialisation: str = "trunc_normal",
    std: float = TRUNC_NORMAL_STD,
    class_priors: Sequence[float] | None = None,
    seed: int = 0,
) -> str:
    """Put a fresh classifier of `num_outputs` in the place of the old one, and initialise it.

    In plain torch::

        model.fc = nn.Linear(model.fc.in_features, num_outputs)
        nn.init.trunc_normal_(model.fc.weight, std=0.02)
        nn.init.zeros_(model.fc.bias)

    Those lines know one network; these know all of timm's and torchvision's. Nothing but the classifier is touched:
    pooling, and norm or hidden layers that the network has before it, stay as they are.

    Args:
        model: a timm or torchvision network, or any module together with `head`.
        num_outputs: one logit a class, for cross-entropy; or 1, the logit of the second of two classes, for binary
            cross-entropy (`classification_loss` and `class_probabilities` know both).
        head: the dotted path of the classifier, a linear layer or 1x1 convolution, where it is not to be searched for.
        hidden: widths of hidden layers; without any, the head is linear.
        activation: of the hidden layers, by timm's name: gelu, relu, silu, tanh ...
        norm: of the hidden layers: "none", "batch" or "layer".
        dropout: of the hidden layers, the share of features dropped in training, in [0, 1).
        initialisation: of the output layer's weight, a key of `INITIALISATIONS`; hidden layers get `initialise_new`'s.
        std: the standard deviation of "trunc_normal".
        class_priors: how frequent each class is (shares or counts): the bias starts at their log-odds, so that the
            untrained head already predicts them (Lin et al., Focal loss, 2017). None: the bias starts at zero.
        seed: of the initialisation alone.

    Returns:
        The main classifier's dotted path.

    Raises:
        PipelineError: no classifier is found, or an argument is not allowed; the network is untouched then.

    >>> import timm
    >>> model = timm.create_model("test_resnet")
    >>> replace_head(model, 2, hidden=[16], norm="layer", dropout=0.1, class_priors=[3, 1])
    'fc'
    >>> model.eval()(torch.zeros(1, 3, 32, 32)).shape, model.num_classes
    (torch.Size([1, 2]), 2)
    """
    _check(num_outputs, hidden, norm, dropout, initialisation)
    bias = _prior_bias(class_priors, num_outputs)
    _activation(activation)
    paths = (_existing(model, head),) if head else find_heads(model)
    if isinstance(model.get_submodule(paths[0]), nn.Identity):
        paths = _recreated(model, num_outputs)
    for path in paths:
        old = _classifier(model.get_submodule(path), path)
        new = _fresh(old, num_outputs, hidden, activation=activation, norm=norm, dropout=dropout)
        initialise_new(new, seed=seed)
        initialise_weight(_output(new).weight, initialisation, std=std, seed=seed)
        with torch.no_grad():
            _output(new).bias.copy_(bias)
        model.set_submodule(path, _like(new, old))
    for path in ("", *paths):
        _tell_num_classes(model, path, num_outputs)
    return paths[0]


def from_probe(model: nn.Module, weight: Tensor, bias: Tensor, *, head: str | None = None) -> None:
    """Give the linear head a solved linear probe.

    In plain torch: `model.fc.weight.data.copy_(weight); model.fc.bias.data.copy_(bias)`. What this adds: the classifier is
    found; of several side by side each gets the probe, so that their mean computes it, or where each has features of its
    own (CrossViT), its columns of a probe on all of them; auxiliary ones, which VOLO adds to the output, are set to zero; a
    head with one logit takes the difference of a two-class probe's rows, whose sigmoid is the softmax's probability.

    Args:
        model: a network with a linear head in place (`replace_head`).
        weight: (classes, features), solved on the classifier's inputs.
        bias: (classes,).
        head: the dotted path of the classifier where it is not to be searched for.

    Raises:
        PipelineError: the head has hidden layers, or the probe is of another shape than the head.

    >>> import timm
    >>> model = timm.create_model("test_resnet", num_classes=2)
    >>> from_probe(model, torch.ones(2, model.num_features), torch.tensor([0.0, 1.0]))
    >>> model.fc.bias
    Parameter containing:
    tensor([0., 1.], requires_grad=True)
    """
    paths = find_heads(model) if head is None else (head,)
    auxiliary = [path for path in paths if path.lower().startswith(AUXILIARY_PREFIX)]
    main = [path for path in paths if path not in auxiliary]
    layers = [_linear_at(model, path) for path in main]
    if len(layers[0].weight) == 1 and len(weight) == 2:
        weight, bias = weight[1:] - weight[:1], bias[1:] - bias[:1]
    widths = [layer.weight.shape[1] for layer in layers]
    if set(widths) == {weight.shape[1]}:
        parts = [weight] * len(layers)
    elif sum(widths) == weight.shape[1]:
        parts = [part / share for part, share in zip(weight.split(widths, dim=1), _shares(model, len(layers)), strict=True)]
    else:
        parts = []
    if not parts or len(layers[0].weight) != len(weight) or len(bias) != len(weight):
        raise PipelineError(
            f"The probe is of {tuple(weight.shape)} (classes, features), but the head at {main[0]!r} of "
            f"{tuple(layers[0].weight.shape[:2])}. Solve it on the inputs of this classifier, for its classes."
        )
    with torch.no_grad():
        for layer, part in zip(layers, parts, strict=True):
            layer.weight.copy_(part.reshape(layer.weight.shape))
            layer.bias.copy_(bias)
        for path in auxiliary:
            for tensor in model.get_submodule(path).parameters():
                tensor.zero_()


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean loss of either kind of head: cross-entropy of (n, classes) logits, binary cross-entropy of (n, 1).

    In plain torch: `F.cross_entropy(logits, labels)`, or `F.binary_cross_entropy_with_logits(logits[:, 0], labels.float())`.
    For two classes both are the same number where the one logit is the difference of the two.

    Args:
        logits: (n, classes), or (n, 1): the logit of class 1 against class 0.
        labels: (n,) int64.

    >>> two, labels = torch.tensor([[0.5, 2.0], [1.0, -1.0]]), torch.tensor([1, 1])
    >>> torch.allclose(classification_loss(two, labels), classification_loss(two[:, 1:] - two[:, :1], labels))
    True
    """
    if logits.shape[1] == 1:
        return binary_cross_entropy_with_logits(logits[:, 0], labels.to(logits.dtype))
    return cross_entropy(logits, labels)


def class_probabilities(logits: Tensor) -> Tensor:
    """Probabilities (n, classes) from either kind of head: (n, classes) logits, or (n, 1) for two classes.

    In plain torch: `logits.softmax(1)`, or `logits.sigmoid()`, which is of one class only.

    >>> class_probabilities(torch.tensor([[0.0]]))
    tensor([[0.5000, 0.5000]])
    """
    if logits.shape[1] == 1:
        return torch.cat([(-logits).sigmoid(), logits.sigmoid()], dim=1)
    return logits.softmax(1)


def _stated(model: Any, modules: dict[str, nn.Module]) -> tuple[str, ...]:
    """Where timm says the classifier is, or several side by side.

    Its configuration names the layers; `get_classifier()` gives modules that may hold more than the layer, and knows a
    distilled network's second one where the configuration forgets it.
    """
    stated = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    paths = [stated] if isinstance(stated, str) else list(stated)
    if hasattr(model, "get_classifier"):
        given = model.get_classifier()
        given = given if isinstance(given, tuple | list) else (given,)
        names = [name for name, module in modules.items() if any(module is one for one in given)]
        paths += [name for name in names if not any(f"{path}.".startswith(f"{name}.") for path in paths)]
    found = (_classifier_within(modules, path) for path in paths)
    return tuple(dict.fromkeys(path for path in found if path is not None))


def _usual(modules: dict[str, nn.Module]) -> tuple[str, ...]:
    found = (_classifier_within(modules, path) for path in USUAL_PATHS)
    return tuple(path for path in found if path is not None)[:1]


def _made_here(modules: dict[str, nn.Module]) -> tuple[str, ...]:
    return tuple(name for name, module in modules.items() if isinstance(module, MlpHead))


def _classifier_within(modules: dict[str, nn.Module], path: str) -> str | None:
    """The last layer at or below a path that can be a classifier; the place of one that was removed counts too."""
    if path not in modules:
        return None
    below = [name for name in modules if f"{name}.".startswith(f"{path}.")]
    whole = [name for name in below if isinstance(modules[name], MlpHead)]
    layers = [name for name in below if _is_linear(modules[name])]
    if whole or layers:
        return (whole or layers)[-1]
    return path if isinstance(modules[path], nn.Identity) else None


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and set(module.kernel_size) == {1})


def _check(num_outputs: int, hidden: Sequence[int], norm: str, dropout: float, initialisation: str) -> None:
    if num_outputs < 1:
        raise PipelineError(f"num_outputs = {num_outputs}: a head has at least one output.")
    if any(width < 1 for width in hidden):
        raise PipelineError(f"hidden = {list(hidden)}: each hidden layer has at least one feature.")
    if norm not in ("none", "batch", "layer"):
        raise PipelineError(f"norm = {norm!r}, but should be none, batch or layer.")
    if not 0 <= dropout < 1:
        raise PipelineError(f"dropout = {dropout}, but should be at least 0 and below 1.")
    if initialisation not in INITIALISATIONS:
        raise PipelineError(f"Unknown initialisation {initialisation!r}; known: {', '.join(INITIALISATIONS)}.")


def _prior_bias(class_priors: Sequence[float] | None, num_outputs: int) -> Tensor:
    """(num_outputs,): zero, or what makes the outputs of zero weights the classes' frequencies."""
    if class_priors is None:
        return torch.zeros(num_outputs, device="cpu")
    classes = max(num_outputs, 2)
    if len(class_priors) != classes or not all(0 < prior < math.inf for prior in class_priors):
        raise PipelineError(f"class_priors = {list(class_priors)}, but should be {classes} positive shares or counts.")
    priors = torch.tensor(class_priors, dtype=torch.float64, device="cpu")
    logs = (priors / priors.sum()).log()
    return (logs[1:] - logs[:1] if num_outputs == 1 else logs).float()


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


def _classifier(module: nn.Module, path: str) -> nn.Module:
    if not (isinstance(module, MlpHead) or _is_linear(module)):
        raise PipelineError(
            f"The module at {path!r} is a {type(module).__name__}; only linear layers and 1x1 convolutions can be replaced as "
            "a head. Give the dotted path of such a layer."
        )
    return module


def _fresh(
    old: nn.Module, num_outputs: int, hidden: Sequence[int], *, activation: str, norm: Norm, dropout: float
) -> nn.Module:
    layer = old.get_submodule("output") if isinstance(old, MlpHead) else old
    convolutional = isinstance(layer, nn.Conv2d)
    in_features = old.in_channels if isinstance(old, nn.Conv2d) else old.in_features
    assert isinstance(in_features, int)
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):  # constructors draw from the global generator
        if not hidden:
            return _linear(in_features, num_outputs, convolutional)
        return MlpHead(
            in_features,
            num_outputs,
            hidden=hidden,
            activation=activation,
            norm=norm,
            dropout=dropout,
            convolutional=convolutional,
        )


def _like(new: nn.Module, old: nn.Module) -> nn.Module:
    """The new module on the old one's device, in its dtype, memory format and mode."""
    like = next(old.parameters())
    new = new.to(like.device, like.dtype).train(old.training)
    # Of a 1x1 convolution both formats are dense in the same order; the stride of the last axis tells them apart.
    if like.dim() == 4 and like.stride(-1) != 1:
        new = new.to(memory_format=torch.channels_last)
    return new


def _output(head: nn.Module) -> Any:
    return head.get_submodule("output") if isinstance(head, MlpHead) else head


def _linear(in_features: int, out_features: int, convolutional: bool) -> nn.Module:
    return nn.Conv2d(in_features, out_features, 1) if convolutional else nn.Linear(in_features, out_features)


def _norm(norm: Norm, features: int, convolutional: bool) -> nn.Module:
    if norm == "batch":
        return nn.BatchNorm2d(features) if convolutional else nn.BatchNorm1d(features)
    return LayerNorm2d(features) if convolutional else nn.LayerNorm(features)


def _activation(name: str) -> nn.Module:
    try:
        layer = create_act_layer(name)
    except (KeyError, AssertionError):
        layer = None
    if layer is None:
        raise PipelineError(f"activation = {name!r}: timm knows no such activation. Try gelu, relu, silu, tanh or leaky_relu.")
    return layer


def _tell_num_classes(model: nn.Module, path: str, num_outputs: int) -> None:
    """Set `num_classes` on the network and on every module on the way to its head that keeps one."""
    names = path.split(".") if path else []
    for depth in range(len(names) + 1):
        module: Any = model.get_submodule(".".join(names[:depth]))
        if depth == 0 or hasattr(module, "num_classes"):
            module.num_classes = num_outputs


def _linear_at(model: nn.Module, path: str) -> Any:
    layer = model.get_submodule(path)
    if isinstance(layer, MlpHead):
        raise PipelineError(f"The head at {path!r} has hidden layers; a linear probe cannot be its solution.")
    if not _is_linear(layer) or layer.bias is None:
        raise PipelineError(f"The classifier at {path!r} ({type(layer).__name__}) has no weight and bias of its own.")
    return layer


def _shares(model: Any, count: int) -> list[float]:
    """What part each of several classifiers has in the output: EfficientViM learns it, elsewhere it is the mean."""
    learnt = getattr(model, "weights", None)
    if isinstance(learnt, nn.Parameter) and learnt.shape == (count,):
        return learnt.detach().softmax(0).tolist()
    return [1 / count] * count
