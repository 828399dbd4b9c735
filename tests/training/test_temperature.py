"""The temperature undoes a known scaling of logits."""

import pytest
import torch

from pipeline.training.temperature import HIGHEST, fit_temperature


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_a_known_temperature_is_found(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    honest = torch.randn(20_000, 3, generator=generator) * 2
    labels = torch.multinomial(honest.softmax(1), 1, generator=generator)[:, 0]
    assert fit_temperature(honest * scale, labels) == pytest.approx(scale, rel=0.03)


def test_where_all_is_wrong_it_stops_at_the_bound() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    assert fit_temperature(logits, torch.tensor([1, 0])) == pytest.approx(HIGHEST, rel=0.01)


@pytest.mark.parametrize(("num_photos", "num_classes"), [(2, 2), (300, 2), (50, 5)])
def test_where_all_is_right_it_is_no_surer_than_so_many_photos_can_show(num_photos: int, num_classes: int) -> None:
    labels = torch.arange(num_photos) % num_classes
    logits = 3.0 * torch.eye(num_classes)[labels]
    sure = (logits / fit_temperature(logits, labels)).softmax(1).max(1).values
    torch.testing.assert_close(sure, torch.full_like(sure, (num_photos + 1) / (num_photos + 2)), rtol=1e-4, atol=0)
