"""The schema of params.yaml: every setting with its type, bounds and default.

    params = load_params()                 # reads params.yaml of the current folder
    params.unfreeze_finetune.epochs

Every stage reads the whole file first, so a mistake in any section stops the work before it begins, whichever stage runs
next. All mistakes are listed in one `PipelineError`: the key, the value and what is allowed.
"""

import difflib
import importlib.util
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from ruamel.yaml import YAML, YAMLError

from pipeline.errors import PipelineError

PARAMS_FILE = Path("params.yaml")

Fraction = Annotated[float, Field(gt=0, lt=1)]
FractionOrZero = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Count = Annotated[int, Field(gt=0)]

# Keys of earlier versions -> what to do about them.
FORMER_KEYS = {
    "download.mirrors": "it went: a download that is cut goes on by itself. Remove the line",
    "preprocess.label_doubts": "it went: evaluate looks for label issues by itself. Remove the line",
    "train_frozen_backbone.engine": "it is called backend now",
    "unfreeze_finetune.warmup_share": "it is called warmup_fraction now",
    "unfreeze_finetune.ema_share": "it is called ema_fraction now",
    "unfreeze_finetune.views": "it is called augmented_copies now",
    "evaluate.confidence": "it is called confidence_level now",
}


class Section(BaseModel):
    """A section of params.yaml: immutable, its keys and types taken literally."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=False)


class Download(Section):
    """Where the photos come from."""

    source: Annotated[str, Field(min_length=1)] = "drawn"
    sha256: str | None = None
    drawn_photos: Annotated[int, Field(ge=60)] = 1200
    seed: Seed = 0

    @field_validator("sha256")
    @classmethod
    def _is_a_sha256(cls, sha256: str | None) -> str | None:
        if sha256 is not None and not re.fullmatch("[0-9a-f]{64}", sha256):
            raise ValueError("should be null or 64 hexadecimal digits in lower case")
        return sha256


class Preprocess(Section):
    """How photos are stored, and split into training, validation and test."""

    stored_size: Literal["auto"] | Annotated[int, Field(ge=32, le=2048)] = "auto"
    train: Fraction = 0.7
    val: Fraction = 0.15
    test: Fraction = 0.15
    seed: Seed = 0

    @property
    def fractions(self) -> dict[str, float]:
        """Split name -> its fraction of the photos."""
        return {"train": self.train, "val": self.val, "test": self.test}

    @model_validator(mode="after")
    def _fractions_sum_to_one(self) -> Self:
        total = self.train + self.val + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(f"train + val + test = {self.train} + {self.val} + {self.test} = {total:g}, but must be 1")
        return self


class Backbone(Section):
    """Which network, and what it starts from."""

    name: str = "tf_efficientnet_lite0"
    weights: Annotated[str, Field(min_length=1)] = "package"

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if ":" not in name and not name.startswith("torchvision/") and name.split(".")[0] not in _registered_in_timm_source():
            _ask_timm(name)
        return name


class Head(Section):
    """The classifier that replaces the backbone's own."""

    type: Literal["linear", "mlp"] = "linear"
    hidden: Annotated[list[Count], Field(min_length=1)] | None = None
    norm: Literal["none", "batch", "layer"] | None = None
    activation: str | None = None
    dropout: FractionOrZero | None = None
    initialisation: str | None = None

    @model_validator(mode="after")
    def _has_a_meaning(self) -> Self:
        given = [
            name for name in ("hidden", "norm", "activation", "dropout", "initialisation") if getattr(self, name) is not None
        ]
        if self.type == "linear" and given:
            raise ValueError(f"a linear head is solved and has no {', '.join(given)}: set those to null, or type to mlp")
        return self


class TrainFrozenBackbone(Section):
    """The linear probe: a converged head on the untouched backbone."""

    l2_strengths: Annotated[list[Positive], Field(min_length=1)] = [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0]
    backend: Literal["auto", "openvino", "onnxruntime", "torch"] = "auto"


class UnfreezeFinetune(Section):
    """Fine-tuning from the linear probe."""

    epochs: Literal["auto"] | Count = "auto"
    patience: Count = 3
    batch_size: Count = 32
    optimizer: str = "adamw"
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 5e-4
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.8
    weight_decay: FractionOrZero = 0.02
    warmup_fraction: FractionOrZero = 0.125
    gradient_clipping: Positive | None = None
    gradient_accumulation: Count = 1
    ema_fraction: FractionOrZero = 0.05
    unfrozen_blocks: Literal["auto", "all"] | Count = "auto"
    loss: str = "cross_entropy"
    augmentation: str = "light"
    augmented_copies: Literal["auto"] | Count = "auto"
    seed: Seed = 0

    @field_validator("optimizer")
    @classmethod
    def _timm_has_it(cls, optimizer: str) -> str:
        if optimizer != "adamw":
            from timm.optim import list_optimizers  # takes seconds, which the default need not

            _one_of(optimizer, list_optimizers())
        return optimizer

    # The rooms own these tables, so that a new entry is one file's change.
    @field_validator("augmentation")
    @classmethod
    def _is_an_augmentation(cls, augmentation: str) -> str:
        from pipeline.data.transforms import AUGMENTATIONS

        return _one_of(augmentation, AUGMENTATIONS)

    @field_validator("loss")
    @classmethod
    def _is_a_loss(cls, loss: str) -> str:
        from pipeline.training.losses import LOSSES

        return _one_of(loss, LOSSES)


