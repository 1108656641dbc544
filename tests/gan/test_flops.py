"""Floating point operations, against counts by hand. That a training step does no others is tested with the module."""

import pytest
import torch

from acne_lab.gan.discriminator import Discriminator
from acne_lab.gan.flops import PHASES, FlopCounter, generation_flops, training_flops
from acne_lab.gan.generator import Generator
from acne_lab.gan.layers import Conv2d, FullyConnected
from acne_lab.gan.losses import r1_penalty
from acne_lab.ops.modulated_conv import modulated_conv2d
from acne_lab.ops.upfirdn2d import setup_filter

N, IN, OUT, SIDE = 2, 5, 7, 8
PRODUCTS = 9 * IN * OUT  # of a 3x3 convolution, at one position of one image


def networks(**arguments):
    size = {"img_resolution": 8, "channel_base": 64, "channel_max": 8, **arguments}
    with torch.device("meta"):
        return Generator(**size, z_dim=8, w_dim=8, num_mapping_layers=2), Discriminator(**size)


@pytest.mark.parametrize(
    ("layer", "flops"),
    [
        (Conv2d(IN, OUT, 3, act="lrelu"), 2 * N * SIDE**2 * PRODUCTS),
        (Conv2d(IN, OUT, 3, down=2), 2 * N * (SIDE // 2) ** 2 * PRODUCTS),  # without the filter
        (Conv2d(IN, OUT, 1, down=2), 2 * N * (SIDE // 2) ** 2 * IN * OUT),
    ],
)
def test_a_convolution(layer, flops):
    """Its gradients, for input and weights, cost as much as itself each; nobody asks for the first layer's input."""
    for wanted, times in ((False, 2), (True, 3)):
        x = torch.randn(N, IN, SIDE, SIDE, requires_grad=wanted)
        with FlopCounter() as counter:
            layer(x).sum().backward()
        assert counter.flops == {32: times * flops}


def test_an_up_sampling_modulated_convolution():
    """It convolves at the lower resolution; the demodulation is a product of [N, in] and [in, out]."""
    x, weight, styles = torch.randn(N, IN, SIDE, SIDE), torch.randn(OUT, IN, 3, 3), torch.randn(N, IN)
    with FlopCounter() as counter:
        modulated_conv2d(x, weight, styles, setup_filter((1, 3, 3, 1)), up=2)
    assert counter.flops == {32: 2 * N * SIDE**2 * PRODUCTS + 2 * N * IN * OUT}


def test_a_dense_layer_and_16_bit():
    with FlopCounter() as counter:
        FullyConnected(IN, OUT)(torch.randn(N, IN))
        FullyConnected(IN, OUT)(torch.randn(N, IN, dtype=torch.bfloat16))
    assert counter.flops == {32: 2 * N * IN * OUT, 16: 2 * N * IN * OUT}


def test_r1_needs_four_times_a_linear_network():
    """Forward, the gradient for the images, and of that the gradients for its signal and for the weights."""
    first, second = (Conv2d(IN, IN, 3, bias=False) for _ in range(2))
    head = torch.randn(IN, 1, 1, requires_grad=True)
    images = torch.randn(N, IN, SIDE, SIDE, requires_grad=True)
    with FlopCounter() as counter:
        penalty = r1_penalty((second(first(images)) * head).sum(dim=(1, 2, 3)), images, gamma=1.0)
        torch.autograd.grad(penalty, [first.weight, second.weight, head])
    assert counter.flops == {32: 4 * 2 * (2 * N * SIDE**2 * 9 * IN * IN)}


def test_phases_grow_with_the_batch():
    """And the path length penalty with half of it."""
    G, D = networks()
    four, eight = training_flops(G, D, 4), training_flops(G, D, 8)
    assert tuple(four) == PHASES
    for phase in PHASES:
        assert eight[phase][32] == 2 * four[phase][32] > 0
    assert generation_flops(G, 8)[32] == 2 * generation_flops(G, 4)[32]
    # G, D and D's gradient for images are within 2 and 4 of a generated batch; G's gradients are 2 more
    assert 4 < four["G main"][32] / generation_flops(G, 4)[32] < 7


def test_regularisation_is_in_32_bit():
    of_phase = training_flops(*networks(num_half_res=4), 4)
    assert [set(of_phase[phase]) for phase in PHASES] == [{16, 32}, {32}, {16, 32}, {32}]


def test_labels_are_counted():
    size = {"img_resolution": 8, "channel_base": 64, "channel_max": 8, "c_dim": 3}
    with torch.device("meta"):
        G, D = Generator(**size, z_dim=8, w_dim=8, num_mapping_layers=2), Discriminator(**size)
    plain = training_flops(*networks(), 4)
    assert all(flops[32] > plain[phase][32] for phase, flops in training_flops(G, D, 4).items())
