"""The learning rate climbs to its peak and falls to nothing; epochs go through the views in order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.training.schedule import learning_rate, view_of_epoch


@given(st.integers(2, 2000), st.integers(0, 1000), st.floats(1e-6, 1.0))
def test_it_climbs_then_falls_within_its_bounds(total: int, warmup: int, peak: float) -> None:
    warmup = min(warmup, total - 1)
    rates = [learning_rate(step, total_steps=total, warmup_steps=warmup, peak=peak) for step in range(total)]
    assert rates[warmup] == pytest.approx(peak)
    assert all(0 < rate <= peak * (1 + 1e-12) for rate in rates)
    assert rates[: warmup + 1] == sorted(rates[: warmup + 1])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)


@given(st.integers(1, 40), st.integers(1, 40))
def test_every_view_has_its_epochs_smaller_ones_first_and_the_unchanged_last(epochs: int, views: int) -> None:
    views = min(views, epochs)
    taken = [view_of_epoch(epoch, epochs=epochs, views=views) for epoch in range(1, epochs + 1)]
    assert {number for number, _ in taken} == set(range(views))
    assert taken[-1] == (0, False)
    assert [smaller for _, smaller in taken] == sorted((smaller for _, smaller in taken), reverse=True)
    assert len({number for number, smaller in taken if smaller}) == views // 2
    turns = [number or views for number, _ in taken]
    assert turns == sorted(turns)
