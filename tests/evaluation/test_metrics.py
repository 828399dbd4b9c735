"""Metrics, intervals, curves and calibration against values that were worked out by hand or are published."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score

from pipeline.evaluation.metrics import POINTS, Scores, wilson


def scores_of(labels: list[int] | np.ndarray, probabilities: np.ndarray, level: float = 0.95) -> Scores:
    return Scores(np.asarray(labels), probabilities, tuple("abcdefgh"[: probabilities.shape[1]]), level)


def binary(first: list[float]) -> np.ndarray:
    values = np.array(first)
    return np.stack([values, 1 - values], 1)


def made_up(classes: int, count: int = 300) -> Scores:
    random = np.random.default_rng(0)
    labels = np.arange(count) % classes
    probabilities = random.dirichlet(np.ones(classes), count)
    probabilities[np.arange(count), labels] += 0.3
    return scores_of(labels, probabilities / probabilities.sum(1, keepdims=True))


def test_two_classes() -> None:
    scores = scores_of([0, 0, 1, 1], binary([0.9, 0.4, 0.2, 0.3]))
    metrics = scores.metrics
    assert metrics["accuracy"] == metrics["balanced_accuracy"] == 0.75
    assert metrics["log_loss"] == pytest.approx(-np.log([0.9, 0.4, 0.8, 0.7]).mean())
    assert metrics["brier"] == pytest.approx(np.square([0.1, 0.6, 0.2, 0.3]).mean())
    assert metrics["roc_auc"] == metrics["pr_auc"] == 1.0
    assert metrics["f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert scores.confusion.tolist() == [[1, 1], [0, 2]]
    assert scores.mistakes.tolist() == [1]


def test_more_than_two_classes() -> None:
    labels = np.array([0, 1, 2, 2])
    probabilities = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.5, 0.3, 0.2]])
    metrics = scores_of(labels, probabilities).metrics
    assert metrics["accuracy"] == 0.75
    assert metrics["roc_auc"] == 1.0  # each class is ranked above the rest, although one prediction is wrong
    assert metrics["brier"] == pytest.approx((3 * (0.04 + 0.01 + 0.01) + 0.25 + 0.09 + 0.64) / 4)
    assert metrics["log_loss"] == pytest.approx(log_loss(labels, probabilities))


def test_precision_recall_f1_and_support_of_each_class() -> None:
    table = scores_of([0, 0, 0, 1, 1, 2], np.eye(3)[[0, 0, 1, 1, 1, 0]]).per_class
    assert [row["support"] for row in table.values()] == [3, 2, 1]
    assert [row["precision"] for row in table.values()] == pytest.approx([2 / 3, 2 / 3, 0])
    assert [row["recall"] for row in table.values()] == pytest.approx([2 / 3, 1, 0])
    assert [row["f1"] for row in table.values()] == pytest.approx([2 / 3, 4 / 5, 0])
    assert (table["a"]["recall_low"], table["a"]["recall_high"]) == wilson(2, 3, 0.95)
    assert (table["c"]["precision_low"], table["c"]["precision_high"]) == (0, 1)  # never predicted


def test_the_interval_is_wilsons() -> None:
    """81 of 263 gives 0.2553 to 0.3662 (Newcombe, Statistics in Medicine, 1998, table I)."""
    scores = scores_of([0] * 81 + [1] * 182, np.tile([0.9, 0.1], (263, 1)))
    assert scores.accuracy_interval == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert scores.metrics["balanced_accuracy"] == 0.5


@given(st.integers(1, 500), st.data())
def test_the_interval_holds_the_proportion_and_narrows_with_more_photos(total: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, total))
    low, high = wilson(correct, total, 0.95)
    assert 0 <= low <= correct / total <= high <= 1
    lower, higher = wilson(10 * correct, 10 * total, 0.95)
    assert higher - lower < high - low


@pytest.mark.parametrize("classes", [2, 4])
def test_the_area_under_the_curve_is_the_metric(classes: int) -> None:
    scores = made_up(classes)
    x, y = scores.roc.to_numpy().T
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    pairs = (scores.labels[:, None] == np.arange(classes)).ravel(), scores.probabilities.ravel()
    assert np.trapezoid(y, x) == pytest.approx(scores.metrics["roc_auc"] if classes == 2 else roc_auc_score(*pairs))
    recall, precision = scores.precision_recall.to_numpy().T
    assert (recall[0], precision[0], recall[-1]) == (0, 1, 1)
    assert (np.diff(recall) >= 0).all()


def test_curves_of_many_predictions_have_no_more_points_than_a_picture_shows() -> None:
    labels = np.random.default_rng(0).integers(0, 2, 20_000)
    chances = np.clip(0.5 + (labels - 0.5) * 0.2 + np.random.default_rng(1).normal(size=20_000) * 0.1, 0, 1)
    scores = scores_of(labels, np.stack([1 - chances, chances], 1))
    for curve, metric in ((scores.roc, "roc_auc"), (scores.precision_recall, "pr_auc")):
        x, y = curve.to_numpy().T
        assert len(x) == POINTS
        assert (x[0], x[-1]) == (0, 1)
        assert np.trapezoid(y, x) == pytest.approx(scores.metrics[metric], abs=2e-3)


def test_curves_of_many_perfect_predictions_keep_their_corner() -> None:
    random, labels = np.random.default_rng(0), np.arange(20_000) % 2
    chances = 0.6 * labels + 0.3 * random.random(20_000)
    scores = scores_of(labels, np.stack([1 - chances, chances], 1))
    assert scores.roc.to_numpy().tolist() == [[0, 0], [0, 1], [1, 1]]
    assert scores.precision_recall.to_numpy()[:2].tolist() == [[0, 1], [1, 1]]


def test_the_ece_is_the_weighted_distance_of_the_bins() -> None:
    """Four predictions at 0.95, three right; six at 0.65, all right: 4/10 · 0.2 + 6/10 · 0.35."""
    scores = scores_of([0, 0, 0, 1] + [0] * 6, binary([0.95] * 4 + [0.65] * 6))
    assert scores.reliability["photos"].tolist() == [6, 4]
    assert scores.reliability["accuracy"].tolist() == [1.0, 0.75]
    assert scores.metrics["ece"] == pytest.approx(0.4 * 0.2 + 0.6 * 0.35)
    assert scores_of([0, 1], np.eye(2)).metrics["ece"] == 0


def test_a_confident_mistake_costs_what_kaggle_charges() -> None:
    assert scores_of([0, 1], binary([0.0, 0.0])).log_losses == pytest.approx([34.5, 0.0], abs=0.05)
