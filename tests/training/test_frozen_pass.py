"""One pass for two stages: what each would have computed by itself, bit for bit, or else nothing beside the features."""

from functools import partial
from pathlib import Path

import pytest
import timm
import torch

from pipeline.data.dataset import Photos
from pipeline.models.freezing import set_trainable
from pipeline.runtime import ResolvedRuntime
from pipeline.training import frozen_pass as frozen_pass_module
from pipeline.training.features import FeatureExtractor, Kept, backend_for, run_over
from pipeline.training.frozen_pass import frozen_pass
from pipeline.training.task import Task
from pipeline.training.trunk import build_trunk
from tests.training import tiny
from tests.training.test_trunk import task

ENGINE = "openvino"
RUNTIME = ResolvedRuntime(torch.device("cpu"), 0, 2, bfloat16=False, seconds_between_saves=0)
BLOCKS = 2


def network(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=2).eval()


@pytest.fixture
def photos(tmp_path: Path) -> Photos:
    return tiny.photos(tmp_path / "photos", count=16)


@pytest.mark.parametrize("name", ["test_resnet", "mobilenetv2_035", "mobilenetv3_small_050", "resnet18"])
def test_features_stay_as_they_are_and_the_cut_is_that_of_fine_tuning(name: str, photos: Photos, tmp_path: Path) -> None:
    model = network(name)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    learning = [parameter.requires_grad for parameter in model.parameters()]
    run = frozen_pass(model, BLOCKS, photos, tiny.PREPROCESSING, choice=ENGINE, runtime=RUNTIME)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert [parameter.requires_grad for parameter in model.parameters()] == learning

    plain = backend_for(FeatureExtractor(model), photos, tiny.PREPROCESSING, choice=ENGINE, runtime=RUNTIME)
    over = partial(run_over, photos=photos, preprocessing=tiny.PREPROCESSING, runtime=RUNTIME, description="testing")
    both, beside = over(run, kept=Kept(tmp_path / "kept", part="features"), beside=Kept(tmp_path / "kept", part="cut")), None
    assert torch.equal(both.values, over(plain.run).values)

    beside = torch.cat(Kept(tmp_path / "kept", part="cut").read())
    settings = tiny.settings(unfrozen_blocks=BLOCKS)
    given = Task(photos, photos, tiny.PREPROCESSING, settings, RUNTIME, ENGINE)
    set_trainable(model, BLOCKS)
    trunk = build_trunk(model.train(), given)
    assert trunk is not None
    assert torch.equal(beside, trunk.val)
    assert torch.equal(beside, trunk.view(0))


def test_a_cut_that_would_be_too_large_or_is_none_is_left_to_fine_tuning(
    photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = torch.zeros(3, *tiny.PREPROCESSING.input_size[1:], 3, dtype=torch.uint8)
    model = network("test_resnet")
    for blocks in ("all", 0):
        run = frozen_pass(model, blocks, photos, tiny.PREPROCESSING, choice=ENGINE, runtime=RUNTIME)  # type: ignore[arg-type]
        assert isinstance(run(pixels), torch.Tensor)
    monkeypatch.setattr(frozen_pass_module, "LARGEST", 1)
    run = frozen_pass(model, 1, photos, tiny.PREPROCESSING, choice=ENGINE, runtime=RUNTIME)
    assert isinstance(run(pixels), torch.Tensor)


def test_the_first_view_is_the_photos_as_they_are(tmp_path: Path) -> None:
    given = task(tmp_path, unfrozen_blocks=1)
    model = tiny.network()
    set_trainable(model, 1)
    trunk = build_trunk(model.train(), given)
    assert trunk is not None
    assert torch.equal(trunk.view(0)[:16], trunk.val)
