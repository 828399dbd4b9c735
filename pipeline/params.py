"""The schema of params.yaml: what can be set, of which type, within which bounds.

    params = load_params()                 # reads params.yaml of the current folder
    params.unfreeze_finetune.epochs

Every stage reads the whole file first, so a mistake in any section stops the work before it begins, whichever stage runs
next. What is wrong is told in one `PipelineError`: the key, the value and what is allowed.
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

Share = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Count = Annotated[int, Field(gt=0)]


class Section(BaseModel):
    """A section of params.yaml: immutable, its keys and types taken literally."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Download(Section):
    """Where the photos come from."""

    source: Annotated[str, Field(min_length=1)]
    sha256: str | None
    mirrors: list[str]
    drawn_photos: Annotated[int, Field(ge=60)]
    seed: Seed

    @field_validator("sha256")
    @classmethod
    def _is_a_sha256(cls, sha256: str | None) -> str | None:
        if sha256 is not None and not re.fullmatch("[0-9a-f]{64}", sha256):
            raise ValueError("should be null or 64 hexadecimal digits in lower case")
        return sha256

    @field_validator("mirrors")
    @classmethod
    def _are_addresses(cls, mirrors: list[str]) -> list[str]:
        if bad := [mirror for mirror in mirrors if not mirror.startswith(("http://", "https://"))]:
            raise ValueError(f"should be http(s) addresses, which {bad[0]!r} is not")
        return mirrors

    @model_validator(mode="after")
    def _mirrors_fit_the_source(self) -> Self:
        if self.mirrors and not (self.source == "microsoft" or self.source.startswith(("http://", "https://"))):
            raise ValueError(f"mirrors are for a source with an address, not for {self.source}: set mirrors to []")
        secure = not self.source.startswith("http://")
        if insecure := [mirror for mirror in self.mirrors if secure and mirror.startswith("http://")]:
            raise ValueError(f"the mirror {insecure[0]} would be a step down from HTTPS: give its https address")
        return self


class Preprocess(Section):
    """How photos are stored, and shared out between training, validation and test."""

    stored_size: Annotated[int, Field(ge=32, le=2048)]
    train: Share
    val: Share
    test: Share
    seed: Seed
    label_doubts: Literal["keep", "drop"]

    @property
    def fractions(self) -> dict[str, float]:
        """Split name -> its share of the photos."""
        return {"train": self.train, "val": self.val, "test": self.test}

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> Self:
        total = self.train + self.val + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(f"train + val + test = {self.train} + {self.val} + {self.test} = {total:g}, but must be 1")
        return self


class Backbone(Section):
    """Which network, and what it starts from."""

    name: str
    weights: Annotated[str, Field(min_length=1)]

    @field_validator("name")
    @classmethod
    def _timm_knows_it(cls, name: str) -> str:
        if name.split(".")[0] not in _registered_in_timm_source():
            _ask_timm(name)
        return name


class TrainFrozenBackbone(Section):
    """The linear probe: a converged head on the untouched backbone."""

    l2_strengths: Annotated[list[Positive], Field(min_length=1)]
    engine: Literal["auto", "openvino", "onnxruntime", "torch"]


class UnfreezeFinetune(Section):
    """Fine-tuning from the probe."""

    epochs: Literal["auto"] | Count
    patience: Count
    batch_size: Count
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    layer_decay: Annotated[float, Field(gt=0, le=1)]
    weight_decay: Annotated[float, Field(ge=0, lt=1)]
    warmup_share: Annotated[float, Field(ge=0, lt=1)]
    ema_share: Annotated[float, Field(ge=0, lt=1)]
    unfrozen_blocks: Literal["auto", "all"] | Count
    augmentation: Literal["light", "medium", "strong"]
    views: Literal["auto"] | Count
    seed: Seed


class Evaluate(Section):
    """What the report says."""

    confidence: Share
    mistakes_shown: Annotated[int, Field(ge=0, le=100)]
    test_time_augmentation: bool


class Runtime(Section):
    """Where and how the work runs; never part of a result's key."""

    device: str
    processes: Annotated[int, Field(gt=0, le=512)]
    workers: Literal["auto"] | Annotated[int, Field(ge=0, le=512)]
    threads: Literal["auto"] | Annotated[int, Field(gt=0, le=512)]
    seconds_between_saves: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    trackers: list[Literal["tensorboard", "wandb"]]

    @field_validator("device")
    @classmethod
    def _is_a_device(cls, device: str) -> str:
        if not re.fullmatch(r"auto|cpu|(cuda|mps|xpu)(:\d+)?", device):
            raise ValueError("should be auto, cpu, cuda, cuda:1, mps or xpu")
        return device


class Params(Section):
    """The whole of params.yaml."""

    download: Download
    preprocess: Preprocess
    backbone: Backbone
    train_frozen_backbone: TrainFrozenBackbone
    unfreeze_finetune: UnfreezeFinetune
    evaluate: Evaluate
    runtime: Runtime


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
        case "extra_forbidden":
            allowed = _allowed_keys(location[:-1])
            near = difflib.get_close_matches(str(location[-1]), allowed, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            return f"{key}: there is no such setting.{hint} Known here: {', '.join(allowed)}."
        case "missing":
            return f"{key}: this setting is missing; put it back, with a value."
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
