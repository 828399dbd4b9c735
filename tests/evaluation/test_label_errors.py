"""Confident learning finds labels that were flipped on purpose, and counts what it found."""

import numpy as np

from pipeline.evaluation.label_errors import hold_against, label_errors


def test_flipped_labels_are_found_the_most_suspicious_first() -> None:
    random = np.random.default_rng(0)
    true = random.integers(3, size=600)
    probabilities = np.full((600, 3), 0.05)
    probabilities[np.arange(600), true] = 0.9
    labels = true.copy()
    flipped = random.choice(600, 30, replace=False)
    labels[flipped] = (true[flipped] + 1) % 3
    probabilities[flipped[0]] = np.eye(3)[true[flipped[0]]]  # the surest contradiction of all
    candidates = label_errors(labels, probabilities)
    assert set(candidates) == set(flipped)
    assert candidates[0] == flipped[0]


def test_a_class_that_the_model_is_never_sure_of_is_not_suspected_as_a_whole() -> None:
    """Predicted right less than half of the time, but no lower than usual for its class: no candidates among the usual."""
    labels = np.array([0] * 50 + [1] * 50)
    second = np.concatenate([np.full(50, 0.1), np.full(50, 0.45)])
    assert len(label_errors(labels, np.stack([1 - second, second], 1))) == 0


def test_finds_are_held_against_the_ledger() -> None:
    doubts = np.array(["", "reversed", "", "both", "reversed", ""], dtype=object)
    found = hold_against(doubts, np.array([1, 2]))
    assert (found.examined, found.candidates, found.doubted, found.found) == (6, 2, 3, 1)
    assert found.by_kind == {"both": (0, 1), "reversed": (1, 2)}
    assert found.recall == 1 / 3
    assert hold_against(np.array(["", ""], dtype=object), np.array([0])).recall is None
