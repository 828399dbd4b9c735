"""Every example of docs/extend.md does what the page says, in a clone, and touches as many files as it says."""

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.clones import ROOT, SMALL, clone, run, set_params

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # each example runs stages in a clone
LONGEST = 600
PAGE = (ROOT / "docs/extend.md").read_text(encoding="utf-8")
QUICK = {**SMALL, "download.drawn_photos": 120, "unfreeze_finetune.epochs": 1, "runtime.workers": 0}


def example(name: str) -> str:
    """The code that stands below a marker of the page."""
    found = re.search(rf"<!-- {re.escape(name)} -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert found, f"docs/extend.md has no example {name}"
    return found[1]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone that has come to the frozen checkpoint."""
    folder = clone(tmp_path_factory.mktemp("clones") / "base")
    set_params(folder, QUICK)
    for stage in ("download", "preprocess", "train-frozen-backbone"):
        run(folder, "python", "-m", "pipeline", stage)
    return folder


@pytest.fixture
def folder(base: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(base, tmp_path / "clone", symlinks=True))


def append(file: Path, code: str) -> None:
    file.write_text(f"{file.read_text(encoding='utf-8')}\n\n{code}", encoding="utf-8")


def stage(folder: Path, *names: str) -> str:
    return "".join(run(folder, "python", "-m", "pipeline", name, longest=LONGEST).stdout for name in names)


@pytest.mark.parametrize(
    ("name", "file", "changes"),
    [
        ("an optimizer", None, {"unfreeze_finetune.optimizer": "lamb"}),
        ("augmentation", "pipeline/data/transforms.py", {"unfreeze_finetune.augmentation": "upright"}),
        ("loss", "pipeline/training/losses.py", {"unfreeze_finetune.loss": "smoothed_cross_entropy"}),
    ],
)
def test_fine_tuning_takes_it(folder: Path, name: str, file: str | None, changes: dict[str, object]) -> None:
    if file:
        append(folder / file, example(name))
    set_params(folder, changes)
    assert "epoch 1" in stage(folder, "unfreeze-finetune")


@pytest.mark.parametrize("name", ["my_network:build", "torchvision/resnet18"])
def test_a_network_of_ones_own_or_of_torchvision_goes_all_the_way(folder: Path, name: str) -> None:
    (folder / "my_network.py").write_text(example("network: my_network.py"))
    set_params(folder, {"backbone.name": name, "backbone.weights": "none"})
    stage(folder, "preprocess", "train-frozen-backbone", "unfreeze-finetune", "evaluate")
    photo = next((folder / "data/raw/PetImages/Cat").glob("1*.jpg"))
    [answer] = json.loads(run(folder, "python", "-m", "pipeline", "predict", str(photo), "--format", "json").stdout)
    assert answer["label"] in ("Cat", "Dog")


def test_another_source_of_ones_own_network_is_refused_and_dvc_knows(folder: Path) -> None:
    module = folder / "my_network.py"
    module.write_text(example("network: my_network.py"))
    set_params(folder, {"backbone.name": "my_network:build", "backbone.weights": "none"})
    stage(folder, "inputs", "preprocess", "train-frozen-backbone")
    before = (folder / "data/inputs/network.json").read_text()
    module.write_text(module.read_text().replace("nn.ReLU()", "nn.GELU()"))
    done = run(folder, "python", "-m", "pipeline", "unfreeze-finetune", check=False)
    assert done.returncode == 1
    assert "my_network" in done.stderr
    assert "Traceback" not in done.stderr
    stage(folder, "inputs")
    assert (folder / "data/inputs/network.json").read_text() != before


def test_a_metric_is_in_metrics_and_report(folder: Path) -> None:
    append(folder / "pipeline/evaluation/metrics.py", example("metric"))
    stage(folder, "unfreeze-finetune", "evaluate")
    metrics = json.loads((folder / "outputs/evaluation/metrics.json").read_text())
    assert -1 <= metrics["finetuned"]["cohen_kappa"] <= 1
    assert "Cohen" in (folder / "outputs/evaluation/report.html").read_text(encoding="utf-8")


def test_a_layout_is_recognised(folder: Path, tmp_path: Path) -> None:
    append(folder / "pipeline/download/layouts.py", example("layout"))
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("Cat", "Dog"):
        for file in sorted((folder / "data/raw/PetImages" / name).glob("*.jpg"))[:20]:
            shutil.copy(file, photos / f"{name}__{file.name}")
    set_params(folder, {"download.source": str(photos)})
    assert "40 files" in stage(folder, "download")


def test_a_head_type_is_trained(folder: Path) -> None:
    append(folder / "pipeline/models/head.py", example("head"))
    schema = folder / "pipeline/params.py"
    schema.write_text(schema.read_text().replace('Literal["linear", "mlp"]', 'Literal["linear", "mlp", "gated"]'))
    set_params(folder, {"head.type": "gated", "head.hidden": [32]})
    stage(folder, "train-frozen-backbone", "unfreeze-finetune", "evaluate")
    checkpoint = json.loads((folder / "outputs/finetuned/checkpoint.json").read_text())
    assert checkpoint["head"]["type"] == "gated"