class Evaluate(Section):
    """What the report says."""

    confidence_level: Fraction = 0.95
    mistakes_shown: Annotated[int, Field(ge=0, le=100)] = 24
    test_time_augmentation: bool = False


class Runtime(Section):
    """Where and how the work runs; never part of a result's key."""

    device: str = "auto"
    processes: Annotated[int, Field(gt=0, le=512)] = 1
    workers: Literal["auto"] | Annotated[int, Field(ge=0, le=512)] = "auto"
    threads: Literal["auto"] | Annotated[int, Field(gt=0, le=512)] = "auto"
    seconds_between_saves: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 30.0
    trackers: list[Literal["tensorboard", "wandb", "mlflow"]] = []

    @field_validator("device")
    @classmethod
    def _is_a_device(cls, device: str) -> str:
        if not re.fullmatch(r"auto|cpu|(cuda|mps|xpu)(:\d+)?", device):
            raise ValueError("should be auto, cpu, cuda, cuda:1, mps or xpu")
        return device


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


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Read and check params.yaml.

    Raises:
        PipelineError: the file is missing, is no YAML, or holds a key or value that is not allowed; every such key is
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
        raise PipelineError("\n  ".join([f"{path} cannot be used:", *_explain_all(error, content)])) from None


def change_params(path: Path, changes: dict[str, Any]) -> None:
    """Change settings in a params.yaml, and leave the rest of the file, its comments too, as it is.

    Args:
        path: the file.
        changes: "section.key" -> value, as `dvc exp run -S section.key=value` has them.
    """
    yaml = YAML()
    content = yaml.load(path.read_text(encoding="utf-8"))
    for key, value in changes.items():
        section, name = key.split(".")
        content[section][name] = value
    with path.open("w", encoding="utf-8") as stream:
        yaml.dump(content, stream)


def _explain_all(error: ValidationError, content: dict[str, Any]) -> list[str]:
    """One line a key: a union such as `auto | int` complains once for each type that it tried."""
    complaints: dict[tuple[int | str, ...], list[Any]] = {}
    for detail in error.errors():
        complaints.setdefault(_keys_of_file(detail["loc"], content), []).append(detail)
    return [_explain(location, details) for location, details in complaints.items()]


def _explain(location: tuple[int | str, ...], details: list[Any]) -> str:
    """Key, value and what is allowed."""
    detail, key = details[0], ".".join(map(str, location)) or "the whole file"
    match detail["type"]:
        case "extra_forbidden" if key in FORMER_KEYS:
            return f"{key}: there is no such setting any more; {FORMER_KEYS[key]}."
        case "extra_forbidden":
            allowed = _allowed_keys(location[:-1])
            near = difflib.get_close_matches(str(location[-1]), allowed, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            return f"{key}: there is no such setting.{hint} Known here: {', '.join(allowed)}."
        case "value_error":
            value = "" if isinstance(detail["input"], dict) else f" = {detail['input']!r}"
            return f"{key}{value}: {detail['ctx']['error']}."
    wanted = " or ".join(detail["msg"].removeprefix("Input should be ").removeprefix("String should ") for detail in details)
    return f"{key} = {detail['input']!r}, but should be {wanted}."


def _keys_of_file(location: tuple[int | str, ...], content: Any) -> tuple[int | str, ...]:
    """The part of pydantic's location that stands in the file: behind it may come the name of the type that was tried."""
    keys: list[int | str] = []
    for key in location:
        if isinstance(content, dict):
            keys.append(key)
            content = content.get(key)
        elif isinstance(content, list) and isinstance(key, int):
            keys.append(key)
            content = content[key]
    return tuple(keys)


def _allowed_keys(location: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = Params
    for key in location:
        annotation = model.model_fields[str(key)].annotation
        assert isinstance(annotation, type)
        assert issubclass(annotation, BaseModel)
        model = annotation
    return list(model.model_fields)


def _registered_in_timm_source() -> set[str]:
    """Names of timm's architectures, read from its source: importing timm takes seconds, and most stages never need it."""
    spec = importlib.util.find_spec("timm")
    if spec is None or not spec.submodule_search_locations:
        raise PipelineError("timm is not installed. Install the project first: pip install uv && uv sync")
    names: set[str] = set()
    for file in Path(spec.submodule_search_locations[0], "models").glob("*.py"):
        names.update(re.findall(r"^@register_model\s+def (\w+)\(", file.read_text(encoding="utf-8"), re.MULTILINE))
    return names


def _ask_timm(name: str) -> None:
    """timm itself has the last word on a name that its source does not show plainly (deprecated aliases, say)."""
    import timm

    if timm.is_model(name):
        return
    near = difflib.get_close_matches(name, timm.list_models(), n=5, cutoff=0.5)
    nearest = f"; the nearest names are {', '.join(near)}" if near else ""
    raise ValueError(f"timm {timm.__version__} knows no such architecture{nearest}")


def _one_of(name: str, known: Any) -> str:
    if name not in known:
        near = difflib.get_close_matches(name, list(known), n=5, cutoff=0.4)
        raise ValueError(f"there is none of this name; {'the nearest are ' if near else 'known: '}{', '.join(near or known)}")
    return name
