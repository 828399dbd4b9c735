"""Confident learning finds labels that were flipped on purpose, and counts what it found."""

import numpy as np
import torch

from pipeline.evaluation.label_issues import hold_against, label_issues
from pipeline.training.out_of_fold import out_of_fold


def test_flipped_labels_are_found_the_most_suspicious_first() -> None:
    random = np.random.default_rng(0)
    true = random.integers(3, size=600)
    probabilities = np.full((600, 3), 0.05)
    probabilities[np.arange(600), true] = 0.9
    labels = true.copy()
    flipped = random.choice(600, 30, replace=False)
    labels[flipped] = (true[flipped] + 1) % 3
    probabilities[flipped[0]] = np.eye(3)[true[flipped[0]]]  # the surest contradiction of all
    candidates = label_issues(labels, probabilities)
    assert set(candidates) == set(flipped)
    assert candidates[0] == flipped[0]


def test_a_class_that_the_model_is_never_sure_of_is_not_suspected_as_a_whole() -> None:
    """Predicted right less than half of the time, but no lower than usual for its class: no candidates among the usual."""
    labels = np.array([0] * 50 + [1] * 50)
    second = np.concatenate([np.full(50, 0.1), np.full(50, 0.45)])
    assert len(label_issues(labels, np.stack([1 - second, second], 1))) == 0


def test_finds_are_held_against_the_ledger() -> None:
    doubts = np.array(["", "reversed", "", "both", "reversed", ""], dtype=object)
    found = hold_against(doubts, np.array([1, 2]))
    assert (found.examined, found.candidates, found.doubted, found.found) == (6, 2, 3, 1)
    assert found.by_kind == {"both": (0, 1), "reversed": (1, 2)}
    assert found.recall == 1 / 3
    assert hold_against(np.array(["", ""], dtype=object), np.array([0])).recall is None


def test_planted_errors_are_recalled_by_way_of_heads_that_were_fitted_on_wrong_labels_too() -> None:
    """From features on, as the pipeline goes: 5% of the labels are flipped before any fold is fitted."""
    random = np.random.default_rng(0)
    true = np.arange(400) % 2
    features = random.normal(size=(400, 16)) + np.where(true[:, None] == 1, 3.0, -3.0) * np.eye(16)[0]
    planted = random.choice(400, 20, replace=False)
    labels = true.copy()
    labels[planted] = 1 - true[planted]
    ledger = np.full(400, "", dtype=object)
    ledger[planted] = "reversed"
    groups = [f"photo {index}" for index in range(400)]
    candidates = label_issues(labels, out_of_fold(torch.from_numpy(features), torch.from_numpy(labels), groups, l2=1e-2))
    found = hold_against(ledger, candidates)
    assert found.doubted == 20
    assert found.recall is not None
    assert found.recall >= 0.8
    assert found.candidates <= 30
    assert hold_against(ledger, candidates[:16]).found >= 14
