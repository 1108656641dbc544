"""upfirdn2d, reference and compiled: against its definition, written as loops, and against finite differences."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operands import DTYPES, LAYOUTS, assert_near, copied_images, images
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
IMPLS = ["reference", "native"]
FOUR_TAPS = setup_filter([1, 3, 3, 1])
ANY_TAPS = torch.tensor([[0.3, 0.9, 0.2], [0.5, -0.4, 0.7], [0.1, 0.8, 0.6], [-0.2, 0.4, 0.5]])  # no product


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


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("case", CASES)
def test_equals_the_definition(case, impl):
    torch.manual_seed(0)
    x, f = torch.randn(2, 3, 7, 6, dtype=torch.float64), torch.rand(4, 3)
    y = upfirdn2d(x, f, **case, impl=impl)
    np.testing.assert_allclose(y, by_definition(x.numpy(), f.double().numpy(), **case), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("f", [ANY_TAPS, FOUR_TAPS], ids=["4x3", "four taps"])
@pytest.mark.parametrize("case", CASES)
def test_first_and_second_gradient(case, f, impl):
    torch.manual_seed(0)
    x = torch.randn(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: upfirdn2d(x, f, **case, impl=impl), x)
    assert gradgradcheck(lambda x: upfirdn2d(x, f, **case, impl=impl), x)


@pytest.mark.parametrize("impl", IMPLS)
def test_separable_filter_equals_its_outer_product(impl):
    x, f = torch.randn(1, 2, 16, 16), torch.rand(9)
    separable = upfirdn2d(x, f, up=2, padding=(4, 4, 5, 3), gain=4, impl=impl)
    torch.testing.assert_close(separable, upfirdn2d(x, f.outer(f), up=2, padding=(4, 4, 5, 3), gain=4, impl=impl))


def taps_of(kind, fh, fw):
    """A filter [fh, fw]: the networks' own, another product of two vectors, or none."""
    rng = torch.Generator().manual_seed(1)
    match kind:
        case "four taps":
            return FOUR_TAPS
        case "product":
            return torch.randn(fh, generator=rng).outer(torch.randn(fw, generator=rng))
        case "symmetric":
            f = torch.randn(fw, generator=rng)
            return f.outer(f)
        case "any":
            return torch.randn(fh, fw, generator=rng)
    raise AssertionError(kind)


def fitting(padding, size, taps):
    """(before, after), changed so that something is left of `size` pixels, for a filter of so many taps."""
    before = max(padding[0], 1 - size)
    after = max(padding[1], 1 - size - min(before, 0), taps - size - before)
    return before, after


RESAMPLING = [
    ((1, 1), (1, 1)),
    ((2, 2), (1, 1)),
    ((1, 1), (2, 2)),
    ((2, 1), (1, 1)),
    ((1, 2), (2, 1)),
    ((3, 2), (2, 3)),
]


@settings(max_examples=300, deadline=None)
@given(
    n=st.integers(0, 2),
    channels=st.sampled_from([1, 2, 3, 5, 16, 40]),
    size=st.tuples(st.integers(1, 9), st.integers(1, 40)),
    dtype=DTYPES,
    layout=LAYOUTS,
    kind=st.sampled_from(["four taps", "four taps", "product", "symmetric", "any"]),
    taps=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    resampling=st.sampled_from(RESAMPLING),
    padding=st.tuples(*[st.integers(-3, 7)] * 4),
    flip_filter=st.booleans(),
    gain=st.sampled_from([1.0, 4.0, -0.5]),
)
def test_equals_the_reference(n, channels, size, dtype, layout, kind, taps, resampling, padding, flip_filter, gain):
    x = images((n, channels, *size), dtype, layout)
    f, (up, down) = taps_of(kind, *taps), resampling
    x0, x1 = fitting(padding[:2], size[1] * up[0], f.shape[1])
    y0, y1 = fitting(padding[2:], size[0] * up[1], f.shape[0])
    arguments = {"up": up, "down": down, "padding": (x0, x1, y0, y1), "flip_filter": flip_filter, "gain": gain}
    y = upfirdn2d(x, f, **arguments, impl="native")
    exact = upfirdn2d(x.double(), f.double(), **arguments, impl="reference")
    assert y.dtype == dtype
    sums = f.double().abs().sum().item() * abs(gain) * 4  # of the largest inputs: what roundings are a share of
    torch.testing.assert_close(y.double(), exact, rtol=2 * EPS[dtype], atol=sums * min(EPS[dtype], 1e-6))


EPS = {torch.float64: 1e-15, torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}


@pytest.mark.parametrize("resampling", RESAMPLING)
@pytest.mark.parametrize("f", [FOUR_TAPS, ANY_TAPS], ids=["four taps", "any"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_numbers_that_are_none_spread_as_far_as_the_filter(layout, f, resampling):
    up, down = resampling
    x = images((1, 20, 9, 21), torch.float32, layout)
    x[0, 3, 4, 5], x[0, 4, 0, 0], x[0, 5, 8, 20], x[0, 6, 2, 2] = (float(v) for v in ("nan", "inf", "-inf", "inf"))
    x[0, 6, 3, 2] = -float("inf")
    results = [upfirdn2d(x, f, up=up, down=down, padding=(2, 2, 2, 2), impl=impl) for impl in IMPLS]
    torch.testing.assert_close(*results, equal_nan=True, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 40, 61, 67), (3, 3, 129, 130), (2, 200, 20, 21), (1, 1, 300, 301)])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("resampling", RESAMPLING[:3])
def test_large_images_shared_by_threads(shape, layout, resampling):
    x, (up, down) = images(shape, torch.float32, layout), resampling
    arguments = {"up": up, "down": down, "padding": (2, 1, 1, 2)}
    y = upfirdn2d(x, FOUR_TAPS, **arguments, impl="native")
    exact = upfirdn2d(x.double(), FOUR_TAPS, **arguments, impl="reference")
    assert_near(y, exact, torch.float32)
    assert y.is_contiguous(memory_format=torch.channels_last if layout == "NHWC" else torch.contiguous_format)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3 - min(threads, 2))
        assert torch.equal(upfirdn2d(x, FOUR_TAPS, **arguments, impl="native"), y)
    finally:
        torch.set_num_threads(threads)


def test_a_filter_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        upfirdn2d(torch.ones(1, 1, 2, 2), FOUR_TAPS, impl="native")


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


@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "crop of NCHW", "crop of NHWC", "transposed"])
def test_parts_of_images_are_read_where_they_are(layout):
    """Only where the pixels of a row do not lie side by side there is a copy."""
    x = images((2, 20, 9, 21), torch.float32, layout)
    copies = copied_images(lambda: upfirdn2d(x, FOUR_TAPS, up=2, padding=(2, 1, 2, 1), impl="native"), x)
    assert len(copies) == (layout == "transposed")
