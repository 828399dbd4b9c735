"""Cached activations: training is the same whatever fits in a cache, and keys hold what decides an activation."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from pipeline.checkpoint import BackboneInfo, Preprocessing
from pipeline.data.dataset import Photos, epoch_order
from pipeline.models import backends
from pipeline.models.ood import Pooled
from pipeline.models.outputs import FeatureExtractor
from pipeline.training import activations
from pipeline.training.activations import SplitNetwork, to_float16
from pipeline.training.features import ChunkedTensor
from tests.refusals import refused
from tests.training import tiny


def test_the_course_of_training_is_the_same_whatever_fits_in_a_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    course = {"epochs": 3, "augmented_copies": 3, "learning_rate": 1e-2}
    in_memory = tiny.train(tmp_path / "one", **course)
    with monkeypatch.context() as reading:
        reading.setattr(ChunkedTensor, "tensor", None)  # of all photos
        on_disk = tiny.train(tmp_path / "two", own=tiny.network(cache=tiny.cache(tmp_path)), **course)
    assert len(list(tmp_path.glob("cache/*"))) == 4  # three copies and the validation photos
    monkeypatch.setattr(activations, "MAX_CACHE_BYTES", 0)
    network = tiny.network(cache=tiny.cache(tmp_path / "three"))
    computed_again = tiny.train(tmp_path / "three", own=network, **course)
    photos = tiny.photos(tmp_path / "three/photos")
    assert network.split
    expected = Pooled()(tiny.logits_of(network.split.frozen, photos.at([7, 2])))
    torch.testing.assert_close(network.pooled_activations("train", photos, [7, 2]), expected, rtol=1e-3, atol=1e-3)
    assert len(list(tmp_path.glob("three/cache/*"))) == 1  # the validation photos, which are always there
    assert "so they are computed again in every epoch" in capsys.readouterr().out
    assert in_memory.choice.candidate.alpha > 0
    for other in (on_disk, computed_again):
        assert other.history == in_memory.history
        torch.testing.assert_close(other.model_state, in_memory.model_state, rtol=0, atol=0)


def test_both_stages_share_the_activations_of_the_photos_as_they_are(tmp_path: Path) -> None:
    photos, network = tiny.photos(tmp_path / "photos"), tiny.network(cache=tiny.cache(tmp_path))
    features = {split: network.features(split, photos) for split in ("train", "val")}
    expected = tiny.logits_of(FeatureExtractor(tiny.model()), photos)
    for path in photos.paths:  # what is cached needs none of them, nor a backend, which would be checked on the first
        path.unlink()

    again = tiny.network(cache=tiny.cache(tmp_path))
    kinds = {"train": torch.float16, "val": torch.float32}
    for split, kind in kinds.items():
        torch.testing.assert_close(features[split], expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(again.features(split, photos), features[split])
        values = again.activations(split, photos)
        assert {chunk.dtype for chunk in values.chunks} == {kind}
        with torch.no_grad():
            outputs = again.trainable.eval()(values.tensor().float())
        torch.testing.assert_close(outputs[:, 2:], expected, rtol=5e-3, atol=5e-3)
    refused(r"000\.jpg cannot be decoded", again.activations, "train", photos, copy_number=1)


def test_what_is_wanted_in_16_bits_is_computed_so_whatever_was_asked_for_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a processor with bfloat16 (here torch's): validation comes first, in float32, and training photos after it."""
    monkeypatch.setattr(backends, "candidates", lambda *_, float32: ["torch" if float32 else "torch bfloat16"])
    monkeypatch.setattr(activations, "candidates", backends.candidates)
    photos = tiny.photos(tmp_path / "photos")
    for first in (True, False):
        network = tiny.network()
        asked = {float32: network.backend(photos, float32=float32) for float32 in (first, not first)}
        assert {float32: backend.name for float32, backend in asked.items()} == {True: "torch", False: "torch bfloat16"}
        assert network.backend(photos, float32=True) is asked[True]


def test_what_float16_cannot_hold_becomes_the_largest_that_it_can() -> None:
    assert to_float16(torch.tensor([1.5, 1e6, -1e6])).tolist() == [1.5, 65504.0, -65504.0]


def test_epochs_go_through_the_copies_at_low_resolution_first_and_the_originals_last(tmp_path: Path) -> None:
    trainer = tiny.trainer(tmp_path, epochs=4, augmented_copies=2, unfrozen_blocks=1)
    batches = [torch.cat([inputs for inputs, _ in trainer._batches(epoch)]) for epoch in range(1, 5)]
    assert [batch.shape[2:] for batch in batches] == 2 * [(3, 3)] + 2 * [(4, 4)]
    for one, other in (batches[:2], batches[2:]):
        assert torch.equal(*(batch.double().sum((1, 2, 3)).sort().values for batch in (one, other)))
        assert not torch.equal(one, other)  # the same copies of the same photos, in another order
    originals = trainer.network.activations("val", trainer.train).tensor()
    assert torch.equal(batches[3], originals.half()[epoch_order(len(originals), seed=0, epoch=4)])


