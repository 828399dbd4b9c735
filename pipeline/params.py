"""The schema of params.yaml: every setting with its type, bounds and default.

Every stage reads the whole file first, so a mistake in any section stops the work before it begins, whichever stage runs
next. All mistakes are listed in one `PipelineError`: the key, the value and what is allowed.
"""

import difflib
import hashlib
import io
import re
from collections.abc import Collection
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML, YAMLError

from pipeline.errors import PipelineError
from pipeline.files import write_atomically

PARAMS_FILE = Path("params.yaml")

Fraction = Annotated[float, Field(gt=0, lt=1)]
FractionOrZero = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Count = Annotated[int, Field(gt=0)]

# Keys of earlier versions -> what to do about them.
FORMER_KEYS = {
    "download.mirrors": "it went: a download that is cut goes on by itself. Remove the line",
    "preprocess.label_doubts": "it went: evaluate looks for label issues by itself. Remove the line",
    "train_frozen_backbone.l2_strengths": "it went: 31 strengths over ten decades are tried. Remove the line",
    "train_frozen_backbone.engine": "it is called backend now",
    "unfreeze_finetune.warmup_share": "it is called warmup_fraction now",
    "unfreeze_finetune.ema_share": "it is called ema_fraction now",
    "unfreeze_finetune.views": "it is called augmented_copies now",
    "evaluate.confidence": "it is called confidence_level now",
    "evaluate.test_time_augmentation": "it went: `predict` never averaged over mirror images. Remove the line",
}


def _is_in_timm_source(name: str) -> bool:
    """Whether timm defines it, with its tag. Importing timm to ask takes seconds, and most stages never need it."""
    [timm] = find_spec("timm").submodule_search_locations  # type: ignore[union-attr, misc]
    plain = re.escape(name)
    defined = re.compile(rf"['\"]{plain}\*?['\"]" if "." in name else rf"^@register_model\s+def {plain}\(", re.MULTILINE)
    return any(defined.search(file.read_text(encoding="utf-8")) for file in Path(timm, "models").glob("*.py"))


def _one_of(name: str, known: Collection[str]) -> str:
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, n=5, cutoff=0.4)
    listed = f"the nearest are {', '.join(near)}" if near else f"some are {', '.join([*known][:20])}"
    raise ValueError(f"there is none of this name; {listed}")


def _known_in(module: str, names: str, default: str) -> AfterValidator:
    """A name in another module's table, or that its function lists; the module is imported for other names than the default."""

    def check(name: str) -> str:
        if name == default:
            return name
        known = getattr(import_module(module), names)
        return _one_of(name, known() if callable(known) else known)

    return AfterValidator(check)


def usable_optimizers() -> list[str]:
    """timm's optimizers, but for those of packages that are not installed, and of second order, which need another step."""
    from timm.optim import get_optimizer_info, list_optimizers

    found = {str(name): get_optimizer_info(str(name)) for name in list_optimizers()}
    packages = {name: info.opt_class.split(".")[0] for name, info in found.items() if isinstance(info.opt_class, str)}
    missing = {name for name, package in packages.items() if find_spec(package) is None}
    return [name for name, info in found.items() if not info.second_order and name not in missing]


def _backbone_of_today(name: str) -> str:
    """A backbone's name as it is, or what timm calls it now; a ValueError says that there is none."""
    if ":" in name or name.startswith("torchvision/") or _is_in_timm_source(name):
        return name
    import timm

    if current := timm.models.get_deprecated_models().get(name):
        return current
    architecture = _one_of(name.split(".")[0], timm.list_models())
    if name not in (tagged := timm.list_models(f"{architecture}.*", include_tags=True)):
        raise ValueError(f"timm has no such weights of {architecture}; it has {', '.join(tagged)}")
    return name


BackboneName = Annotated[str, AfterValidator(_backbone_of_today)]


