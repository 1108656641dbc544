"""Losses and the moving average against closed forms."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from acne_lab.gan.ema import ema_beta, update_ema
from acne_lab.gan.losses import (
    discriminator_loss,
    generator_loss,
    path_length_penalty,
    path_lengths,
    r1_penalty,
)


def test_logistic_losses():
    real, fake = torch.tensor([[2.0], [-1.0]]), torch.tensor([[0.5], [-3.0]])

    def sigmoid(x):
        return 1 / (1 + math.exp(-x))

    assert generator_loss(fake) == pytest.approx(-(math.log(sigmoid(0.5)) + math.log(sigmoid(-3))) / 2)
    expected = (
        -(math.log(sigmoid(2)) + math.log(sigmoid(-1)) + math.log(1 - sigmoid(0.5)) + math.log(1 - sigmoid(-3))) / 2
    )
    assert discriminator_loss(real, fake) == pytest.approx(expected)


def test_r1_of_a_linear_discriminator():
    weight = torch.randn(3, 4, 4)
    images = torch.randn(5, 3, 4, 4, requires_grad=True)
    logits = (images * weight).sum(dim=(1, 2, 3))
    assert r1_penalty(logits, images, gamma=10.0) == pytest.approx(5 * float(weight.square().sum()), rel=1e-5)


def test_path_length_of_a_linear_generator():
    """G(w) = a w (one number a pixel of a 1 x 1 image): |J^T y| = |a y|, y ~ N(0, 1)."""
    torch.manual_seed(0)
    ws = torch.randn(20000, 1, 1, requires_grad=True)
    lengths = path_lengths(3 * ws[:, :, :, None], ws, torch.randn(20000, 1, 1, 1))
    assert lengths.square().mean() == pytest.approx(9, rel=0.03)


def test_path_length_is_normed_over_w_and_averaged_over_layers():
    """G(w) = A w with A [C, H, W, num_ws, w_dim]: J^T y is a matrix product, y scaled by the number of pixels."""
    torch.manual_seed(0)
    matrix, noise = torch.randn(3, 4, 5, 6, 7).double(), torch.randn(2, 3, 4, 5).double()
    ws = torch.randn(2, 6, 7, dtype=torch.float64, requires_grad=True)
    lengths = path_lengths(torch.einsum("chwld,nld->nchw", matrix, ws), ws, noise)
    gradient = (noise.flatten(1) / math.sqrt(4 * 5)) @ matrix.flatten(3).flatten(0, 2).flatten(1)
    expected = (gradient.reshape(2, 6, 7).norm(dim=2) ** 2).sum(dim=1) / 6
    torch.testing.assert_close(lengths, expected.sqrt())


def test_gradients_of_the_regularisers():
    """Backward through them, against finite differences in the weights of small nonlinear networks."""
    torch.manual_seed(0)
    images = torch.randn(3, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    ws = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    noise = torch.randn(3, 2, 4, 4, dtype=torch.float64)

    def r1(first, last):
        return r1_penalty((images.flatten(1) @ first).tanh() @ last, images, gamma=10.0)

    def lengths(first, last):
        return path_lengths(((ws.flatten(1) @ first).tanh() @ last).reshape(noise.shape), ws, noise)

    def weights(*shape):
        return (torch.randn(shape, dtype=torch.float64) / 4).requires_grad_()

    assert gradcheck(r1, (weights(32, 5), weights(5, 1)))
    assert gradcheck(lengths, (weights(8, 5), weights(5, 32)))


def test_path_length_penalty():
    lengths, mean = torch.tensor([1.0, 3.0]), torch.tensor(0.5)
    assert path_length_penalty(lengths, mean) == pytest.approx(2 * ((1 - 0.5) ** 2 + (3 - 0.5) ** 2) / 2)


def test_ema_half_life():
    beta = ema_beta(batch_size=10, images_seen=10**9, ema_kimg=2.0)
    assert beta ** (2000 / 10) == pytest.approx(0.5)
    early = ema_beta(batch_size=10, images_seen=1000, ema_kimg=2.0)
    assert early ** (50 / 10) == pytest.approx(0.5)
    average, network = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    expected = 0.75 * average.weight + 0.25 * network.weight
    update_ema(average, network, 0.75)
    torch.testing.assert_close(average.weight, expected)
