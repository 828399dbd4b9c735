"""What frozen blocks give, computed once: the same training as through the whole network; left out where it is too large."""

from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch

from pipeline.data.transforms import TrainingTransform, normalise
from pipeline.models.freezing import set_trainable
from pipeline.models.splitting import split_model
from pipeline.runtime import ResolvedRuntime
from pipeline.training import trunk as trunk_module
from pipeline.training.features import Kept
from pipeline.training.finetune import Epoch, Finetuned, Trainer
from pipeline.training.schedule import default_epochs, default_views
from pipeline.training.task import Task
from pipeline.training.trunk import build_trunk, random_images
from tests.training import tiny


def task(folder: Path, **changes: object) -> Task:
    some = tiny.photos(folder / "photos")
    runtime = ResolvedRuntime(torch.device("cpu"), 0, torch.get_num_threads(), bfloat16=False, seconds_between_saves=0)
    return Task(some, some[:16], tiny.PREPROCESSING, tiny.settings(**changes), runtime, "torch")


def trained(folder: Path, **changes: object) -> Finetuned:
    return tiny.train(folder, **changes)


def test_training_on_what_the_frozen_blocks_gave_is_training_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trunk_module, "_smaller", lambda *_: None)
    with_trunk = trained(tmp_path / "with", epochs=3, views=3)
    monkeypatch.setattr(trunk_module, "LARGEST", 1)
    without = trained(tmp_path / "without", epochs=3, views=3)
    assert "so they compute in every step" in capsys.readouterr().out
    # The only difference is that what crosses the cut was rounded to float16.
    same = slice(1, 3)  # of the third epoch, with a trunk, the photos are unchanged
    losses, others = ([epoch.train_loss for epoch in result.history[same]] for result in (with_trunk, without))
    assert losses == pytest.approx(others, rel=0.02)
    for one, other in zip(with_trunk.history[same], without.history[same], strict=True):
        assert one.val_log_loss == pytest.approx(other.val_log_loss, rel=0.02)


def test_epochs_go_through_the_views_smaller_photos_first(tmp_path: Path) -> None:
    trainer = Trainer(tiny.network(), task(tmp_path, epochs=4, views=2, unfrozen_blocks=1))
    assert trainer.trunk is not None
    batches = [torch.cat([inputs for inputs, _ in trainer._batches(epoch)]) for epoch in range(1, 5)]
    assert [batch.shape[2:] for batch in batches] == 2 * [(3, 3)] + 2 * [(4, 4)]
    for one, other in (batches[:2], batches[2:]):
        sums = [batch.double().sum((1, 2, 3)).sort().values for batch in (one, other)]
        assert torch.equal(*sums)  # the same views of the same photos, in another order
        assert not torch.equal(one, other)


def test_a_network_of_one_size_gets_no_smaller_photos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = timm.create_model("test_vit3", num_classes=2, img_size=64)
    trainer = Trainer(model, task(tmp_path, epochs=2, views=2, unfrozen_blocks=1))
    assert "takes photos of one size" in capsys.readouterr().out
    assert trainer.trunk is not None
    assert [trainer.view_of(epoch) for epoch in (1, 2)] == [(1, False), (0, False)]
    shapes = {inputs.shape[1:] for epoch in (1, 2) for inputs, _ in trainer._batches(epoch)}
    assert len(shapes) == 1


def test_patience_begins_with_photos_of_the_own_size(tmp_path: Path) -> None:
    trainer = Trainer(tiny.network(), task(tmp_path, epochs=8, views=8, patience=2))

    def after(epochs: int) -> bool:
        trainer.history = [Epoch(epoch, 0.0, 1.0, 1.0, 0.5, 1.0, float(epoch)) for epoch in range(epochs + 1)]  # ever worse
        return trainer.finished()

    assert [after(epochs) for epochs in range(1, 9)] == 5 * [False] + 3 * [True]


def test_what_is_kept_is_not_computed_again_and_each_photo_is_changed_as_in_its_epoch(tmp_path: Path) -> None:
    given = task(tmp_path, unfrozen_blocks=1)
    kept = Task(
        given.train,
        given.val,
        given.preprocessing,
        given.settings,
        given.runtime,
        given.backend,
        lambda name: partial(Kept, tmp_path / "kept")(values=name),
    )
    model = tiny.network()
    set_trainable(model, 1)
    transform = TrainingTransform(tiny.PREPROCESSING, "light", 0)
    first = build_trunk(model.train(), kept)
    assert first is not None
    view = first.view(2)
    cut = split_model(model, random_images(tiny.PREPROCESSING))
    assert cut is not None
    changed = torch.stack([transform(read(path), 2, path.stem) for path in given.train.paths])
    with torch.no_grad():
        expected = cut.lower(normalise(changed, tiny.PREPROCESSING))
    torch.testing.assert_close(view.float(), expected, rtol=2e-3, atol=2e-3)

    for path in given.train.paths[8:]:  # the backend is checked on the first
        path.unlink()
    again = build_trunk(model, kept)
    assert again is not None
    assert torch.equal(again.val, first.val)
    assert torch.equal(again.view(2), view)
    with pytest.raises(FileNotFoundError):
        again.view(3)


def read(path: Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)


@pytest.mark.parametrize("num_photos", [1, 60, 1_656, 16_167, 10**7])
def test_larger_sets_are_seen_less_often_within_bounds(num_photos: int) -> None:
    assert 2 <= default_views(num_photos) <= default_epochs(num_photos) <= 8
    assert default_epochs(num_photos) >= default_epochs(num_photos + 1000)
