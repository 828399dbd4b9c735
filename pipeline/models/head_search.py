"""Find the head (the classifier, or several) of any timm or torchvision network.

    find_heads(timm.create_model("deit_tiny_distilled_patch16_224"))     # ("head", "head_dist")

In plain torch one prints the model, looks, and writes `model.fc` into the code, which then knows one network.
"""

from typing import Any

from torch import nn

from pipeline.errors import PipelineError
from pipeline.models.dotted import is_within
from pipeline.models.mlp_head import MlpHead

# Where classifiers live: torchvision's conventions, tried for networks that do not say it themselves.
USUAL_PATHS = ("fc", "heads.head", "head", "classifier")
# Children that hold an auxiliary classifier: GoogLeNet's aux1 and aux2, Inception's AuxLogits.
AUXILIARY_PREFIX = "aux"


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
    auxiliary = [name for name in modules if is_auxiliary(name) and "." not in name]
    beside = [path for name in auxiliary if (path := _classifier_within(modules, name)) is not None]
    return (*main, *(path for path in beside if path not in main))


def find_head(model: nn.Module) -> str:
    """The dotted path of a network's main classifier: the first of `find_heads`.

    In plain torch: `model.default_cfg["classifier"]` of a timm network, which is a tuple for a distilled one, and names no
    layer that takes weights where the classifier is a norm and a linear layer in one module (LeViT).

    Raises:
        PipelineError: there is none.
    """
    return find_heads(model)[0]


def is_auxiliary(path: str) -> bool:
    """Whether a classifier is one that deep supervision puts halfway down, by its dotted path.

    In plain torch: `"aux" in name`, which also meets layers that are no classifiers of this kind.

    >>> is_auxiliary("AuxLogits.fc"), is_auxiliary("fc")
    (True, False)
    """
    return path.lower().startswith(AUXILIARY_PREFIX)


def is_linear(module: nn.Module) -> bool:
    """Whether a layer can be a classifier: linear, or a 1x1 convolution over maps that were pooled to one place.

    In plain torch: `isinstance(module, nn.Linear)`, which misses the networks whose classifier is a convolution.

    >>> is_linear(nn.Conv2d(8, 2, 1)), is_linear(nn.Conv2d(8, 2, 3))
    (True, False)
    """
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and set(module.kernel_size) == {1})


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
        paths += [name for name in names if not any(is_within(path, [name]) for path in paths)]
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
    below = [name for name in modules if is_within(name, [path])]
    whole = [name for name in below if isinstance(modules[name], MlpHead)]
    layers = [name for name in below if is_linear(modules[name])]
    if whole or layers:
        return (whole or layers)[-1]
    return path if isinstance(modules[path], nn.Identity) else None