def test_a_network_of_one_input_size_gets_no_low_resolution(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = tiny.network(1, own=timm.create_model("test_vit3", num_classes=2, img_size=64))
    assert "takes photos of one size" in capsys.readouterr().out
    trainer = tiny.trainer(tmp_path, network, epochs=2, augmented_copies=2)
    assert network.split is not None
    assert [trainer.copy_of(epoch) for epoch in (1, 2)] == [(1, False), (0, False)]
    assert len({inputs.shape[1:] for epoch in (1, 2) for inputs, _ in trainer._batches(epoch)}) == 1


def test_a_network_that_cannot_be_split_still_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    own = tiny.Branching()
    stem, head = own.stem.weight.clone(), own.fc.weight.clone()
    network = tiny.network(1, own=own)
    assert network.split is None
    result = tiny.train(tmp_path, own=network, learning_rate=0.05, epochs=4)
    assert "cannot be split" in capsys.readouterr().out
    assert result.choice.candidate.alpha > 0
    assert torch.equal(result.model_state["stem.weight"], stem)
    assert not torch.equal(result.model_state["fc.weight"], head)
    val = tiny.photos(tmp_path / "photos").at(range(16))
    features = network.pooled_activations("val", val, [3, 1])
    whole = tiny.Branching()
    whole.load_state_dict(result.model_state)
    torch.testing.assert_close(features, tiny.logits_of(FeatureExtractor(whole), val.at([3, 1])), rtol=1e-4, atol=1e-5)


def test_other_photos_of_a_split_are_never_taken_for_those_in_the_cache(tmp_path: Path) -> None:
    photos, network = tiny.photos(tmp_path / "photos"), tiny.network(cache=tiny.cache(tmp_path))
    for places in (range(16), range(4, 20)):  # as another seed of the split chooses them
        some = photos.at(places)
        expected = tiny.logits_of(FeatureExtractor(tiny.model()), some)
        torch.testing.assert_close(network.features("train", some), expected, rtol=1e-4, atol=1e-5)
        values = network.activations("train", some).tensor().float()
        with torch.no_grad():
            torch.testing.assert_close(network.trainable.eval()(values)[:, 2:], expected, rtol=5e-3, atol=5e-3)
        network.trainable.train()


def key(
    folder: Path,
    *,
    own: nn.Module | None = None,
    blocks: int = 2,
    preprocessing: Preprocessing = tiny.PREPROCESSING,
    choice: str = "auto",
    photos: str = "a",
    ids: tuple[str, ...] = ("0", "1"),
    augmentation: str = "light",
    processes: int = 1,
) -> str:
    runtime = replace(tiny.RUNTIME, processes=processes)
    network = SplitNetwork(own or tiny.model(), blocks, preprocessing, choice=choice, runtime=runtime)
    network.use_cache(folder, BackboneInfo(name="test_resnet", kwargs={}, weights="none", weights_sha256=None), photos)
    cache = network._cache_of("train", Photos(ids, (), torch.empty(0), ids), 1, 64, [augmentation, 0])
    assert cache
    return cache._folder.name


def test_a_key_holds_what_decides_an_activation_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other_weights, other_head = tiny.model(), tiny.model()
    with torch.no_grad():
        next(other_weights.parameters()).flatten()[0] += 1e-3
        other_head.fc.weight.zero_()
    shutil.copytree(activations.PIPELINE, tmp_path / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(activations, "PIPELINE", tmp_path / "pipeline")
    monkeypatch.setattr(activations, "broadcast", lambda *_: ["the main process's"])
    changes: list[dict[str, Any]] = [{}, {"own": other_weights}, {"photos": "b"}, {"ids": ("0", "2")}, {"blocks": 1}]
    changes += [{"choice": "torch"}, {"augmentation": "strong"}, {"processes": 2}]  # two processes have longer chunks
    changes += [{"preprocessing": tiny.PREPROCESSING.model_copy(update={"interpolation": "bilinear"})}]
    keys = [key(tmp_path, **change) for change in changes]
    assert len(set(keys)) == len(keys)
    for unrelated in ("training/tracking.py", "evaluation/report.py", "models/summary.py"):
        (tmp_path / "pipeline" / unrelated).write_text("# changed")
    monkeypatch.setattr(activations, "hardware", lambda _: ["another's"])
    assert key(tmp_path, own=other_head) == keys[0]
    for deciding in ("data/transforms.py", "models/outputs.py", "models/freezing.py", "training/activations.py"):
        (tmp_path / "pipeline" / deciding).write_text("# changed")
        keys.append(key(tmp_path))
    assert len(set(keys)) == len(keys)
