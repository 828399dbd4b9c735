"""The OOD detector: its threshold passes all but a hundredth of the validation photos, and no class is forgotten."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models.ood import MOST_HELD_BACK, OodDetector, Pooled, sample_by_class, score_on_held_back_classes
from tests.refusals import refused


def features(labels: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return torch.randn(len(labels), 8, generator=torch.Generator().manual_seed(seed)) + 5 * torch.eye(3, 8)[labels]


def test_the_threshold_passes_nearly_all_validation_photos_and_nothing_far_away() -> None:
    labels = torch.arange(600) % 3
    val = features(labels[:500], seed=1)
    detector = OodDetector.fit(features(labels), labels, val)
    assert (detector.scores(val) > 1).float().mean() == pytest.approx(0.01, abs=0.003)
    assert (detector.scores(-torch.ones(4, 8)) > 1).all()
    assert (detector.scores(detector.means) < 0.5).all()
    torch.testing.assert_close(detector.scores(3 * val), detector.scores(val))  # brighter is not stranger
    assert torch.equal(OodDetector(**detector._asdict()).scores(val), detector.scores(val))
    assert torch.equal(detector.scores(val[3:5]), detector.scores(val)[3:5])  # however many photos come at once


@pytest.mark.parametrize("of_first", [1, 2])
def test_a_class_of_a_photo_or_two_can_be_held_back_or_remain(of_first: int) -> None:
    labels = torch.cat([torch.zeros(of_first), torch.ones(40)]).long()
    auroc, passed = score_on_held_back_classes(features(labels), labels, features(labels, seed=1), labels)
    assert 0.5 < auroc <= 1
    assert 0 <= passed <= 1


@pytest.mark.parametrize("num_classes", [2, 3, MOST_HELD_BACK + 2])
def test_classes_apart_are_told_apart_when_held_back_and_those_that_are_one_are_not(num_classes: int) -> None:
    labels = torch.arange(600) % num_classes
    noise = torch.randn(600, 8, generator=torch.Generator().manual_seed(0))
    apart = 6 * torch.eye(num_classes, 8)[labels] + noise
    auroc, passed = score_on_held_back_classes(apart[:400], labels[:400], apart[400:], labels[400:])
    assert auroc > 0.99
    assert passed < 0.05
    auroc, passed = score_on_held_back_classes(noise[:400], labels[:400], noise[400:], labels[400:])
    assert 0.4 < auroc < 0.6
    assert passed > 0.85


def test_a_rare_class_is_sampled_and_known() -> None:
    labels = torch.cat([torch.zeros(5000), torch.full((3,), 1), torch.full((5000,), 2)]).long()
    chosen = sample_by_class(labels)
    assert set(range(5000, 5003)) <= set(chosen)
    train = features(labels)
    detector = OodDetector.fit(train[chosen], labels[chosen], train[:500])
    assert torch.isfinite(detector.scores(train)).all()
    assert (detector.scores(train[5000:5003]) < 1.5).all()


@pytest.mark.parametrize(
    ("labels", "value", "match"), [([0, 0, 2, 2], 0.0, "a class has no training photo"), ([0, 1, 2, 2], float("nan"), "finite")]
)
def test_a_class_without_photos_and_broken_features_are_refused(labels: list[int], value: float, match: str) -> None:
    train = features(torch.tensor(labels))
    train[3, 3] += value
    refused(match, OodDetector.fit, train, torch.tensor(labels), train)


@pytest.mark.parametrize("shape", [(2, 5, 4, 4), (2, 4, 4, 4), (2, 5, 3, 4), (2, 4, 4, 5), (2, 9, 5), (2, 5)])
def test_activations_are_averaged_over_positions(shape: tuple[int, ...]) -> None:
    last = len(shape) == 3 or shape == (2, 4, 4, 5)  # Swin's maps, and tokens, have the channels last
    channels = torch.arange(shape[-1 if last else 1]).float()
    by_channel = channels if last else channels.reshape(-1, *[1] * (len(shape) - 2))
    assert torch.equal(Pooled()(by_channel.expand(shape)), channels.expand(2, -1))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=300), st.integers(1, 100))
def test_a_sample_holds_every_class_and_about_as_many_photos_as_asked(labels: list[int], most: int) -> None:
    given_labels = torch.tensor(labels)
    chosen = sample_by_class(given_labels, most)
    assert chosen == sorted(set(chosen))
    sampled = given_labels[chosen].tolist()
    classes = set(labels)
    assert set(sampled) == classes
    assert len(sampled) < most + len(classes)
    for label in classes:
        count, part = labels.count(label), most // len(classes)
        assert sampled.count(label) == count if count <= part else sampled.count(label) > part / 2 - 1
