"""Kernel distance against its definition, and what it says of equal and different sets."""

import pytest
import torch

from acne_lab.metrics.distances import kernel_distance


def test_equals_the_sums_of_the_definition():
    torch.manual_seed(0)
    x, y = torch.randn(5, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)

    def k(a, b):
        return float((a @ b / 3 + 1) ** 3)

    within_x = sum(k(x[i], x[j]) for i in range(5) for j in range(5) if i != j) / 20
    within_y = sum(k(y[i], y[j]) for i in range(4) for j in range(4) if i != j) / 12
    between = sum(k(a, b) for a in x for b in y) / 20
    assert float(kernel_distance(x, y)) == pytest.approx(within_x + within_y - 2 * between)


def test_is_0_on_average_for_one_distribution_and_grows_with_a_shift():
    """Unbiased: the mean over 200 pairs of sets is within 4 of its standard errors of 0."""
    rng = torch.Generator().manual_seed(0)

    def features():
        return torch.randn(30, 8, generator=rng)

    same = torch.stack([kernel_distance(features(), features()) for _ in range(200)])
    assert abs(float(same.mean())) < 4 * float(same.std()) / 200**0.5
    near, far = (kernel_distance(features(), features() + shift) for shift in (0.5, 1.0))
    assert float(same.max()) < float(near) < float(far)
