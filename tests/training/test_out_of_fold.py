"""Out-of-fold probabilities do not know the label that they speak of."""

import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.training.out_of_fold import out_of_fold


def test_a_memorised_label_does_not_flatter_and_a_true_pattern_does() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 2
    noise = torch.randn(200, 300, generator=generator)
    groups = [str(index) for index in range(200)]
    of_noise = out_of_fold(noise, labels, groups, l2=1e-4)  # 300 numbers can tell any 200 photos apart
    assert of_noise.shape == (200, 2)
    assert of_noise.sum(1) == pytest.approx(1)
    assert 0.3 < (of_noise.argmax(1) == labels.numpy()).mean() < 0.7
    pattern = noise[:, :10] + 5 * labels[:, None]
    assert (out_of_fold(pattern, labels, groups, l2=1e-2).argmax(1) == labels.numpy()).mean() > 0.95


def test_duplicates_are_never_in_two_folds() -> None:
    """Each photo stands twice, with a feature of its own that gives the label away: a twin in training would tell it."""
    labels = (torch.arange(40) * 7 % 3 == 0).long().repeat_interleave(2)
    features = torch.eye(40).repeat_interleave(2, 0) * 10
    together = out_of_fold(features, labels, [str(index // 2) for index in range(80)], l2=1e-3)
    apart = out_of_fold(features, labels, [str(index) for index in range(80)], l2=1e-3)
    right = labels.numpy()
    assert (apart.argmax(1) == right).mean() > 0.85
    assert (together.argmax(1) == right).mean() < 0.8


def test_a_class_of_one_photo_is_told() -> None:
    with pytest.raises(PipelineError, match="single photo"):
        out_of_fold(torch.randn(5, 2), torch.tensor([0, 0, 0, 1, 1]), ["a", "b", "c", "d", "d"], l2=1.0)