class Section(BaseModel):
    """A section of params.yaml: immutable, its keys and types taken literally."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=False)


class Download(Section):
    """Where the photos come from."""

    source: Text = "drawn"
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    drawn_photos: Annotated[int, Field(ge=60)] = 1200
    seed: Seed = 0


class Preprocess(Section):
    """How photos are stored, and split into training, validation and test."""

    stored_size: Literal["auto"] | Annotated[int, Field(ge=32, le=2048)] = "auto"
    train: Fraction = 0.7
    val: Fraction = 0.15
    test: Fraction = 0.15
    max_train: Count | None = None
    max_val: Count | None = None
    duplicates: Literal["group", "ignore"] = "group"
    benchmark: Literal["mle-bench"] | None = None
    seed: Seed = 0

    @property
    def fractions(self) -> dict[str, float]:
        """Split name -> its fraction of the photos."""
        return {"train": self.train, "val": self.val, "test": self.test}

    @property
    def most(self) -> dict[str, int]:
        """Split name -> the most photos of it that are used, where that is bounded."""
        return {split: most for split, most in (("train", self.max_train), ("val", self.max_val)) if most}

    @model_validator(mode="after")
    def _fractions_sum_to_one(self) -> Self:
        if abs(self.train + self.val + self.test - 1) > 1e-9:
            raise ValueError(f"train + val + test = {self.train} + {self.val} + {self.test}, but must be 1")
        return self


class Backbone(Section):
    """Which network, and what it starts from."""

    name: BackboneName | Annotated[list[BackboneName], Field(min_length=2)] = "tf_efficientnet_lite0"
    weights: Text | Annotated[list[Text], Field(min_length=2)] = "package"
    crop: Literal["model", "squash", "pad"] = "model"
    input_size: Annotated[int, Field(ge=32, le=2048)] | None = None

    @model_validator(mode="after")
    def _weights_fit(self) -> Self:
        if isinstance(self.weights, list) and (isinstance(self.name, str) or len(self.weights) != len(self.name)):
            raise ValueError("weights must be one for all backbones, or as many as there are names")
        for part in self.parts:
            if part.weights == "package":
                import_module("pipeline.data.pretrained").package_file(part.name)
        return self

    @property
    def parts(self) -> list["OneBackbone"]:
        """Each backbone with its weights; mostly there is one."""
        names = [self.name] if isinstance(self.name, str) else self.name
        weights = [self.weights] * len(names) if isinstance(self.weights, str) else self.weights
        return [OneBackbone(*pair, self.crop, self.input_size) for pair in zip(names, weights, strict=True)]


class OneBackbone(NamedTuple):
    """A backbone of `backbone.name`, with the settings that hold for it."""

    name: str
    weights: str
    crop: str
    input_size: int | None


class Head(Section):
    """The classifier that replaces the backbone's own."""

    type: Literal["linear", "mlp"] = "linear"
    class_weight: Literal["none", "balanced"] = "none"
    hidden: Annotated[list[Count], Field(min_length=1)] | None = None
    norm: Literal["none", "batch", "layer"] | None = None
    activation: str | None = None
    dropout: FractionOrZero | None = None
    initialisation: str | None = None

    @model_validator(mode="after")
    def _has_a_meaning(self) -> Self:
        given = [name for name, value in self if name not in ("type", "class_weight") and value is not None]
        if self.type == "linear" and given:
            raise ValueError(f"a linear head is solved and has no {', '.join(given)}: set those to null, or type to mlp")
        return self


class TrainFrozenBackbone(Section):
    """The linear probe: a converged head on the untouched backbone."""

    backend: Literal["auto", "openvino", "torch"] = "auto"


class UnfreezeFinetune(Section):
    """Fine-tuning from the linear probe."""

    budget: Literal["auto"] | Positive = "auto"
    epochs: Literal["auto"] | Annotated[int, Field(ge=0)] = "auto"
    patience: Count = 3
    batch_size: Literal["auto"] | Count = "auto"
    optimizer: Annotated[str, _known_in(__name__, "usable_optimizers", "adamw")] = "adamw"
    learning_rate: Literal["auto"] | Annotated[float, Field(gt=0, le=1)] = "auto"
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.8
    weight_decay: FractionOrZero = 0.02
    warmup_fraction: FractionOrZero = 0.125
    gradient_clipping: Positive | None = None
    gradient_accumulation: Count = 1
    ema_fraction: FractionOrZero = 0.05
    unfrozen_blocks: Literal["auto", "all"] | Count = "auto"
    loss: Annotated[str, _known_in("pipeline.training.losses", "LOSSES", "cross_entropy")] = "cross_entropy"
    augmentation: Annotated[str, _known_in("pipeline.data.transforms", "AUGMENTATIONS", "light")] = "light"
    augmented_copies: Literal["auto"] | Count = "auto"
    seed: Seed = 0


class Evaluate(Section):
    """What the report says."""

    confidence_level: Fraction = 0.95
    mistakes_shown: Annotated[int, Field(ge=0, le=100)] = 24


