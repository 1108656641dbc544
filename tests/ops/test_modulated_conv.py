"""Modulated convolution: in float16 nothing overflows, whatever the size of weights and styles."""

import pytest
import torch

from acne_lab.ops.modulated_conv import modulated_1x1, modulated_conv2d
from acne_lab.ops.upfirdn2d import setup_filter

F = setup_filter((1, 3, 3, 1))


def operands(*, num_in=64, size=8):
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(2, num_in, size, size, generator=rng)
    weight = torch.randn(6, num_in, 3, 3, generator=rng)
    styles = torch.randn(2, num_in, generator=rng) + 1
    return x, weight, styles


@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("weight_size", [1, 1e-4, 1e5])
@pytest.mark.parametrize("style_size", [1, 1e-3, 1e5])
def test_half_precision_has_the_values_of_single_precision(up, weight_size, style_size):
    """Demodulation makes the result independent of both sizes, but for its epsilon."""
    x, weight, styles = operands()
    weight, styles = weight * weight_size, styles * style_size
    full = modulated_conv2d(x, weight, styles, F, up=up)
    half = modulated_conv2d(x.half(), weight, styles, F, up=up)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), full, atol=4e-3 * float(full.std()), rtol=4e-3)


@pytest.mark.parametrize("up", [1, 2])
def test_the_largest_input_does_not_overflow(up):
    """The inputs and signs that make the largest sums: 512 channels, all at the clamp of 256, all in phase."""
    x = torch.full((1, 512, 4, 4), 256.0)
    weight, styles = torch.ones(1, 512, 3, 3), torch.full((1, 512), 3.0)
    half = modulated_conv2d(x.half(), weight, styles, F, up=up)
    torch.testing.assert_close(half.float(), modulated_conv2d(x, weight, styles, F, up=up), rtol=4e-3, atol=1)


def test_zeros_stay_zeros():
    """Weights that are all zero, styles that are, and a channel that only sees weights of zero."""
    x, weight, styles = operands()
    weight[0], styles[0] = 0, 0
    styles[1] = torch.eye(64)[5] * 1e4
    weight[1, 5] = 0
    half = modulated_conv2d(x.half(), weight, styles)
    assert half.isfinite().all()
    assert (half[0] == 0).all() and (half[:, 0] == 0).all() and (half[1, 1] == 0).all()


def test_gradients_in_half_precision():
    x, weight, styles = (t.requires_grad_() for t in operands(num_in=8))
    up = torch.randn(2, 6, 8, 8, generator=torch.Generator().manual_seed(1))
    full = torch.autograd.grad((modulated_conv2d(x, weight, styles) * up).sum(), (x, weight, styles))
    half = torch.autograd.grad((modulated_conv2d(x.half(), weight, styles).float() * up).sum(), (x, weight, styles))
    for one, other in zip(half, full, strict=True):
        torch.testing.assert_close(one, other, atol=5e-3 * float(other.std()), rtol=5e-3)


def test_single_precision_is_scaled_by_nothing():
    """Equation 3 as it stands, to the bit."""
    x, weight, styles = operands()
    y = torch.nn.functional.conv2d(x * styles[:, :, None, None], weight, padding=1)
    d = torch.rsqrt(styles.square() @ weight.square().sum((2, 3)).t() + 1e-8)
    assert torch.equal(modulated_conv2d(x, weight, styles), y * d[:, :, None, None])


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_1x1_has_weights_of_its_own_for_each_image(memory_format):
    x, weight, styles = operands(num_in=8)
    x, weight = x.contiguous(memory_format=memory_format), weight[:, :, :1, :1]
    each = [torch.nn.functional.conv2d(x[i : i + 1], weight * styles[i, None, :, None, None]) for i in range(2)]
    torch.testing.assert_close(modulated_1x1(x, weight, styles), torch.cat(each))
