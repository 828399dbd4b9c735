"""What is familiar to a network: all but a hundredth of the validation photos, and both ways to learn it agree."""

from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from pipeline.models.freezing import set_trainable
from pipeline.runtime import ResolvedRuntime
from pipeline.training.ood import fit_ood_detector
from pipeline.training.task import Task
from pipeline.training.trunk import Trunk, build_trunk
from pipeline.training.tuned_ood import ood_detector_of
from tests.training import tiny


def test_the_threshold_passes_nearly_all_of_the_validation_photos_and_nothing_far_away() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(600) % 3
    features = torch.randn(600, 8, generator=generator) + 5 * torch.eye(3, 8)[labels]
    val = torch.randn(500, 8, generator=generator) + 5 * torch.eye(3, 8)[torch.arange(500) % 3]
    ood = fit_ood_detector(features, labels, val)
    assert (ood.scores(val) > 1).float().mean() == pytest.approx(0.01, abs=0.003)
    assert (ood.scores(50 * torch.ones(4, 8)) > 1).all()
    assert (ood.scores(ood.means) == 0).all()


def task_with(folder: Path, *, unfrozen_blocks: int) -> Task:
    photos = tiny.photos(folder / "photos")
    runtime = ResolvedRuntime(torch.device("cpu"), 0, torch.get_num_threads(), bfloat16=False, seconds_between_saves=0)
    return Task(photos, photos[:16], tiny.PREPROCESSING, tiny.settings(unfrozen_blocks=unfrozen_blocks), runtime)


def trunk_of(model: nn.Module, task: Task) -> Trunk:
    set_trainable(model, task.settings.unfrozen_blocks)
    trunk = build_trunk(model.train(), task)
    assert trunk is not None
    model.eval()
    return trunk


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext", "vit_tiny_patch16_224"])
def test_what_frozen_blocks_gave_says_the_same_as_the_whole_network(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    size = {"img_size": 64} if name.startswith("vit") else {}
    model = timm.create_model(name, num_classes=2, **size)
    task = task_with(tmp_path, unfrozen_blocks=1)
    trunk = trunk_of(model, task)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.mul_(1.1)  # what has been learnt since
    one, other = ood_detector_of(model, task, trunk), ood_detector_of(model, task, None)
    # Equal but for the float16 of what crosses the cut.
    torch.testing.assert_close(one.means, other.means, rtol=0.01, atol=0.01)
    torch.testing.assert_close(one.threshold, other.threshold, rtol=0.05, atol=0)


def test_what_was_cut_elsewhere_is_not_taken_for_it(tmp_path: Path) -> None:
    model = tiny.network()
    of_another = trunk_of(model, task_with(tmp_path, unfrozen_blocks=2))
    task = task_with(tmp_path, unfrozen_blocks=1)
    one, other = ood_detector_of(model.eval(), task, of_another), ood_detector_of(model, task, None)
    for name, tensor in one.tensors().items():
        assert torch.equal(tensor, other.tensors()[name])
