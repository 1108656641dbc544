"""The refiner's losses against hand computation."""

import math

import pytest
import torch

from acne_lab.edit.losses import (
    SMOOTH,
    discriminator_loss,
    feature_matching,
    generator_loss,
    masked_cells,
    pixel_loss,
    r1_penalty,
)


def softplus(x):
    return math.log1p(math.exp(x))


LOGITS = torch.tensor([[[[1.0, -2.0], [0.5, 3.0]]]])
CELLS = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])


def test_a_cell_is_masked_if_one_of_its_pixels_is():
    mask = torch.zeros(1, 1, 8, 8)
    mask[0, 0, 3, 4] = 1
    assert masked_cells(mask, (2, 2)).tolist() == [[[[0, 1], [0, 0]]]]


def test_generator_loss():
    assert generator_loss(LOGITS, CELLS).item() == pytest.approx((softplus(-1) + softplus(-0.5)) / 2)
    assert generator_loss(LOGITS, torch.zeros_like(CELLS)).item() == 0


def test_discriminator_loss():
    """Photograph and inpainted image are compared in the same cells; no other counts."""
    real = torch.tensor([[[[2.0, -9.0], [0.0, 9.0]]]])
    expected = (softplus(-2) + softplus(0)) / 2 + (softplus(1) + softplus(0.5)) / 2
    assert discriminator_loss(real, LOGITS, CELLS).item() == pytest.approx(expected)


def test_r1_penalty_of_a_linear_score():
    """Two cells of w.x each: the summed score has the gradient 2w."""
    x = torch.randn(3, 2, 1, 1, requires_grad=True)
    w = torch.tensor([3.0, 4.0], requires_grad=True)
    score = (x[:, :, 0, 0] * w).sum(dim=1)
    logits = torch.stack([score, score], dim=1)[:, None, None, :]
    penalty = r1_penalty(logits, x, gamma=0.2)
    assert penalty.item() == pytest.approx(0.1 * 3 * 4 * 25 / 6)
    penalty.backward()
    assert w.grad.tolist() == pytest.approx([0.1 * 3 * 4 * 2 * 3 / 6, 0.1 * 3 * 4 * 2 * 4 / 6])


def test_feature_matching():
    fake, real = [torch.ones(1, 2), torch.full((1, 4), 5.0)], [torch.zeros(1, 2), torch.full((1, 4), 2.0)]
    assert feature_matching(fake, real).item() == pytest.approx((1 + 3) / 2)


def test_pixel_loss():
    target, mask = torch.zeros(1, 3, 1, 4), torch.tensor([[[[1.0, 1.0, 0.0, 0.0]]]])
    image = torch.tensor([0.05, 0.25, 0.45, 0.0]).expand(1, 3, 1, 4)
    errors = [0.05**2 / (2 * SMOOTH), 0.25 - SMOOTH / 2, 0.45 - SMOOTH / 2, 0]
    expected = 5 * (errors[0] + errors[1]) / 2 + (errors[2] + errors[3]) / 2
    assert pixel_loss(image, target, mask, inside=5, outside=1).item() == pytest.approx(expected)
    none = torch.zeros_like(mask)
    assert pixel_loss(image, target, none, inside=5, outside=1).item() == pytest.approx(sum(errors) / 4)
