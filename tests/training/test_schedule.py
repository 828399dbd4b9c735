"""The learning rate climbs to its peak and falls to nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.training.schedule import learning_rate


@given(st.integers(2, 2000), st.integers(0, 1000), st.floats(1e-6, 1.0))
def test_it_climbs_then_falls_within_its_bounds(total: int, warmup: int, peak: float) -> None:
    warmup = min(warmup, total - 1)
    rates = [learning_rate(step, total_steps=total, warmup_steps=warmup, peak=peak) for step in range(total)]
    assert rates[warmup] == pytest.approx(peak)
    assert all(0 < rate <= peak * (1 + 1e-12) for rate in rates)
    assert rates[: warmup + 1] == sorted(rates[: warmup + 1])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
