"""Confident learning finds labels that were flipped on purpose."""

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.checkpoint import SolvedBlock
from pipeline.evaluation.error_analysis import label_issues
from pipeline.evaluation.metrics import Scores
from pipeline.training.probe import Labelled, out_of_fold


def test_flipped_labels_are_found_the_least_probable_first() -> None:
    random = np.random.default_rng(0)
    true = random.integers(3, size=600)
    probabilities = np.full((600, 3), 0.05)
    probabilities[np.arange(600), true] = 0.9
    labels = true.copy()
    flipped = random.choice(600, 30, replace=False)
    labels[flipped] = (true[flipped] + 1) % 3
    probabilities[flipped[0]] = np.eye(3)[true[flipped[0]]]  # the most confident contradiction of all
    issues = label_issues(pd.DataFrame({"id": range(600)}), Scores(labels, probabilities, ("a", "b", "c"), 0.95))
    assert set(issues["id"]) == set(flipped)
    assert issues["id"].iloc[0] == flipped[0]
    assert issues["likely"].tolist() == np.array(["a", "b", "c"])[true[issues["id"]]].tolist()
    assert issues["probability"].tolist() == [1.0] + [0.9] * 29


def test_a_class_that_is_always_predicted_with_low_confidence_is_no_candidate_as_a_whole() -> None:
    """Predicted correctly less than half of the time, but no lower than usual for its class."""
    labels = np.array([0] * 50 + [1] * 50)
    second = np.concatenate([np.full(50, 0.1), np.full(50, 0.45)])
    scores = Scores(labels, np.stack([1 - second, second], 1), ("a", "b"), 0.95)
    assert label_issues(pd.DataFrame({"id": range(100)}), scores).empty


def test_the_likely_class_is_never_the_label_itself() -> None:
    """Of a rare class the model is never sure: what reaches its threshold is a candidate, though another is more probable."""
    labels = np.array([0] * 50 + [1] * 10)
    first = np.concatenate([np.full(49, 0.95), [0.65], np.full(10, 0.7)])
    scores = Scores(labels, np.stack([first, 1 - first], 1), ("cat", "dog"), 0.95)
    issues = label_issues(pd.DataFrame({"id": range(60)}), scores)
    assert issues[["id", "likely"]].to_numpy().tolist() == [[49, "dog"]]
    assert issues["probability"].tolist() == pytest.approx([0.35])


def test_planted_errors_are_found_although_heads_were_fitted_on_wrong_labels_too() -> None:
    """From features on, as the pipeline goes: 5% of the labels are flipped before any fold is fitted."""
    random = np.random.default_rng(0)
    true = np.arange(400) % 2
    features = random.normal(size=(400, 16)) + np.where(true[:, None] == 1, 3.0, -3.0) * np.eye(16)[0]
    planted = random.choice(400, 20, replace=False)
    labels = true.copy()
    labels[planted] = 1 - true[planted]
    groups = [f"photo {index}" for index in range(400)]
    solved = [SolvedBlock(width=features.shape[1], l2=1e-2)]
    probabilities = out_of_fold(Labelled(torch.from_numpy(features), torch.from_numpy(labels), groups), solved).exp().numpy()
    candidates = label_issues(pd.DataFrame({"id": range(400)}), Scores(labels, probabilities, ("a", "b"), 0.95)).index
    assert len(set(candidates) & set(planted)) >= 16
    assert len(candidates) <= 30
    assert len(set(candidates[:16]) & set(planted)) >= 14
