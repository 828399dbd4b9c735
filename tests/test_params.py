"""params.yaml is checked whole, before any work, and what is wrong is told in one message."""

from pathlib import Path

import pytest
import timm
from ruamel.yaml import YAML

from pipeline.errors import PipelineError
from pipeline.params import load_params

ROOT = Path(__file__).resolve().parents[1]


def changed(tmp_path: Path, **values: object) -> Path:
    """A copy of the project's params.yaml with some values changed; keys are written section__key."""
    yaml = YAML()
    content = yaml.load((ROOT / "params.yaml").read_text())
    for key, value in values.items():
        section, name = key.split("__")
        content[section][name] = value
    path = tmp_path / "params.yaml"
    yaml.dump(content, path)
    return path


def test_the_projects_own_params_are_valid_and_every_setting_has_a_comment() -> None:
    params = load_params(ROOT / "params.yaml")
    assert params.download.source == "drawn"
    for line in (ROOT / "params.yaml").read_text().splitlines():
        if line.startswith("  "):
            assert " # " in line, f"no comment: {line}"


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("unfreeze_finetune__epocs", 3, ["unfreeze_finetune.epocs", "no such setting", "Did you mean epochs?"]),
        ("unfreeze_finetune__learning_rate", 0, ["unfreeze_finetune.learning_rate = 0", "greater than 0"]),
        ("unfreeze_finetune__learning_rate", "fast", ["unfreeze_finetune.learning_rate = 'fast'", "a valid number"]),
        ("unfreeze_finetune__epochs", 2.5, ["unfreeze_finetune.epochs = 2.5", "a valid integer"]),
        (
            "unfreeze_finetune__unfrozen_blocks",
            "some",
            ["unfreeze_finetune.unfrozen_blocks = 'some'", "'auto' or 'all' or a valid integer"],
        ),
        ("preprocess__test", 0.3, ["preprocess: train + val + test = 0.7 + 0.15 + 0.3", "must be 1"]),
        ("backbone__name", "resnet81", ["backbone.name", "'resnet81'", "resnet18"]),
        ("download__sha256", "abc", ["download.sha256 = 'abc'", "64 hexadecimal digits"]),
        ("download__mirrors", [], ["download.mirrors", "no such setting any more"]),
        ("preprocess__label_doubts", "keep", ["preprocess.label_doubts", "no such setting any more"]),
        ("train_frozen_backbone__engine", "auto", ["train_frozen_backbone.engine", "it is called backend now"]),
        ("unfreeze_finetune__views", 4, ["unfreeze_finetune.views", "it is called augmented_copies now"]),
        ("head__dropout", 0.1, ["head: a linear head is solved and has no dropout"]),
        ("unfreeze_finetune__optimizer", "adamq", ["unfreeze_finetune.optimizer = 'adamq'", "adamw"]),
        ("unfreeze_finetune__augmentation", "lite", ["unfreeze_finetune.augmentation = 'lite'", "light"]),
        ("runtime__device", "gpu", ["runtime.device", "'gpu'", "cuda"]),
        ("evaluate__confidence_level", True, ["evaluate.confidence_level = True", "a valid number"]),
        ("train_frozen_backbone__l2_strengths", [1.0, -1.0], ["train_frozen_backbone.l2_strengths.1 = -1.0", "greater than 0"]),
    ],
)
def test_a_mistake_is_told_with_key_value_and_what_is_allowed(tmp_path: Path, key: str, value: object, told: list[str]) -> None:
    with pytest.raises(PipelineError) as caught:
        load_params(changed(tmp_path, **{key: value}))
    for part in told:
        assert part in str(caught.value)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    path = changed(tmp_path, unfreeze_finetune__epochs=0, preprocess__stored_size="big", backbone__name="resnet81")
    with pytest.raises(PipelineError) as caught:
        load_params(path)
    assert len(str(caught.value).splitlines()) == 4


@pytest.mark.parametrize("text", ["", "- a list\n", "download: [", "download: drawn\n"])
def test_a_file_that_holds_no_params_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(PipelineError, match=r"params\.yaml"):
        load_params(path)


def test_a_number_as_dvc_reads_it(tmp_path: Path) -> None:
    path = changed(tmp_path)
    path.write_text(path.read_text().replace("layer_decay: 0.8", "layer_decay: 8e-1"))
    assert load_params(path).unfreeze_finetune.layer_decay == 0.8



def test_a_tag_or_an_old_name_that_timm_takes_is_taken(tmp_path: Path) -> None:
    assert load_params(changed(tmp_path, backbone__name="resnet18.a1_in1k")).backbone.name == "resnet18.a1_in1k"