class Runtime(Section):
    """Where and how the work runs; never part of a result's key."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|(cuda|mps|xpu)(:\d+)?)$")] = "auto"
    processes: Annotated[int, Field(gt=0, le=512)] = 1
    workers: Literal["auto"] | Annotated[int, Field(ge=0, le=512)] = "auto"
    threads: Literal["auto"] | Annotated[int, Field(gt=0, le=512)] = "auto"
    seconds_between_saves: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 30.0
    trackers: list[Literal["tensorboard", "wandb", "mlflow"]] = []


class Params(Section):
    """The whole of params.yaml."""

    download: Download = Download()
    preprocess: Preprocess = Preprocess()
    backbone: Backbone = Backbone()
    head: Head = Head()
    train_frozen_backbone: TrainFrozenBackbone = TrainFrozenBackbone()
    unfreeze_finetune: UnfreezeFinetune = UnfreezeFinetune()
    evaluate: Evaluate = Evaluate()
    runtime: Runtime = Runtime()

    @model_validator(mode="after")
    def _several_backbones_stay_frozen(self) -> Self:
        if len(self.backbone.parts) > 1 and self.unfreeze_finetune.epochs not in ("auto", 0):
            raise ValueError("several backbones are not fine-tuned: set unfreeze_finetune.epochs to auto or 0")
        if len(self.backbone.parts) > 1 and self.head.type != "linear":
            raise ValueError("several backbones take a linear head: set head.type to linear")
        return self


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Read and check params.yaml.

    A PipelineError says that the file is missing, is no YAML, or holds a key or value that is not allowed; every such key is
    named in the one message.
    """
    try:
        # DVC reads params.yaml with ruamel.yaml too: YAML 1.2, where 1e-3 is a number.
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PipelineError(f"There is no {path} in {Path.cwd()}. Run this from the project's top folder.") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise PipelineError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise PipelineError(f"{path} must hold sections such as 'download:', but holds {type(content).__name__}.")
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        raise PipelineError("\n  ".join([f"{path} cannot be used:", *_explain_all(error.errors())])) from None


def settings_sha256(params: Params) -> str:
    """SHA-256 of the settings that params.yaml lists, those of the runtime left out, which decide no result.

    A setting that is new to this project is listed in no earlier params.yaml, and changes no earlier hash.
    """
    return hashlib.sha256(params.model_dump_json(exclude={"runtime"}, exclude_unset=True).encode()).hexdigest()


def change_params(path: Path, changes: dict[str, Any]) -> None:
    """Change settings in a params.yaml and leave the rest, its comments too, as it is.

    `changes` are "section.key" -> value, as `dvc exp run -S section.key=value` has them.
    """
    yaml = YAML()
    yaml.representer.add_representer(type(None), lambda own, _: own.represent_scalar("tag:yaml.org,2002:null", "null"))
    content = yaml.load(path.read_text(encoding="utf-8"))
    for key, value in changes.items():
        section, name = key.split(".")
        content.setdefault(section, {})[name] = value
    text = io.StringIO()
    yaml.dump(content, text)
    write_atomically(path, text.getvalue().encode())


def _explain_all(errors: list[Any]) -> list[str]:
    """One line a key: a union such as `auto | int` complains once for each type that it tried."""
    complaints: dict[str, list[Any]] = {}
    for detail in errors:
        section_and_name, rest = detail["loc"][:2], detail["loc"][2:]  # then the type that was tried, or the place in a list
        key = ".".join(map(str, [*section_and_name, *(part for part in rest if isinstance(part, int))]))
        complaints.setdefault(key, []).append(detail)
    # What is wrong inside of a list says more than that the list is no text.
    told = [key for key in complaints if not any(other.startswith(f"{key}.") for other in complaints)]
    return [_explain(key, complaints[key]) for key in told]


def _explain(key: str, details: list[Any]) -> str:
    """Key, value and what is allowed."""
    kind, value, location = details[0]["type"], details[0]["input"], details[0]["loc"]
    if kind == "extra_forbidden" and key in FORMER_KEYS:
        return f"{key}: there is no such setting any more; {FORMER_KEYS[key]}."
    if kind == "extra_forbidden":
        section: Any = Params.model_fields[location[0]].annotation if len(location) == 2 else Params
        known = list(section.model_fields)
        near = difflib.get_close_matches(location[-1], known, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        return f"{key}: there is no such setting.{hint} Known here: {', '.join(known)}."
    if kind == "value_error":
        shown = key if isinstance(value, dict) else f"{key} = {value!r}"
        return f"{shown}: {details[0]['ctx']['error']}.".removeprefix(": ")  # of several sections there is no key
    wanted = " or ".join(detail["msg"].removeprefix("Input should be ").removeprefix("String should ") for detail in details)
    return f"{key} = {value!r}, but should be {wanted}."
