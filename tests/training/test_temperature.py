"""The temperature undoes a known scaling of logits."""

import pytest
import torch

from pipeline.training.temperature import HIGHEST, LOWEST, fit_temperature


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_a_known_temperature_is_found(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    honest = torch.randn(20_000, 3, generator=generator) * 2
    labels = torch.multinomial(honest.softmax(1), 1, generator=generator)[:, 0]
    assert fit_temperature(honest * scale, labels) == pytest.approx(scale, rel=0.03)


def test_where_all_is_right_or_wrong_it_stops_at_the_bounds() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    assert LOWEST <= fit_temperature(logits, torch.tensor([0, 1])) < 2 * LOWEST  # sure enough that the loss is nil
    assert fit_temperature(logits, torch.tensor([1, 0])) == pytest.approx(HIGHEST, rel=0.01)
