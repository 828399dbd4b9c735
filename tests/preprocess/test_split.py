"""Splits: disjoint, complete, by group, and unmoved by order and by further photos."""

from collections.abc import Collection

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.errors import PipelineError
from pipeline.preprocess.split import SPLITS, assign_splits

FRACTIONS = {"train": 0.5, "val": 0.25, "test": 0.25}


def manifest_of(groups: list[str], refused: Collection[int] = ()) -> pd.DataFrame:
    """Row i has the i-th group, the class that the group's last character says, and is refused where asked for."""
    return pd.DataFrame(
        {
            "id": [f"photo.{index}" for index in range(len(groups))],
            "class": [f"class{group[-1]}" for group in groups],
            "status": ["refused" if index in refused else "kept" for index in range(len(groups))],
            "group": groups,
        }
    )


# Enough of either class to leave no split empty, whatever else is drawn.
BASE = [f"base{index}.{label}" for index in range(30) for label in "01"]
groups_drawn = st.lists(st.builds("{}.{}".format, st.integers(0, 40), st.sampled_from("01")), max_size=60)


@given(groups=groups_drawn, seed=st.integers(0, 2**40), drawn=st.data())
@settings(deadline=None)
def test_properties(groups: list[str], seed: int, drawn: st.DataObject) -> None:
    refused = drawn.draw(st.sets(st.integers(0, len(groups)), max_size=10))
    manifest = manifest_of(groups + BASE, refused)
    try:
        splits = assign_splits(manifest, FRACTIONS, seed)
    except PipelineError:  # possible, if rarely, with 30 groups
        assume(False)
    usable = manifest["status"] != "refused"
    assert splits.index.equals(manifest.index)
    assert set(splits[usable]) == set(SPLITS)
    assert set(splits[~usable]) <= {""}
    assert (splits[usable].groupby(manifest["group"]).nunique() == 1).all()
    order = drawn.draw(st.permutations(range(len(manifest))))
    pd.testing.assert_series_equal(assign_splits(manifest.iloc[order], FRACTIONS, seed), splits.iloc[order])
    more = pd.concat([manifest_of(drawn.draw(groups_drawn)), manifest], ignore_index=True)
    after = assign_splits(more, FRACTIONS, seed).tail(len(manifest)).reset_index(drop=True)
    pd.testing.assert_series_equal(after, splits)


def test_shares_are_met_within_their_deviation() -> None:
    manifest = manifest_of([f"{index}.{index % 2}" for index in range(20_000)])
    fractions = {"train": 0.7, "val": 0.1, "test": 0.2}
    splits = assign_splits(manifest, fractions, 0)
    for label in ("class0", "class1"):
        counts = splits[manifest["class"] == label].value_counts()
        for split, share in fractions.items():
            assert abs(counts[split] - 10_000 * share) < 4 * np.sqrt(10_000 * share * (1 - share))


def test_another_seed_is_another_split() -> None:
    manifest = manifest_of([f"{index}.{index % 2}" for index in range(1000)])
    same = assign_splits(manifest, FRACTIONS, 0) == assign_splits(manifest, FRACTIONS, 1)
    assert abs(same.mean() - 0.375) < 0.08  # 0.5² + 0.25² + 0.25²


def test_a_split_is_the_same_everywhere_and_always() -> None:
    splits = assign_splits(manifest_of(BASE), FRACTIONS, 0)
    assert splits.head(6).tolist() == ["train", "test", "train", "train", "test", "train"]


def test_a_class_that_a_split_lacks_is_an_error() -> None:
    groups = [*BASE, "lonely.2"]
    with pytest.raises(PipelineError, match=r"No photo of class class2 fell into \w+: there are 1 .*Add photos"):
        assign_splits(manifest_of(groups), FRACTIONS, 0)


def test_nothing_to_split_among_is_an_error() -> None:
    with pytest.raises(PipelineError, match="fell into"):
        assign_splits(manifest_of(["only.0", "only.0"]), FRACTIONS, 0)


@pytest.mark.parametrize(
    "fractions",
    [{"train": 0.5, "val": 0.5}, {"train": 1.0, "val": 0.0, "test": 0.0}, {"train": 0.5, "val": 0.5, "test": 0.5}],
)
def test_shares_that_are_none_are_an_error(fractions: dict[str, float]) -> None:
    with pytest.raises(PipelineError, match="must be above 0 and sum to 1"):
        assign_splits(manifest_of(BASE), fractions, 0)
