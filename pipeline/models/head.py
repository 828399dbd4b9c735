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
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from pipeline.errors import PipelineError
from pipeline.models.head_search import find_head, find_heads, is_linear
from pipeline.models.initialisation import INITIALISATIONS, TRUNC_NORMAL_STD, initialise_new, initialise_weight
from pipeline.models.mlp_head import MlpHead, Norm, activation_layer, linear_layer
from pipeline.models.solved_head import set_linear_head

__all__ = [
    "MlpHead",
    "class_probabilities",
    "classification_loss",
    "find_head",
    "find_heads",
    "replace_head",
    "set_linear_head",
]


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
    activation_layer(activation)
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
    if not (isinstance(module, MlpHead) or is_linear(module)):
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
            return linear_layer(in_features, num_outputs, convolutional)
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


def _tell_num_classes(model: nn.Module, path: str, num_outputs: int) -> None:
    """Set `num_classes` on the network and on every module on the way to its head that keeps one."""
    names = path.split(".") if path else []
    for depth in range(len(names) + 1):
        module: Any = model.get_submodule(".".join(names[:depth]))
        if depth == 0 or hasattr(module, "num_classes"):
            module.num_classes = num_outputs
