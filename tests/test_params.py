"""params.yaml is checked whole, before any work, and one message says what is wrong."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.params import FORMER_KEYS, PARAMS_FILE, Evaluate, Params, change_params, load_params, settings_sha256
from tests.clones import ROOT


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A copy of the project's params.yaml."""
    (tmp_path / PARAMS_FILE).write_bytes((ROOT / PARAMS_FILE).read_bytes())
    return tmp_path / PARAMS_FILE


def told(path: Path) -> str:
    with pytest.raises(PipelineError) as caught:
        load_params(path)
    return str(caught.value)


def test_every_setting_has_a_comment_which_a_change_leaves(path: Path) -> None:
    nulls = path.read_text().count(": null ")
    change_params(path, {"backbone.name": "tf_efficientnet_b0_ns", "backbone.weights": "pretrained"})
    assert load_params(path).backbone.name == "tf_efficientnet_b0.ns_jft_in1k"  # as timm calls it now
    assert path.read_text().count(": null ") == nulls
    for line in path.read_text().splitlines():
        if line.startswith("  "):
            assert " # " in line, f"no comment: {line}"


def test_a_section_that_is_missing_can_be_set(path: Path) -> None:
    path.write_text("download:\n  source: drawn  # mine\n")
    change_params(path, {"backbone.name": "resnet18", "backbone.weights": "none"})
    assert load_params(path).backbone.name == "resnet18"
    assert path.read_text().startswith("download:\n  source: drawn  # mine\n")


@pytest.mark.parametrize(
    ("key", "value", "parts"),
    [
        ("unfreeze_finetune.epocs", 3, ["unfreeze_finetune.epocs", "no such setting", "Did you mean epochs?"]),
        ("unfreeze_finetune.learning_rate", 0, ["unfreeze_finetune.learning_rate = 0", "greater than 0"]),
        ("unfreeze_finetune.learning_rate", "fast", ["unfreeze_finetune.learning_rate = 'fast'", "a valid number"]),
        ("unfreeze_finetune.unfrozen_blocks", "some", ["unfrozen_blocks = 'some'", "'auto' or 'all' or a valid integer"]),
        ("preprocess.test", 0.3, ["preprocess: train + val + test = 0.7 + 0.15 + 0.3", "must be 1"]),
        ("backbone.name", "resnet81", ["backbone.name", "'resnet81'", "resnet18"]),
        (
            "backbone.name",
            "resnet18.a4_in1k",
            ["backbone.name = 'resnet18.a4_in1k'", "it has resnet18.a1_in1k, resnet18.a2_in1k,"],
        ),
        ("backbone.name", "resnet18", ["backbone: a package has weights of", "not of resnet18; set weights to pretrained"]),
        ("backbone.crop", "centre", ["backbone.crop = 'centre'", "'model', 'squash' or 'pad'"]),
        ("download.sha256", "abc", ["download.sha256 = 'abc'", "[0-9a-f]{64}"]),
        ("head.dropout", 0.1, ["head: a linear head is solved and has no dropout"]),
        ("unfreeze_finetune.optimizer", "adamq", ["unfreeze_finetune.optimizer = 'adamq'", "adamw"]),
        ("unfreeze_finetune.optimizer", "adahessian", ["there is none of this name"]),  # of second order
        ("unfreeze_finetune.optimizer", "bnbadam8bit", ["there is none of this name"]),  # of a package that is not installed
        ("unfreeze_finetune.augmentation", "lite", ["unfreeze_finetune.augmentation = 'lite'", "light"]),
        ("unfreeze_finetune.loss", "crossentropy", ["unfreeze_finetune.loss = 'crossentropy'", "cross_entropy"]),
        ("runtime.device", "gpu", ["runtime.device = 'gpu'", "cuda"]),
        ("evaluate.confidence_level", True, ["evaluate.confidence_level = True", "a valid number"]),
        ("backbone.name", ["resnet18", "resnet81"], ["backbone.name.1 = 'resnet81': there is none of this name"]),
        ("backbone.weights", ["none", "none"], ["as many as there are names"]),
        (
            "backbone.name",
            ["tf_efficientnet_lite0", "tf_efficientnet_lite0"],
            ["\n  several backbones are not fine-tuned: set unfreeze_finetune.epochs to auto or 0"],
        ),
        *((key, 1, [f"{key}: there is no such setting any more; {advice}"]) for key, advice in FORMER_KEYS.items()),
    ],
)
def test_a_mistake_is_told_with_key_value_and_what_is_allowed(path: Path, key: str, value: object, parts: list[str]) -> None:
    change_params(path, {"unfreeze_finetune.epochs": 3, key: value})
    message = told(path)
    assert len(message.splitlines()) == 2
    for part in parts:
        assert part in message


def test_all_mistakes_are_told_at_once(path: Path) -> None:
    change_params(path, {"unfreeze_finetune.epochs": -1, "preprocess.stored_size": "big", "backbone.name": "resnet81"})
    path.write_text(path.read_text() + "\nevaluation: {}\n")
    message = told(path)
    assert len(message.splitlines()) == 5
    assert "evaluation: there is no such setting. Did you mean evaluate?" in message


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18.tv_in1k", "vit_tiny_patch16_224.augreg_in21k"])
def test_a_name_that_timm_has_is_known_without_importing_timm(name: str) -> None:
    code = f"from pipeline.params import Backbone; Backbone(name={name!r}, weights='none'); import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "timm" not in done.stdout.split()


@pytest.mark.parametrize("text", ["", "- a list\n", "download: [", "download: drawn\n"])
def test_a_file_that_holds_no_params_is_refused(path: Path, text: str) -> None:
    path.write_text(text)
    assert "params.yaml" in told(path)


def test_a_number_as_dvc_reads_it(path: Path) -> None:
    path.write_text(path.read_text().replace("layer_decay: 0.8", "layer_decay: 8e-1"))
    assert load_params(path).unfreeze_finetune.layer_decay == 0.8


def test_a_setting_that_is_added_changes_the_hash_of_no_earlier_params_yaml(path: Path) -> None:
    class LaterEvaluate(Evaluate):
        added: int = 1

    class LaterParams(Params):
        evaluate: LaterEvaluate = LaterEvaluate()

    listed = load_params(path).model_dump()
    earlier = settings_sha256(Params.model_validate(listed))
    assert settings_sha256(LaterParams.model_validate(listed)) == earlier
    listed["runtime"]["workers"] = 7
    assert settings_sha256(Params.model_validate(listed)) == earlier, "no result depends on it"
    listed["evaluate"]["confidence_level"] = 0.9
    assert settings_sha256(Params.model_validate(listed)) != earlier
