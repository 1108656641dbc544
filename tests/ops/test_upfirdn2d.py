"""upfirdn2d against its definition, written as loops, and against finite differences."""

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from acne_lab.ops.upfirdn2d import downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d

CASES = [
    {},
    {"up": 2, "padding": (2, 1, 2, 1), "gain": 4},
    {"down": 2, "padding": (1, 1, 1, 1)},
    {"up": (2, 1), "down": (1, 3), "padding": (3, 0, 2, 4)},
    {"padding": (-1, 2, 2, -2), "flip_filter": True},
    {"up": 3, "down": 2, "padding": (0, 5, 4, 1), "flip_filter": True, "gain": 0.5},
]


def by_definition(x, f, up=1, down=1, padding=0, flip_filter=False, gain=1.0):
    up_x, up_y = (up, up) if isinstance(up, int) else up
    down_x, down_y = (down, down) if isinstance(down, int) else down
    x0, x1, y0, y1 = (padding,) * 4 if isinstance(padding, int) else padding
    n, c, h, w = x.shape
    big = np.zeros((n, c, h * up_y, w * up_x))
    big[:, :, ::up_y, ::up_x] = x
    big = np.pad(big, ((0, 0), (0, 0), (max(y0, 0), max(y1, 0)), (max(x0, 0), max(x1, 0))))
    big = big[:, :, max(-y0, 0) : big.shape[2] - max(-y1, 0), max(-x0, 0) : big.shape[3] - max(-x1, 0)]
    kernel = f if flip_filter else f[::-1, ::-1]
    fh, fw = f.shape
    out_h, out_w = (big.shape[2] - fh) // down_y + 1, (big.shape[3] - fw) // down_x + 1
    out = np.zeros((n, c, out_h, out_w))
    for i in range(out_h):
        for j in range(out_w):
            window = big[:, :, i * down_y : i * down_y + fh, j * down_x : j * down_x + fw]
            out[:, :, i, j] = (window * kernel).sum((2, 3))
    return out * gain


@pytest.mark.parametrize("case", CASES)
def test_equals_the_definition(case):
    torch.manual_seed(0)
    x, f = torch.randn(2, 3, 7, 6, dtype=torch.float64), torch.rand(4, 3)
    y = upfirdn2d(x, f, **case)
    np.testing.assert_allclose(y, by_definition(x.numpy(), f.double().numpy(), **case), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("case", CASES)
def test_first_and_second_gradient(case):
    torch.manual_seed(0)
    x, f = torch.randn(1, 2, 5, 6, dtype=torch.float64, requires_grad=True), torch.rand(4, 3)
    assert gradcheck(lambda x: upfirdn2d(x, f, **case), x)
    assert gradgradcheck(lambda x: upfirdn2d(x, f, **case), x)


def test_separable_filter_equals_its_outer_product():
    x, f = torch.randn(1, 2, 16, 16), torch.rand(9)
    separable = upfirdn2d(x, f, up=2, padding=(4, 4, 5, 3), gain=4)
    torch.testing.assert_close(separable, upfirdn2d(x, f.outer(f), up=2, padding=(4, 4, 5, 3), gain=4))


def test_setup_filter():
    f = setup_filter([1, 3, 3, 1])
    assert f.shape == (4, 4)
    assert f.sum() == pytest.approx(1)
    assert f[0, 1] == pytest.approx(3 / 64)
    assert setup_filter(torch.ones(12)).shape == (12,)


@pytest.mark.parametrize("taps", [(1, 3, 3, 1), tuple(range(1, 13))])
def test_resampling_keeps_size_and_brightness(taps):
    f, x = setup_filter(taps), torch.ones(1, 1, 32, 32)
    assert upsample2d(x, f).shape == (1, 1, 64, 64)
    assert downsample2d(x, f).shape == (1, 1, 16, 16)
    assert filter2d(x, f).shape == x.shape
    for y in (downsample2d(x, f), filter2d(x, f)):
        assert y[0, 0, y.shape[2] // 2, y.shape[3] // 2] == pytest.approx(1, abs=1e-5)
